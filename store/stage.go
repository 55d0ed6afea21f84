package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// bufferSize is what an upload is read, hashed and written by, in bytes: large enough that system calls no longer
// matter, small enough that hundreds of uploads fit in memory.
const bufferSize = 256 << 10

// staging is where bodies are received, the same for every backend: into a file without a name, or, where the file
// system has no such thing, under a random name held by a lock. Only a whole and verified upload leaves it.
type staging struct {
	stagingConfig
	dir        int  // descriptor of the directory
	attributes bool // the file system keeps the digest with a file
	buffers    sync.Pool
}

type stagingConfig struct {
	named     bool // files have names, even where they could do without
	publishes bool // files become artifacts where they are: they can get a name, a digest, and readers
}

// staged is a received upload: a file of the right size and digests that no one else can see. Where it need not become an
// artifact itself, and fits into one buffer, it stays in memory: a file costs more than all else that is done with it.
type staged struct {
	*os.File
	small  []byte // instead of a file
	in     *staging
	name   string // in the staging directory; "" while it has none
	size   int64
	sha256 SHA256
	sealed bool
}

// openStaging takes over the descriptor of a directory. Leftovers of dead processes are removed.
func openStaging(dir int, cfg stagingConfig) (*staging, error) {
	s := &staging{stagingConfig: cfg, dir: dir}
	s.buffers.New = func() any { b := make([]byte, bufferSize); return &b }
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("clear the staging directory: %w", err)
	}
	if !s.named && s.try() == nil {
		return s, nil
	}
	s.named = true
	if err := s.try(); err != nil {
		return nil, fmt.Errorf("try to stage a file: %w", err)
	}
	return s, nil
}

// space is the room on the staging directory's file system, for who is no superuser, and its size, in bytes.
func (s *staging) space() (free, size uint64, err error) {
	var st unix.Statfs_t
	err = retry(func() error { return unix.Fstatfs(s.dir, &st) })
	block := uint64(st.Bsize) // signed on some systems
	return st.Bavail * block, st.Blocks * block, err
}

// try goes the whole way of an upload once with an empty file, so that no upload is the first to find out what the file
// system cannot do, and notes whether it keeps digests.
func (s *staging) try() error {
	f, err := s.create()
	if err != nil {
		return err
	}
	defer f.discard()
	if !s.publishes {
		return nil
	}
	err = f.setDigest()
	if s.attributes = err == nil; err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("record a digest: %w", err)
	}
	name := randomName()
	if err := f.linkTo(s.dir, name); err != nil {
		return fmt.Errorf("link it: %w", err)
	}
	if err := unix.Unlinkat(s.dir, name, 0); err != nil && !errors.Is(err, unix.ENOENT) { // another process may have swept it
		return err
	}
	return nil
}

// mode of staged files: those that become artifacts are for every reader of the store, the others for nobody else.
func (s *staging) mode() uint32 {
	if s.publishes {
		return 0o644
	}
	return 0o600
}

func (s *staging) close() error { return unix.Close(s.dir) }

// receive reads body to its end into a new staged file. On any error nothing is left of it.
func (s *staging) receive(ctx context.Context, body io.Reader, opts PutOptions) (_ *staged, err error) {
	f := &staged{in: s}
	defer func() {
		if err != nil {
			f.discard()
		}
	}()
	if s.publishes {
		if err := f.openFile(); err != nil {
			return nil, err
		}
	}
	digests := map[Algorithm]hash.Hash{AlgorithmSHA256: sha256.New()}
	for _, d := range opts.Digests {
		if d.Algorithm == AlgorithmSHA512 {
			digests[AlgorithmSHA512] = sha512.New()
		}
	}
	if err := f.copyFrom(ctx, body, opts.Size, digests); err != nil {
		return nil, err
	}
	if opts.Size >= 0 && f.size != opts.Size {
		return nil, fmt.Errorf("%w: it has %d bytes, %d were declared", ErrMismatch, f.size, opts.Size)
	}
	if f.size == 0 {
		return nil, fmt.Errorf("%w: it is empty, and an artifact has at least one byte", ErrMismatch)
	}
	for _, d := range opts.Digests {
		h := digests[d.Algorithm]
		if h == nil {
			return nil, fmt.Errorf("%w: the digest algorithm %q cannot be checked", ErrMismatch, d.Algorithm)
		}
		if sum := h.Sum(nil); !bytes.Equal(sum, d.Sum) {
			return nil, fmt.Errorf("%w: its %s is %x, %x was declared", ErrMismatch, d.Algorithm, sum, d.Sum)
		}
	}
	digests[AlgorithmSHA256].Sum(f.sha256[:0])
	return f, nil
}

// openFile gives a staged upload its file.
func (f *staged) openFile() error {
	file, err := f.in.create()
	if err != nil {
		return fmt.Errorf("stage: %w", classify(err))
	}
	f.File, f.name = file.File, file.name
	return nil
}

// content is the whole upload, for reading; it may be read while others read it too.
func (f *staged) content() *io.SectionReader {
	if f.File == nil {
		return io.NewSectionReader(bytes.NewReader(f.small), 0, f.size)
	}
	return io.NewSectionReader(f, 0, f.size)
}

// copyFrom moves body into the file by whole buffers, so that every write but the last is aligned, however the body
// arrives. It stops as soon as the body is longer than declared.
func (f *staged) copyFrom(ctx context.Context, body io.Reader, declared int64, digests map[Algorithm]hash.Hash) error {
	buffer := f.in.buffers.Get().(*[]byte)
	defer f.in.buffers.Put(buffer)
	for {
		n, readErr := fill(body, *buffer)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if f.File == nil && readErr == nil {
			if err := f.openFile(); err != nil {
				return err
			}
		}
		if f.in.publishes && f.size == 0 && n == len(*buffer) && declared > bufferSize {
			// The whole length at once makes fewer extents, and a full disk says so early; but not before the body has
			// begun to come: a declaration costs its sender nothing.
			if err := preallocate(f.File, declared); err != nil {
				return fmt.Errorf("stage: reserve %d bytes: %w", declared, classify(err))
			}
		}
		f.size += int64(n)
		if declared >= 0 && f.size > declared {
			return fmt.Errorf("%w: it has more than the %d bytes that were declared", ErrMismatch, declared)
		}
		for _, h := range digests {
			h.Write((*buffer)[:n]) // never an error, says package hash
		}
		switch {
		case f.File == nil:
			// Not the buffer itself: a request that was given up may still be reading when it is used again.
			f.small = bytes.Clone((*buffer)[:n])
		case n > 0:
			if _, err := f.Write((*buffer)[:n]); err != nil {
				return fmt.Errorf("stage: %w", classify(err))
			}
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return fmt.Errorf("receive: %w", readErr)
		}
	}
}

// fill reads until the buffer is full or the reader has no more. Unlike io.ReadFull it passes the reader's error on as
// it is: io.ErrUnexpectedEOF from a body that was cut short must never look like its end.
func fill(r io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var k int
		k, err = r.Read(buffer[n:])
		n += k
	}
	return n, err
}
