package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/minio/minio-go/v7"
)

// s3Object reads an object. It asks for the whole at first; when it is made to go on elsewhere, for the rest from there,
// as long as it still is the same object. As with a file, Close may come while another goroutine is in Read: so it does
// when a client leaves in the middle of several ranges, which [http.ServeContent] reads in a goroutine of its own.
type s3Object struct {
	store  *S3
	ctx    context.Context
	cancel context.CancelFunc
	name   string
	size   int64
	tag    string // the entity tag it was opened with

	mu     sync.Mutex
	closed bool
	pos    int64         // where the next Read reads
	body   io.ReadCloser // of the request that is open, if any
	at     int64         // where it is in the object
	watch  *watch        // over that request
}

func (s *S3) newObject(ctx context.Context, key Key) *s3Object {
	o := &s3Object{store: s, name: s.object(key)}
	o.ctx, o.cancel = context.WithCancel(ctx)
	return o
}

// request opens the object from an offset on; with a tag, only if it still has it.
func (o *s3Object) request(offset int64, tag string) (info minio.ObjectInfo, err error) {
	var opts minio.GetObjectOptions
	if offset > 0 {
		_ = opts.SetRange(offset, 0) // cannot fail for an offset that is not negative
	}
	if tag != "" {
		_ = opts.SetMatchETag(tag)
	}
	w := o.store.watch(o.ctx)
	body, info, header, err := o.store.api.GetObject(w.ctx, o.store.bucket, o.name, opts)
	w.pause(0)
	if err != nil {
		defer w.end()
		return info, w.classify(err)
	}
	o.body, o.at, o.watch = body, offset, w
	wantRange, wantSize := "", o.size
	if offset > 0 {
		wantRange, wantSize = fmt.Sprintf("bytes %d-%d/%d", offset, o.size-1, o.size), o.size-offset
	}
	if sent := header.Get("Content-Range"); sent != wantRange {
		err = fmt.Errorf("%w: asked for the range %q it sends %.50q", ErrUntrusted, wantRange, sent)
	} else if tag != "" && (info.ETag != tag || info.Size != wantSize) {
		err = fmt.Errorf("%w: asked for %d bytes of %.50q it sends %d of %.50q", ErrUntrusted, wantSize, tag, info.Size, info.ETag)
	}
	if err != nil {
		o.giveUp()
	}
	return info, err
}

func (o *s3Object) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return 0, fmt.Errorf("read %s: %w", o.name, os.ErrClosed)
	case o.pos >= o.size:
		return 0, io.EOF
	}
	if o.body == nil || o.at != o.pos {
		o.giveUp()
		if _, err := o.request(o.pos, o.tag); err != nil {
			if errors.Is(err, errLost) || errors.Is(err, ErrNotFound) {
				err = fmt.Errorf("it was replaced or deleted while it was read: %w", err)
			}
			return 0, fmt.Errorf("read %s: %w", o.name, err)
		}
	}
	o.watch.resume()
	n, err := o.body.Read(p[:min(int64(len(p)), o.size-o.pos)])
	o.watch.pause(n)
	o.pos += int64(n)
	o.at = o.pos
	switch {
	case err == io.EOF && o.pos == o.size:
		return n, nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
		fallthrough
	case err != nil:
		return n, fmt.Errorf("read %s: after %d of %d bytes: %w", o.name, o.pos, o.size, o.watch.classify(err))
	}
	return n, nil
}

func (o *s3Object) Seek(offset int64, whence int) (int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += o.pos
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek %s: before its beginning", o.name)
	}
	o.pos = offset
	return offset, nil
}

// Close ends what is under way. A body that was not read to its end costs the connection.
func (o *s3Object) Close() error {
	o.cancel() // first: a Read that waits for the service has the lock
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.giveUp()
	return nil
}

// giveUp ends the request that is open, if any.
func (o *s3Object) giveUp() {
	if o.body != nil {
		o.watch.end()
		_ = o.body.Close()
		o.body = nil
	}
}
