// Package store keeps artifacts: immutable zip archives, each under one [Key].
//
// It is the last room a request reaches: handlers → auth → store. It knows nothing of those who ask, nor of HTTP towards them. [Store] is the
// contract; [Disk] keeps it on a local directory, [S3] in a bucket; package storetest checks that a backend keeps it.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// Store is what a backend promises. All methods may be called concurrently, and by several processes on one backend.
//
// Errors carry one of this package's sentinels (compare with [errors.Is]) where the caller can act on the difference,
// and always the operation and the key. An error that wraps none of them is a fault of the backend or of this program.
type Store interface {
	// Put stores body under key, atomically and durably: when it returns without an error the artifact survives a power
	// loss, whole; otherwise nothing of body is left. Of many concurrent Puts to one key one wins, and a reader sees
	// the old bytes, the new ones, or nothing, never a mixture.
	//
	// What is already stored is left alone unless opts.Overwrite is set: the same bytes are [Unchanged], others a
	// [*ConflictError]. Whatever can be decided before the body is read is decided before its first Read.
	//
	// One kind of failure may leave the artifact where it is, whole: when it has its name, and making that name durable, or
	// hearing of it, fails. Another Put may have been told by then that these bytes are stored, so they cannot be taken back.
	//
	// An error of body is returned wrapped, so the caller finds its own with errors.Is. Put does not close body.
	Put(ctx context.Context, key Key, body io.Reader, opts PutOptions) (Info, Outcome, error)

	// Open returns the artifact for reading; the caller closes it. A missing artifact is [ErrNotFound] here, never at
	// the first Read. What was opened stays readable and unchanged while the key is replaced or deleted.
	Open(ctx context.Context, key Key) (Object, error)

	// Stat is Open without the bytes.
	Stat(ctx context.Context, key Key) (Info, error)

	// Delete removes the artifact, durably, before it returns; [ErrNotFound] when there is none.
	Delete(ctx context.Context, key Key) error

	// List yields every artifact whose key, as text, begins with prefix, in byte order of that text. It holds neither
	// the whole store nor its keys in memory. SHA256 may be unknown in a listing even where Stat knows it. What comes
	// or goes meanwhile may be in or out. An error ends the listing.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Check reports whether the backend can be reached and is the one that was opened.
	Check(ctx context.Context) error
}

// Info describes a stored artifact.
type Info struct {
	Key     Key
	Size    int64 // bytes, at least 1
	ModTime time.Time

	// SHA256 is the digest of the content. Open, Stat and List know it where it is Recorded: kept with the artifact.
	// Where it is not (the artifact was placed by other means than Put, or the backend cannot keep it), only a Put that
	// has just read the bytes knows it.
	SHA256   SHA256
	Recorded bool

	// Tag is what the backend itself tells versions of the content apart by, where it has such a thing: in a bucket the
	// entity tag, without quotes. "" on a disk.
	Tag string
}

// Object is an open artifact. ReadSeekCloser is the [*os.File] itself where the backend has one, so that a server can
// hand it to sendfile(2).
type Object struct {
	Info
	io.ReadSeekCloser
}

// SHA256 is a SHA-256 digest. The zero value means it is not known; no content has that digest.
type SHA256 [sha256.Size]byte

// Known reports whether the digest is recorded.
func (s SHA256) Known() bool { return s != SHA256{} }

// String is the digest in lower-case hexadecimal, or "unknown".
func (s SHA256) String() string {
	if !s.Known() {
		return "unknown"
	}
	return hex.EncodeToString(s[:])
}

// PutOptions says what is known about a body beforehand and what may be done with the key.
type PutOptions struct {
	Size      int64    // declared length in bytes; -1 when not declared. A body of another length is ErrMismatch.
	Digests   []Digest // every one must match, or the upload is ErrMismatch
	Overwrite bool     // replace other bytes stored under the key
	IfAbsent  bool     // ErrExists when the key exists at all, whatever its bytes; stronger than Overwrite
}

// Digest is an expected digest of the whole body.
type Digest struct {
	Algorithm Algorithm
	Sum       []byte
}

// Algorithm names a digest algorithm as RFC 9530 registers it.
type Algorithm string

// The algorithms a backend verifies: those RFC 9530 calls active.
const (
	AlgorithmSHA256 Algorithm = "sha-256"
	AlgorithmSHA512 Algorithm = "sha-512"
)

// Outcome says what a successful Put did.
type Outcome int

// The outcomes of Put.
const (
	Created   Outcome = iota + 1 // the key was free
	Unchanged                    // the key held the same bytes
	Replaced                     // the key held other bytes
)

// String is the outcome in a word.
func (o Outcome) String() string {
	return [...]string{"", "created", "unchanged", "replaced"}[o]
}

// Errors to test for with errors.Is. fs.ErrNotExist is none of them: a lost mount is not a missing artifact.
var (
	ErrNotFound    = errors.New("no such artifact")
	ErrExists      = errors.New("the artifact exists already")
	ErrConflict    = errors.New("other bytes are stored under this key")
	ErrMismatch    = errors.New("the body is not what was declared")
	ErrFull        = errors.New("no space left in the store")
	ErrUnavailable = errors.New("the store cannot be used")
	ErrTimeout     = errors.New("the store did not answer in time")
	ErrUntrusted   = errors.New("the store gave an answer that cannot be trusted")
)

// ConflictError is an [ErrConflict] with what is stored and what was offered.
type ConflictError struct {
	Stored Info
	Size   int64  // offered
	SHA256 SHA256 // offered; unknown when the declared size alone decided and nothing was read
}

// Error names both sizes and digests, so that the one who publishes can tell which of the two is meant.
func (e *ConflictError) Error() string {
	offered := fmt.Sprintf("%d bytes", e.Size)
	if e.SHA256.Known() {
		offered += " with sha256 " + e.SHA256.String()
	}
	return fmt.Sprintf("%v: stored are %d bytes with sha256 %s, offered were %s",
		ErrConflict, e.Stored.Size, e.Stored.SHA256, offered)
}

// Is makes every ConflictError an ErrConflict.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// refuse decides what can be decided about an existing artifact before a byte of the new one is read.
func (o PutOptions) refuse(stored Info) error {
	if o.IfAbsent {
		return ErrExists
	}
	if !o.Overwrite && o.Size >= 0 && o.Size != stored.Size {
		return &ConflictError{Stored: stored, Size: o.Size}
	}
	return nil
}
