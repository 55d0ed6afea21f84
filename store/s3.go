package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// digestMetadata is the name of the user metadata that holds an artifact's SHA-256 in hexadecimal. S3 calls it
// x-amz-meta-depot-sha256; this is how minio-go spells it.
const digestMetadata = "Depot-Sha256"

// S3 is a [Store] in a bucket of an S3-compatible service, or below a prefix in it:
//
//	<prefix>/<namespace>/<name>/<version>.zip   the artifacts, with their digest as metadata
//	<prefix>/.depot/                            for a moment at the start, an object to try conditional writes with
//
// It keeps no state of its own: any number of processes may share one bucket, and the bucket decides their races. What is
// asked of it is bounded: each question is tried four times at most, within [S3Config.Patience]; a transfer is given up when
// fewer than 64 KiB move in that time. After the last byte of an upload it may take a second more for each 100 MB.
type S3 struct {
	cfg         S3Config
	bucket      string
	prefix      string // "" or with a slash at its end
	credentials *credentials.Credentials
	api         *minio.Core
	once        *minio.Client // the same without second attempts
	signer      *minio.Client // for URLs that others will use
	staging     *staging
}

var _ Store = (*S3)(nil)

// object is the name of a key's object.
func (s *S3) object(key Key) string { return s.prefix + key.String() }

// info reads an answer about an object. One that lacks what every object has is no answer of an S3 service.
func (s *S3) info(key Key, o minio.ObjectInfo) (Info, error) {
	if o.ETag == "" || strings.ContainsAny(o.ETag, `" `) || o.Size < 0 {
		return Info{}, fmt.Errorf("%w: %w: it lacks a strong ETag or a length", ErrUntrusted, errTorn)
	}
	info := Info{Key: key, Size: o.Size, ModTime: o.LastModified, Tag: o.ETag}
	sum, err := hex.DecodeString(o.UserMetadata[digestMetadata])
	if info.Recorded = err == nil && len(sum) == len(info.SHA256); info.Recorded {
		copy(info.SHA256[:], sum)
	}
	return info, nil
}

// Space is the room on the file system that uploads are received on, and its size, in bytes. What room a bucket has is not known.
func (s *S3) Space() (free, size uint64, err error) { return s.staging.space() }

// Open implements [Store], with one request; the content is what this request brings.
func (s *S3) Open(ctx context.Context, key Key) (Object, error) {
	var object *s3Object
	var info Info
	err := s.again(ctx, func() error {
		object = s.newObject(ctx, key)
		o, err := object.request(0, "")
		if err == nil {
			info, err = s.info(key, o)
		}
		if err != nil {
			_ = object.Close()
		}
		return err
	})
	if errors.Is(err, ErrNotFound) && !isNoSuchKeyFromS3(err) {
		err = s.missing(ctx)
	}
	if err != nil {
		return Object{}, fmt.Errorf("open %s: %w", key, err)
	}
	object.size, object.tag = info.Size, info.Tag
	return Object{info, object}, nil
}

