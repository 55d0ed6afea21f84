package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OpenDisk opens the store in a directory, makes what is missing, and removes uploads that dead processes left behind.
func OpenDisk(cfg DiskConfig) (_ *Disk, err error) {
	d := &Disk{state: -1, durable: map[string]inode{}}
	if cfg.Dir == "" {
		return nil, errors.New("Config.Store: no directory is given")
	}
	if d.path, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("Config.Store: %w", err)
	}
	defer func() {
		if err != nil {
			_ = d.Close()
			err = fmt.Errorf("Config.Store: %s: %w%s", d.path, err, remedy(err, d.path))
		}
	}()
	if err := makeRoot(d.path); err != nil {
		return nil, err
	}
	if d.root, err = os.Open(d.path); err != nil {
		return nil, err
	}
	if d.state, err = makeDirAt(d.fd(), stateDir); err != nil {
		return nil, fmt.Errorf("make %s: %w", stateDir, err)
	}
	fd, err := makeDirAt(d.state, "staging")
	if err != nil {
		return nil, fmt.Errorf("make %s/staging: %w", stateDir, err)
	}
	if d.staging, err = openStaging(fd, stagingConfig{named: cfg.NamedStaging, publishes: true}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return d, nil
}

// makeRoot makes the directory and what is missing above it, durably: an artifact is no more durable than its root. The
// directory above is opened first, so that one that cannot be fsynced is found before anything is made in it.
func makeRoot(path string) error {
	above := filepath.Dir(path)
	parent, err := os.Open(above)
	if errors.Is(err, unix.ENOENT) {
		if err := makeRoot(above); err != nil {
			return err
		}
		parent, err = os.Open(above)
	}
	if err != nil {
		if exists(path) {
			return nil // made by someone who may read the directory above, as we may not
		}
		return err
	}
	defer parent.Close()
	err = os.Mkdir(path, 0o755)
	if errors.Is(err, unix.EEXIST) {
		_ = parent.Sync() // for a process that was killed after it made this; some file systems have nothing to sync
		return nil
	}
	if err != nil {
		return err
	}
	return parent.Sync()
}

// makeDirAt opens a private directory, making it durably if it is missing.
func makeDirAt(dir int, name string) (int, error) {
	err := retry(func() error { return unix.Mkdirat(dir, name, 0o700) })
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return openDirAt(dir, name)
}

// remedy says what to type when the directory is someone else's or cannot be written.
func remedy(err error, path string) string {
	switch {
	case errors.Is(err, unix.EACCES) && !exists(path):
		return fmt.Sprintf("; run: install -d -o %d -g %d %s", os.Getuid(), os.Getgid(), path)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Sprintf("; run: chown -R %d:%d %s (for a container: on the host, with the directory that is mounted there; or run it as that directory's owner)", os.Getuid(), os.Getgid(), path)
	case errors.Is(err, unix.EROFS):
		return "; the file system is mounted read-only: mount it read-write, or name another directory"
	case errors.Is(err, unix.ENOTDIR):
		return "; name a directory"
	case errors.Is(err, unix.ENOSPC):
		return "; make room on the file system"
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
