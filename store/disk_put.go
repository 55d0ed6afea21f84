package store

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	// The body may have taken long. What is published into a directory that nobody will look at again would be lost.
	if err := d.Check(ctx); err != nil {
		return Info{}, 0, fmt.Errorf("put %s: %w", key, err)
	}
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
			if err := errors.Join(d.Check(ctx), d.staging.check()); err != nil {
				return Info{}, 0, err
			}
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
	info := Info{Key: key, Size: upload.size, ModTime: modified, SHA256: upload.sha256, Recorded: upload.in.attributes}
	return info, outcome, d.sync(at)
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
		if stored.SHA256, err = hashAll(ctx, file); err != nil {
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
