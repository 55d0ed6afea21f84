package store

import (
	"context"
	"errors"
	"fmt"
	"io"

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
		info, outcome, err := d.place(ctx, key, upload, opts, exists)
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

// place tries once: as a new artifact, or as one that takes the place of what exists.
func (d *Disk) place(ctx context.Context, key Key, upload *staged, opts PutOptions, exists bool) (Info, Outcome, error) {
	dir, err := d.makeDir(key)
	if err != nil {
		return Info{}, 0, err
	}
	defer unix.Close(dir)
	if exists {
		stored, same, err := upload.compare(ctx, dir, key, opts)
		if same || err != nil {
			return stored, Unchanged, err
		}
	}
	if err := upload.seal(); err != nil {
		return Info{}, 0, err
	}
	info, err := statArtifact(int(upload.Fd()), key)
	if err != nil {
		return Info{}, 0, err
	}
	info.SHA256 = upload.sha256 // also where the file system keeps no attributes
	if exists {
		if err := upload.replace(dir, key.File()); err != nil {
			return Info{}, 0, err
		}
		return info, Replaced, syncDir(dir)
	}
	if err := upload.linkTo(dir, key.File()); err != nil {
		return Info{}, 0, err
	}
	return info, Created, syncDir(dir)
}

// seal records the digest with the file and makes both durable. An fsync that failed is not tried again: the kernel may
// have dropped the pages and would report success the second time.
func (f *staged) seal() error {
	if f.sealed {
		return nil
	}
	if f.in.attributes {
		if err := f.setDigest(); err != nil {
			return fmt.Errorf("record the digest: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("fsync: %w", err)
	}
	f.sealed = true
	return nil
}

func (f *staged) setDigest() error {
	return unix.Fsetxattr(int(f.Fd()), digestAttribute, f.sha256[:], 0)
}

// compare looks at the artifact that already has the key. The same bytes are made durable, since the upload that placed
// them may not have come to that yet. Other bytes are an error unless they may be replaced; [unix.ENOENT] means that the
// artifact has gone.
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
		return stored, true, syncDir(dir)
	}
	if !opts.Overwrite {
		return Info{}, false, &ConflictError{Stored: stored, Size: f.size, SHA256: f.sha256}
	}
	return stored, false, nil
}

// mostDurable bounds the memory for directory names, in entries of about 100 bytes.
const mostDurable = 10_000

// makeDir opens the directory for a key, making what is missing. Every name on the way to it is durable when it
// returns: the ones this process has not seen before are fsynced even if they were there, since another upload, or a
// process that was killed, may have made them a moment ago and not come to it.
func (d *Disk) makeDir(key Key) (int, error) {
	namespace, err := d.makeDurableDir(d.fd(), key.namespace, key.namespace)
	if err != nil {
		return -1, err
	}
	defer unix.Close(namespace)
	return d.makeDurableDir(namespace, key.name, key.namespace+"/"+key.name)
}

func (d *Disk) makeDurableDir(parent int, name, path string) (int, error) {
	d.mu.Lock()
	_, known := d.durable[path]
	d.mu.Unlock()
	if known {
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
	if err := syncDir(parent); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.durable) >= mostDurable {
		clear(d.durable)
	}
	d.durable[path] = struct{}{}
	return fd, nil
}

// forget makes the next makeDir look at the key's directories afresh.
func (d *Disk) forget(key Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.durable, key.namespace)
	delete(d.durable, key.namespace+"/"+key.name)
}
