package store

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openUnnamed makes a file that has no name and is gone when it is closed (open(2), O_TMPFILE).
func openUnnamed(dir int, mode uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(dir, ".", unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// linkUnnamed gives an unnamed file a name. Through /proc: AT_EMPTY_PATH needs a capability on older kernels.
func linkUnnamed(f *os.File, dir int, name string) error {
	proc := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	return retry(func() error { return unix.Linkat(unix.AT_FDCWD, proc, dir, name, unix.AT_SYMLINK_FOLLOW) })
}

// preallocate reserves size bytes; a file system that cannot is no error.
func preallocate(f *os.File, size int64) error {
	err := retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}
