package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Put implements [Store]. The file is fsynced before it gets its name, and the directories after, so that every state a
// crash can leave behind is one of: nothing, or the whole artifact.
func (d *Disk) Put(ctx context.Context, key Key, body io.Reader, opts PutOptions) (Info, Outcome, error) {
	stored, err := d.Stat(ctx, key)
	exists := err == nil
	switch {
	case exists:
		err = opts.refuse(stored)
	case errors.Is(err, ErrNotFound):
		err = nil
	}
	if err != nil {
		return Info{}, 0, fmt.Errorf("put %s: %w", key, err)
	}
	upload, err := d.staging.receive(ctx, body, opts)
	if err != nil {
		return Info{}, 0, fmt.Errorf("put %s: %w", key, err)
	}
	defer upload.discard()
	info, outcome, err := d.publish(ctx, key, upload, opts, exists)
	if err != nil {
		return Info{}, 0, fmt.Errorf("put %s: %w", key, classify(err))
	}
	return info, outcome, nil
}

// publish gives a received upload its final name. The directory decides every race: link(2) fails where the name is
// taken, rename(2) replaces in one step. exists says what was last seen under the key; each time that turns out to be
// outdated, publish looks again.
func (d *Disk) publish(ctx context.Context, key Key, upload *staged, opts PutOptions, exists bool) (Info, Outcome, error) {
	for range 100 {
		info, outcome, err := d.tryPublish(ctx, key, upload, opts, exists)
		switch {
		case errors.Is(err, unix.EEXIST): // another upload was first
			exists = true
		case errors.Is(err, unix.ENOENT): // what was there, or its directory, was removed meanwhile
			exists = false
			d.forget(key)
		default:
			return info, outcome, err
		}
	}
	return Info{}, 0, errors.New("the key was made and removed 100 times during this upload")
}

// tryPublish tries once: as a new artifact, or as one that takes the place of what exists.
func (d *Disk) tryPublish(ctx context.Context, key Key, upload *staged, opts PutOptions, exists bool) (Info, Outcome, error) {
	at, err := d.makeDirs(key)
	if err != nil {
		return Info{}, 0, err
	}
	defer at.close()
	if exists {
		stored, same, err := upload.compare(ctx, at.name, key, opts)
		if err != nil {
			return Info{}, 0, err
		}
		if same {
			// Durable like a new one: the upload that placed it may not have come to that yet.
			return stored, Unchanged, d.sync(at)
		}
	}
	modified, err := upload.seal()
	if err != nil {
		return Info{}, 0, err
	}
	outcome := Created
	if exists {
		outcome = Replaced
		err = upload.replace(at.name, key.File())
	} else {
		err = upload.linkTo(at.name, key.File())
	}
	if err != nil {
		return Info{}, 0, err
	}
	return Info{Key: key, Size: upload.size, ModTime: modified, SHA256: upload.sha256}, outcome, d.sync(at)
}

// seal records the digest with the file, makes both durable, and returns the time of the last change. An fsync that
// failed is not tried again: the kernel may have dropped the pages and would report success the second time.
func (f *staged) seal() (modified time.Time, err error) {
	if f.in.attributes && !f.sealed {
		if err := f.setDigest(); err != nil {
			return time.Time{}, fmt.Errorf("record the digest: %w", err)
		}
	}
	if !f.sealed {
		if err := f.Sync(); err != nil {
			return time.Time{}, fmt.Errorf("fsync: %w", err)
		}
	}
	f.sealed = true
	st, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return st.ModTime(), nil
}

func (f *staged) setDigest() error {
	return unix.Fsetxattr(int(f.Fd()), digestAttribute, f.sha256[:], 0)
}

// compare looks at the artifact that already has the key. Other bytes are an error unless they may be replaced;
// [unix.ENOENT] means that the artifact has gone. The same bytes are fsynced, since whoever placed them may not have.
func (f *staged) compare(ctx context.Context, dir int, key Key, opts PutOptions) (stored Info, same bool, err error) {
	file, stored, err := openArtifact(dir, key)
	if err != nil {
		return Info{}, false, err
	}
	defer file.Close()
	if opts.IfAbsent {
		return Info{}, false, ErrExists
	}
	if !stored.SHA256.Known() && stored.Size == f.size {
		if stored.SHA256, err = hashFile(ctx, file); err != nil {
			return Info{}, false, err
		}
	}
	if stored.Size == f.size && stored.SHA256 == f.sha256 {
		if err := file.Sync(); err != nil {
			return Info{}, false, fmt.Errorf("fsync: %w", err)
		}
		return stored, true, nil
	}
	if !opts.Overwrite {
		return Info{}, false, &ConflictError{Stored: stored, Size: f.size, SHA256: f.sha256}
	}
	return stored, false, nil
}

// place is the directory of a key and the ones it is in, open for publishing.
type place struct {
	root, namespace, name int      // descriptors; root is the store's
	unsure                []unsure // names on the way that may not be on disk yet
}

type unsure struct {
	parent int    // descriptor of the directory the name is in
	path   string // in the store
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

func (d *Disk) makeDir(p *place, parent int, name, path string) (int, error) {
	if d.isDurable(path) {
		if fd, err := openDirAt(parent, name); !errors.Is(err, unix.ENOENT) {
			return fd, err
		}
	}
	err := retry(func() error { return unix.Mkdirat(parent, name, 0o755) })
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	fd, err := openDirAt(parent, name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return -1, fmt.Errorf("%s is not a directory (links are not followed): %w", path, err)
	}
	if err != nil {
		return -1, err
	}
	p.unsure = append(p.unsure, unsure{parent, path})
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
		d.setDurable(u.path)
	}
	return nil
}

// mostDurable bounds the memory for directory names, in entries of about 100 bytes.
const mostDurable = 10_000

func (d *Disk) isDurable(path string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known := d.durable[path]
	return known
}

func (d *Disk) setDurable(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.durable) >= mostDurable {
		clear(d.durable)
	}
	d.durable[path] = struct{}{}
}

// forget makes the next makeDirs look at the key's directories afresh.
func (d *Disk) forget(key Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.durable, key.namespace)
	delete(d.durable, key.namespace+"/"+key.name)
}
