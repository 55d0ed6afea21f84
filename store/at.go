package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Below the root, everything is reached one name at a time with the *at system calls, relative to a directory that is
// held open and never through a symbolic link. os.Root would follow links that stay inside the root (one planted on
// .depot/upload-token would be served) and costs five more system calls per file.

// retry repeats a system call that a signal interrupted, as package os does.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// openAt opens one name in a directory and never follows a symbolic link.
func openAt(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

func openDirAt(dir int, name string) (int, error) {
	return openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// syncDir makes the names in a directory durable.
func syncDir(fd int) error { return retry(func() error { return unix.Fsync(fd) }) }

// classify adds the sentinel that says what a system call's failure means for the one who asked.
func classify(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) || errors.Is(err, ErrFull) || errors.Is(err, ErrUnavailable) {
		return err
	}
	switch errno {
	case unix.ENOSPC, unix.EDQUOT, unix.EFBIG:
		return fmt.Errorf("%w: %w", ErrFull, err)
	case unix.EIO, unix.EROFS, unix.ESTALE, unix.ENODEV, unix.ENXIO, unix.ENOTCONN, unix.EHOSTDOWN, unix.ETIMEDOUT,
		unix.EACCES, unix.EPERM, unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// readNames lists a directory, unsorted.
func readNames(dir int) ([]string, error) {
	fd, err := openDirAt(dir, ".") // a descriptor with a reading position of its own
	if err != nil {
		return nil, err
	}
	f := newFile(fd, "directory")
	defer f.Close()
	return f.Readdirnames(-1)
}

// newFile gives a descriptor to package os, for Read, Seek, Sync and sendfile.
func newFile(fd int, name string) *os.File { return os.NewFile(uintptr(fd), name) }