// Stat implements [Store], with one request for an artifact that is there.
func (s *S3) Stat(ctx context.Context, key Key) (Info, error) {
	info, err := s.stat(ctx, key)
	if errors.Is(err, ErrNotFound) {
		err = s.missing(ctx)
	}
	if err != nil {
		return Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return info, nil
}

// stat asks about an object and takes its absence as it is told: the answer does not say whether there is a bucket.
func (s *S3) stat(ctx context.Context, key Key) (info Info, err error) {
	err = s.again(ctx, func() error { info, err = s.head(ctx, key); return err })
	return info, err
}

// head is one request about an object.
func (s *S3) head(ctx context.Context, key Key) (Info, error) {
	w := s.watch(ctx)
	defer w.end()
	o, err := s.api.StatObject(w.ctx, s.bucket, s.object(key), minio.StatObjectOptions{})
	if err != nil {
		return Info{}, w.classify(err)
	}
	return s.info(key, o)
}

// errTorn marks an answer that makes no sense, and may make some a moment later: some services put it together from two
// versions of an object that is just being replaced or deleted.
var errTorn = errors.New("the answer contradicts itself")

// again asks anew, a few times, while the answer is torn.
func (s *S3) again(ctx context.Context, ask func() error) error {
	for n := 1; ; n++ {
		err := ask()
		if !errors.Is(err, errTorn) || n == attempts {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond<<n); err != nil {
			return err
		}
	}
}

// missing is the answer for an object that is not there, unless the whole bucket has gone.
func (s *S3) missing(ctx context.Context) error {
	if err := s.checkBucket(ctx); err != nil {
		return err
	}
	return ErrNotFound
}

func (s *S3) checkBucket(ctx context.Context) error {
	w := s.watch(ctx)
	defer w.end()
	found, err := s.api.BucketExists(w.ctx, s.bucket)
	if err != nil {
		return w.classify(err)
	}
	if !found {
		return fmt.Errorf("%w: there is no bucket %s", ErrUnavailable, s.bucket)
	}
	return nil
}

// Check implements [Store].
func (s *S3) Check(ctx context.Context) error {
	if err := s.staging.check(); err != nil {
		return fmt.Errorf("check: %w", classify(err))
	}
	if err := s.checkBucket(ctx); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// Delete implements [Store]. The service does not say whether there was anything to delete, so it is asked first. A delete
// whose answer is lost is repeated only while the same object is there: another one may have been published meanwhile.
func (s *S3) Delete(ctx context.Context, key Key) error {
	before, err := s.Stat(ctx, key)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	for n := 1; ; n++ {
		err := s.remove(ctx, s.object(key))
		if err == nil {
			return nil
		}
		now, look := s.Stat(ctx, key)
		if errors.Is(look, ErrNotFound) || look == nil && (now.Tag != before.Tag || !now.ModTime.Equal(before.ModTime)) {
			return nil // it was deleted, and only the answer was lost
		}
		if look != nil || n == attempts || !isTransient(err) {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		if err := pause(ctx, 200*time.Millisecond<<n); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
	}
}

// remove is one request to delete an object.
func (s *S3) remove(ctx context.Context, name string) error {
	w := s.watch(ctx)
	defer w.end()
	return w.classify(s.once.RemoveObject(w.ctx, s.bucket, name, minio.RemoveObjectOptions{}))
}

// List implements [Store]; SHA256 is not known in it. Objects that are no artifacts are passed by.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if !beginsKeys(prefix) {
			return // and some services would refuse it
		}
		w := s.watch(ctx)
		defer w.end()
		for o := range s.api.ListObjectsIter(w.ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}) {
			w.pause(leastProgress)
			if o.Err != nil {
				yield(Info{}, fmt.Errorf("list %q: %w", prefix, w.classify(o.Err)))
				return
			}
			name := strings.TrimPrefix(o.Key, s.prefix)
			if key, err := ParseKey(name); err == nil && key.String() == name {
				if !yield(Info{Key: key, Size: o.Size, ModTime: o.LastModified, Tag: o.ETag}, nil) {
					return
				}
			}
			w.resume()
		}
		if w.ctx.Err() != nil { // minio-go ends a listing that was cancelled without a word
			yield(Info{}, fmt.Errorf("list %q: %w", prefix, w.classify(w.ctx.Err())))
		}
	}
}

// Presign is a URL that lets anyone read the artifact straight from the bucket until it expires, under the given
// Content-Disposition. It is made without a request: whether there is such an artifact is for the caller to ask.
func (s *S3) Presign(ctx context.Context, key Key, disposition string) (string, error) {
	u, err := s.signer.PresignedGetObject(ctx, s.bucket, s.object(key), s.cfg.S3RedirectTTL, map[string][]string{
		"response-content-disposition": {disposition},
		"response-content-type":        {"application/zip"},
	})
	if err != nil {
		return "", fmt.Errorf("presign %s: %w: %w", key, ErrUnavailable, err)
	}
	return u.String(), nil
}

// Close gives up the connections to the service. Objects that are open stay usable.
func (s *S3) Close() error {
	s.cfg.transport.CloseIdleConnections()
	return s.staging.close()
}

// watch bounds one operation on the bucket.
func (s *S3) watch(ctx context.Context) *watch { return newWatch(ctx, s.cfg.Patience) }
