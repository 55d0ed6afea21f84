package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// prefix is what the names of staged files begin with, so that sweep knows its own in a directory that others use too.
const prefix = "depot-upload-"

func randomName() string { return prefix + rand.Text() }

// isStagedName reports whether a name is one that randomName makes: nobody calls his own file so.
func isStagedName(name string) bool {
	text, found := strings.CutPrefix(name, prefix)
	return found && len(text) == len(rand.Text()) && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// create makes an empty staged file.
func (s *staging) create() (*staged, error) {
	if s.named {
		return s.createNamed()
	}
	fd, err := openUnnamed(s.dir, s.mode())
	if err != nil {
		return nil, stagingError("make an unnamed file", err)
	}
	return &staged{File: newFile(fd, "staged upload"), in: s}, nil
}

// createNamed makes a file under a random name and holds a lock on it for as long as it is open: that is how sweep,
// in whichever process, tells an upload in progress from a leftover.
func (s *staging) createNamed() (*staged, error) {
	for range 100 {
		name := randomName()
		fd, err := openAt(s.dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, s.mode())
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return nil, stagingError("make a file", err)
		}
		f := &staged{File: newFile(fd, "staged upload"), in: s, name: name}
		var st unix.Stat_t
		if err = lock(fd); err == nil {
			err = unix.Fstat(fd, &st)
		}
		if err == nil && st.Nlink > 0 {
			return f, nil
		}
		// Another process began to sweep between our open and our lock, and took it for a leftover.
		f.discard()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, stagingError("lock a file", err)
		}
	}
	return nil, errors.New("no staged file could be made in 100 attempts: another process keeps removing them")
}

// check reports whether the staging directory is still there.
func (s *staging) check() error {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(s.dir, &st) })
	if err == nil && st.Nlink == 0 {
		err = stagingError("look", unix.ENOENT)
	}
	return err
}

func stagingError(doing string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s in the staging directory: %w: it was removed: restart depot", doing, ErrUnavailable)
	}
	return fmt.Errorf("%s in the staging directory: %w", doing, err)
}

// giveName gives an unnamed file a random, locked name in the staging directory, from where it can be renamed.
func (f *staged) giveName() error {
	if f.name != "" {
		return nil
	}
	if err := lock(int(f.Fd())); err != nil {
		return err
	}
	name := randomName()
	if err := linkUnnamed(f.File, f.in.dir, name); err != nil {
		return err
	}
	f.name = name
	return nil
}

// linkTo gives the file its final name, unless that is taken: then unix.EEXIST. Whoever links first has won.
func (f *staged) linkTo(dir int, name string) error {
	if f.name == "" {
		return linkUnnamed(f.File, dir, name)
	}
	return retry(func() error { return unix.Linkat(f.in.dir, f.name, dir, name, 0) })
}

// replace gives the file its final name in place of another file, atomically.
func (f *staged) replace(dir int, name string) error {
	if err := f.giveName(); err != nil {
		return err
	}
	err := retry(func() error { return unix.Renameat(f.in.dir, f.name, dir, name) })
	if err == nil {
		f.name = ""
	}
	return err
}

// discard closes the file and removes the name it still has in the staging directory, if any. What was published keeps
// its final name.
func (f *staged) discard() {
	if f.File == nil {
		return
	}
	if f.name != "" {
		_ = unix.Unlinkat(f.in.dir, f.name, 0) // what stays is swept at the next start
	}
	_ = f.Close() // written and fsynced, or not wanted
}

// sweep removes the files of processes that have died. A living one holds a lock on each of its own. What belongs to
// someone else is left alone: the directory may be one that everybody writes to.
func (s *staging) sweep() error {
	names, err := readNames(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !isStagedName(name) {
			continue
		}
		fd, err := openAt(s.dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ENOENT) || err != nil && !s.publishes { // others may put there what cannot be opened
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if s.mayRemove(fd) && lock(fd) == nil {
			err = unix.Unlinkat(s.dir, name, 0)
		}
		_ = unix.Close(fd)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// mayRemove reports whether a leftover is ours. A store's own directory has no others.
func (s *staging) mayRemove(fd int) bool {
	var st unix.Stat_t
	return s.publishes || unix.Fstat(fd, &st) == nil && int(st.Uid) == unix.Geteuid() && st.Mode&unix.S_IFMT == unix.S_IFREG
}

func lock(fd int) error {
	return retry(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
}
