package store

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// place is the directory of a key and the ones it is in, open for publishing.
type place struct {
	root, namespace, name int      // descriptors; root is the store's
	unsure                []unsure // names on the way that may not be on disk yet
}

type unsure struct {
	parent int    // descriptor of the directory the name is in
	path   string // in the store
	is     inode  // what has the name
}

// inode tells a directory from another one that was made later under the same name.
type inode struct{ device, number uint64 }

func inodeOf(fd int) (inode, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(fd, &st) })
	return inode{uint64(st.Dev), st.Ino}, err //nolint:unconvert // Dev is signed on macOS
}

func (p *place) close() {
	if p.namespace >= 0 {
		_ = unix.Close(p.namespace)
	}
	if p.name >= 0 {
		_ = unix.Close(p.name)
	}
}

// makeDirs opens the directories for a key, making what is missing.
func (d *Disk) makeDirs(key Key) (_ *place, err error) {
	p := &place{root: d.fd(), namespace: -1, name: -1}
	if p.namespace, err = d.makeDir(p, p.root, key.namespace, key.namespace); err == nil {
		p.name, err = d.makeDir(p, p.namespace, key.name, key.namespace+"/"+key.name)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (d *Disk) makeDir(p *place, parent int, name, path string) (fd int, err error) {
	made := false
	if fd, err = openDirAt(parent, name); errors.Is(err, unix.ENOENT) {
		err = retry(func() error { return unix.Mkdirat(parent, name, 0o755) })
		if made = err == nil; made || errors.Is(err, unix.EEXIST) {
			fd, err = openDirAt(parent, name)
		}
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return -1, fmt.Errorf("%s is not a directory (links are not followed): %w", path, err)
	}
	if err != nil {
		return -1, err
	}
	is, err := inodeOf(fd)
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	if made || !d.isDurable(path, is) { // made: the file system may have given it the number of one that was removed
		p.unsure = append(p.unsure, unsure{parent, path, is})
	}
	return fd, nil
}

// sync makes the names on the way to an artifact durable, its own first. A directory that this process has not seen
// before is included even if it was there: another upload, or a process that was killed, may have made it a moment ago
// and not come to its fsync.
func (d *Disk) sync(p *place) error {
	if err := syncDir(p.name); err != nil {
		return fmt.Errorf("fsync the directory: %w", err)
	}
	for _, u := range slices.Backward(p.unsure) {
		if err := syncDir(u.parent); err != nil {
			return fmt.Errorf("fsync the directory above %s: %w", u.path, err)
		}
		d.setDurable(u)
	}
	return nil
}

// mostDurable bounds the memory for directory names, in entries of about 100 bytes.
const mostDurable = 10_000

func (d *Disk) isDurable(path string, is inode) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.durable[path] == is
}

func (d *Disk) setDurable(u unsure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.durable) >= mostDurable {
		clear(d.durable)
	}
	d.durable[u.path] = u.is
}
