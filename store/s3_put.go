package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/minio/minio-go/v7"
)

// Put implements [Store]. The body is staged first, so its length and digest are known when the bucket gets it: in one
// request, which the service checks against the digest and which creates the object only if there is none. (In several
// parts it would not keep that condition, and without a digest some services store half a body as a success.)
func (s *S3) Put(ctx context.Context, key Key, body io.Reader, opts PutOptions) (Info, Outcome, error) {
	stored, err := s.stat(ctx, key)
	exists := err == nil
	switch {
	case exists:
		err = opts.refuse(stored)
	case errors.Is(err, ErrNotFound):
		err = nil // or the whole bucket is missing, which the upload will find out
	}
	if err != nil {
		return Info{}, 0, fmt.Errorf("put %s: %w", key, err)
	}
	upload, err := s.staging.receive(ctx, body, opts)
	if err != nil {
		return Info{}, 0, fmt.Errorf("put %s: %w", key, err)
	}
	defer upload.discard()
	if exists { // what it was before the body came; see now
		stored, err = s.stat(ctx, key)
		if exists = err == nil; err != nil && !errors.Is(err, ErrNotFound) {
			return Info{}, 0, fmt.Errorf("put %s: %w", key, err)
		}
	}
	info, outcome, err := s.publish(ctx, key, upload, opts, stored, exists)
	if err != nil {
		return Info{}, 0, fmt.Errorf("put %s: %w", key, err)
	}
	return info, outcome, nil
}

// publish gives a received upload to the bucket. The bucket decides every race: a new object is written only where there
// is none. After each failure publish looks what is there now: an answer may be lost after the object was stored, or be a
// refusal of our own second attempt, or a broken connection where there should have been a refusal.
func (s *S3) publish(ctx context.Context, key Key, upload *staged, opts PutOptions, stored Info, exists bool) (Info, Outcome, error) {
	failures, refusals := 0, 0
	for {
		if exists {
			same, err := s.compare(ctx, &stored, upload, opts)
			if errors.Is(err, ErrNotFound) { // deleted while it was read
				stored, exists = Info{}, false
			} else if err != nil || same {
				return stored, Unchanged, err
			}
		}
		outcome := Created
		if exists {
			outcome = Replaced
		}
		tag, err := s.write(ctx, key, upload, !exists)
		if err == nil {
			info, err := s.verify(ctx, key, upload, tag)
			return info, outcome, err
		}
		now, look := s.stat(ctx, key)
		if look != nil && !errors.Is(look, ErrNotFound) {
			if errors.Is(err, errLost) {
				err = look
			}
			return Info{}, 0, err
		}
		changed := (look == nil) != exists || now.Tag != stored.Tag
		if look == nil && now.Recorded && now.Size == upload.size && now.SHA256 == upload.sha256 {
			switch {
			case exists: // stored in place of what was there
				return now, outcome, nil
			case opts.IfAbsent && failures == 0 && errors.Is(err, errLost): // surely by another upload
				return Info{}, 0, ErrExists
			}
			return now, Unchanged, nil
		}
		stored, exists = now, look == nil
		switch {
		case errors.Is(err, errLost), exists && changed && !opts.Overwrite:
			// Another upload was first, and ours was refused, perhaps by breaking its connection. Where that upload is not to
			// be seen, it was deleted again, or the service refuses for a reason of its own.
			if refusals++; refusals == 2*attempts {
				return Info{}, 0, fmt.Errorf("%w: it refuses to write as if there were something else: %w", ErrUnavailable, err)
			}
			if !changed {
				if err := pause(ctx, 10*time.Millisecond<<refusals); err != nil {
					return Info{}, 0, err
				}
			}
		default:
			if failures++; failures == attempts || !isTransient(err) {
				return Info{}, 0, err
			}
			if err := pause(ctx, 200*time.Millisecond<<failures); err != nil {
				return Info{}, 0, err
			}
		}
	}
}

// compare decides about an object that already has the key. Other bytes are an error unless they may be replaced. The
// digest of an object that other means put there is found out by reading it, and noted in stored.
func (s *S3) compare(ctx context.Context, stored *Info, upload *staged, opts PutOptions) (same bool, err error) {
	if opts.IfAbsent {
		return false, ErrExists
	}
	if !stored.SHA256.Known() && stored.Size == upload.size {
		if stored.SHA256, err = s.hash(ctx, stored.Key); err != nil {
			return false, err
		}
	}
	if stored.Size == upload.size && stored.SHA256 == upload.sha256 {
		return true, nil
	}
	if !opts.Overwrite {
		return false, &ConflictError{Stored: *stored, Size: upload.size, SHA256: upload.sha256}
	}
	return false, nil
}

func (s *S3) hash(ctx context.Context, key Key) (SHA256, error) {
	object, err := s.Open(ctx, key)
	if err != nil {
		return SHA256{}, err
	}
	defer object.Close()
	return hashAll(ctx, object)
}

// write makes one attempt to write the object, and returns the entity tag it was given.
func (s *S3) write(ctx context.Context, key Key, upload *staged, create bool) (tag string, err error) {
	w := s.watch(ctx)
	defer w.end()
	opts := minio.PutObjectOptions{
		ContentType:          "application/zip",
		UserMetadata:         map[string]string{digestMetadata: upload.sha256.String()},
		DisableContentSha256: true, // not piece by piece: the digest of the whole is signed instead
	}
	if create {
		opts.SetMatchETagExcept("*")
	}
	// A reader of its own for each attempt: net/http may still be reading for the last one when the next begins. It cannot
	// seek, which keeps minio-go from making attempts of its own.
	body := &sending{upload.content(), w}
	o, err := s.api.PutObject(w.ctx, s.bucket, s.object(key), body, upload.size, "", hex.EncodeToString(upload.sha256[:]), opts)
	if err == nil && o.ETag == "" {
		err = fmt.Errorf("%w: it lacks an ETag", ErrUntrusted)
	}
	return o.ETag, w.classify(err)
}

// sending is a body on its way to the bucket.
type sending struct {
	r *io.SectionReader
	w *watch
}

// Read is called when the last piece is on its way: the time for the next begins anew.
func (s *sending) Read(p []byte) (int, error) {
	s.w.pause(leastProgress)
	n, err := s.r.Read(p)
	if at, _ := s.r.Seek(0, io.SeekCurrent); at == s.r.Size() {
		s.w.patient(at)
	}
	s.w.resume()
	return n, err
}

// verify looks at what was just written: the answer to the write alone may come from something in between. What is whole
// another artifact, or gone and stays gone, was written and then replaced or deleted by someone else.
func (s *S3) verify(ctx context.Context, key Key, upload *staged, tag string) (info Info, err error) {
	err = s.again(ctx, func() error {
		info, err = s.head(ctx, key)
		switch {
		case errors.Is(err, ErrNotFound):
			return fmt.Errorf("%w: %w", errTorn, err)
		case err != nil:
			return err
		case !info.Recorded, (info.SHA256 == upload.sha256) != (info.Tag == tag), info.Tag == tag && info.Size != upload.size:
			return fmt.Errorf("%w: %w: it stored %d bytes as %.50q and says %d bytes as %.50q", ErrUntrusted, errTorn, upload.size, tag, info.Size, info.Tag)
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) || err == nil && info.SHA256 != upload.sha256 {
		return Info{Key: key, Size: upload.size, ModTime: time.Now(), SHA256: upload.sha256, Recorded: true, Tag: tag}, nil
	}
	return info, err
}

// pause waits for up to this long, and no two uploads equally long.
func pause(ctx context.Context, most time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(most/2 + rand.N(most/2)):
		return nil
	}
}
