package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// digestAttribute holds the raw 32 bytes of an artifact's SHA-256. rsync -X keeps it; a plain copy does not.
const digestAttribute = "user.depot.sha256"

// stateDir is what depot keeps for itself in the root; no key can name it, since no part begins with a dot.
const stateDir = ".depot"

// Disk is a [Store] on a directory of a local file system:
//
//	<root>/<namespace>/<name>/<version>.zip   the artifacts, plain bytes: ls, rsync and nginx can read them
//	<root>/.depot/                            private state: uploads in progress, generated tokens
//
// Several processes may share one root.
type Disk struct {
	path    string // absolute
	root    *os.File
	state   int // descriptor of .depot
	staging *staging

	mu      sync.Mutex
	durable map[string]inode // directories whose own name is known to be on disk
}

// DiskConfig is what a Disk needs.
type DiskConfig struct {
	Dir          string // made if it does not exist
	NamedStaging bool   // stage under random names even where the file system can stage without
}

var _ Store = (*Disk)(nil)

func (d *Disk) fd() int { return int(d.root.Fd()) }

// KeepsDigests reports whether the file system keeps each artifact's SHA-256 with it (extended attributes). Where it does
// not, artifacts are served without Repr-Digest, and a repeated Put has to read what is stored.
func (d *Disk) KeepsDigests() bool { return d.staging.attributes }

// Space is the room on the file system of the store, and its size, in bytes.
func (d *Disk) Space() (free, size uint64, err error) { return d.staging.space() }

// Close releases the store's descriptors. Objects that are open stay usable.
func (d *Disk) Close() error {
	if d.staging != nil {
		_ = d.staging.close()
	}
	if d.state >= 0 {
		_ = unix.Close(d.state)
	}
	return d.root.Close()
}

// Check implements [Store].
func (d *Disk) Check(context.Context) error {
	held, err := d.root.Stat()
	if err != nil {
		return fmt.Errorf("check %s: %w", d.path, classify(err))
	}
	now, err := os.Stat(d.path)
	if err != nil {
		return fmt.Errorf("check %s: %w: %w", d.path, ErrUnavailable, err)
	}
	if !os.SameFile(held, now) {
		return fmt.Errorf("check %s: %w: another directory is there now (mounted or moved since the start): restart depot",
			d.path, ErrUnavailable)
	}
	return nil
}

// missing is the answer for a key that is not there, unless the whole store has gone.
func (d *Disk) missing(ctx context.Context, op string, key Key) error {
	if err := d.Check(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", op, key, err)
	}
	return fmt.Errorf("%s %s: %w", op, key, ErrNotFound)
}

// openDir opens the directory an artifact is in. The caller closes the descriptor.
func (d *Disk) openDir(key Key) (int, error) {
	namespace, err := openDirAt(d.fd(), key.namespace)
	if err != nil {
		return -1, err
	}
	defer unix.Close(namespace)
	return openDirAt(namespace, key.name)
}

// Open implements [Store].
func (d *Disk) Open(ctx context.Context, key Key) (Object, error) {
	f, info, err := d.open(key)
	if isMissing(err) {
		return Object{}, d.missing(ctx, "open", key)
	}
	if err != nil {
		return Object{}, fmt.Errorf("open %s: %w", key, classify(err))
	}
	return Object{info, f}, nil
}

// Stat implements [Store].
func (d *Disk) Stat(ctx context.Context, key Key) (Info, error) {
	f, info, err := d.open(key)
	if isMissing(err) {
		return Info{}, d.missing(ctx, "stat", key)
	}
	if err != nil {
		return Info{}, fmt.Errorf("stat %s: %w", key, classify(err))
	}
	return info, f.Close()
}

// isMissing also covers a file where a directory would have to be: no artifact can be below it.
func isMissing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

func (d *Disk) open(key Key) (*os.File, Info, error) {
	dir, err := d.openDir(key)
	if err != nil {
		return nil, Info{}, err
	}
	defer unix.Close(dir)
	return openArtifact(dir, key)
}

// openArtifact opens the file of a key in its directory. Whatever else than a regular file is found there (a link, a
// FIFO, a device, a directory) is refused without following it or waiting for it.
func openArtifact(dir int, key Key) (*os.File, Info, error) {
	fd, err := openAt(dir, key.File(), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) { // a link; a socket or a device without its driver
		return nil, Info{}, errNotRegular
	}
	if err != nil {
		return nil, Info{}, err
	}
	info, err := statArtifact(fd, key)
	if err != nil {
		_ = unix.Close(fd)
		return nil, Info{}, err
	}
	return newFile(fd, key.File()), info, nil
}

var errNotRegular = errors.New("what is stored there is not a regular file: remove it")

func statArtifact(fd int, key Key) (Info, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return Info{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Info{}, errNotRegular
	}
	info := Info{Key: key, Size: st.Size, ModTime: time.Unix(st.Mtim.Unix())}
	n, err := unix.Fgetxattr(fd, digestAttribute, info.SHA256[:])
	if info.Recorded = err == nil && n == len(info.SHA256); !info.Recorded {
		info.SHA256 = SHA256{} // placed by other means, or on a file system without attributes
	}
	return info, nil
}

// hashAll computes the digest of an artifact that has none recorded.
func hashAll(ctx context.Context, r io.Reader) (sum SHA256, err error) {
	h := sha256.New()
	buffer := make([]byte, bufferSize)
	for err == nil {
		var n int
		n, err = fill(r, buffer)
		h.Write(buffer[:n])
		if ctx.Err() != nil {
			return SHA256{}, ctx.Err()
		}
	}
	if err != io.EOF {
		return SHA256{}, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

// Delete implements [Store].
func (d *Disk) Delete(ctx context.Context, key Key) error {
	dir, err := d.openDir(key)
	if isMissing(err) {
		return d.missing(ctx, "delete", key)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, classify(err))
	}
	defer unix.Close(dir)
	if err := d.Check(ctx); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	f, _, err := openArtifact(dir, key)
	if err == nil {
		_ = f.Close()
		err = retry(func() error { return unix.Unlinkat(dir, key.File(), 0) })
	}
	if err == nil || isMissing(err) {
		// Also when it was missing: whoever removed it may not have made that durable yet, and our caller takes "absent" as
		// a fact.
		if err := syncDir(dir); err != nil {
			return fmt.Errorf("delete %s: %w", key, classify(err))
		}
	}
	if isMissing(err) {
		return d.missing(ctx, "delete", key)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, classify(err))
	}
	return nil
}
