// Package storetest checks that a backend keeps the promises of [store.Store]. A backend's own test is only its harness:
//
//	func TestMine(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { return openMine(t) })
//	}
package storetest

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"depot/store"
)

// Run runs the suite. open returns an empty store, a new one at each call.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s store.Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"Seek", testSeek},
		{"Missing", testMissing},
		{"SameBytes", testSameBytes},
		{"ConflictKeepsTheOriginal", testConflict},
		{"IfAbsent", testIfAbsent},
		{"Overwrite", testOverwrite},
		{"DecidedBeforeTheBody", testDecidedBeforeTheBody},
		{"Digests", testDigests},
		{"BadReaders", testBadReaders},
		{"ManyPutsOneWinner", testManyPuts},
		{"ManyIfAbsentOneCreated", testManyIfAbsent},
		{"ManyOverwritesNoMixture", testManyOverwrites},
		{"ReadersDuringReplacement", testReadersDuringReplacement},
		{"OpenSurvivesDelete", testOpenSurvivesDelete},
		{"Delete", testDelete},
		{"PutsAndDeletesMeet", testPutsAndDeletes},
		{"Neighbours", testNeighbours},
		{"List", testList},
		{"ListPrefix", testListPrefix},
		{"ListStops", testListStops},
		{"Check", testCheck},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// Key parses a key that is known to be valid.
func Key(t testing.TB, text string) store.Key {
	t.Helper()
	k, err := store.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Bytes are n bytes that differ from those of every other seed, the same at each call.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func put(t *testing.T, s store.Store, key store.Key, body []byte, opts store.PutOptions) (store.Info, store.Outcome, error) {
	t.Helper()
	return s.Put(t.Context(), key, bytes.NewReader(body), opts)
}

func mustPut(t *testing.T, s store.Store, key store.Key, body []byte) store.Info {
	t.Helper()
	info, outcome, err := put(t, s, key, body, store.PutOptions{Size: int64(len(body))})
	if err != nil || outcome != store.Created {
		t.Fatalf("Put %s: outcome %v, error %v", key, outcome, err)
	}
	return info
}

// mustHold fails unless the key holds exactly these bytes, by Open and by Stat.
func mustHold(t *testing.T, s store.Store, key store.Key, want []byte) {
	t.Helper()
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	got, err := io.ReadAll(o)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s holds %d bytes with sha256 %x, want %d with %x", key, len(got), sha256.Sum256(got), len(want), sha256.Sum256(want))
	}
	info, err := s.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != key || info.Size != int64(len(want)) || info.SHA256 != sha256.Sum256(want) || info.ModTime.IsZero() {
		t.Fatalf("Stat %s = %+v, want %d bytes with %x", key, info, len(want), sha256.Sum256(want))
	}
	if o.Size != info.Size || o.SHA256 != info.SHA256 || !o.ModTime.Equal(info.ModTime) || o.Key != key {
		t.Fatalf("Open and Stat disagree: %+v, %+v", o.Info, info)
	}
}

func mustBeAbsent(t *testing.T, s store.Store, key store.Key) {
	t.Helper()
	if _, err := s.Open(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Open %s = %v, want ErrNotFound", key, err)
	}
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Stat %s = %v, want ErrNotFound", key, err)
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Key == key {
			t.Fatalf("List has %v, %v", info.Key, err)
		}
	}
}

func testRoundTrip(t *testing.T, s store.Store) {
	for i, size := range []int{1, 2, 511, 512, 4095, 4096, 65535, 65536, 65537, 256<<10 - 1, 256 << 10, 256<<10 + 1, 1 << 20, 5<<20 + 3, 64 << 20} {
		for _, declared := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d/declared=%v", size, declared), func(t *testing.T) {
				key := Key(t, fmt.Sprintf("round/trip/%d-%v.zip", size, declared))
				body := Bytes(uint64(i), size)
				opts := store.PutOptions{Size: -1}
				if declared {
					opts.Size = int64(size)
				}
				info, outcome, err := put(t, s, key, body, opts)
				if err != nil || outcome != store.Created {
					t.Fatalf("outcome %v, error %v", outcome, err)
				}
				if info.Key != key || info.Size != int64(size) || info.SHA256 != sha256.Sum256(body) {
					t.Fatalf("Put returned %+v", info)
				}
				mustHold(t, s, key, body)
			})
		}
	}
}

func testSeek(t *testing.T, s store.Store) {
	key, body := Key(t, "seek/er/1.zip"), Bytes(1, 300_000)
	mustPut(t, s, key, body)
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, at := range []struct {
		offset int64
		whence int
		from   int
	}{
		{0, io.SeekStart, 0}, {299_999, io.SeekStart, 299_999}, {-5, io.SeekEnd, 299_995}, {65_536, io.SeekStart, 65_536},
		{-100, io.SeekCurrent, 65_536 + 16 - 100}, {0, io.SeekEnd, 300_000},
	} {
		pos, err := o.Seek(at.offset, at.whence)
		if err != nil || pos != int64(at.from) {
			t.Fatalf("Seek(%d, %d) = %d, %v; want %d", at.offset, at.whence, pos, err, at.from)
		}
		got := make([]byte, 16)
		n, err := io.ReadFull(o, got)
		want := body[at.from:min(at.from+16, len(body))]
		if !bytes.Equal(got[:n], want) {
			t.Fatalf("at %d: read %x (%v), want %x", at.from, got[:n], err, want)
		}
	}
}

func testMissing(t *testing.T, s store.Store) {
	mustPut(t, s, Key(t, "some/thing/1.zip"), []byte("x"))
	for _, text := range []string{"no/thing/1.zip", "some/nothing/1.zip", "some/thing/2.zip"} {
		mustBeAbsent(t, s, Key(t, text))
	}
}

func testSameBytes(t *testing.T, s store.Store) {
	key, body := Key(t, "same/bytes/1.zip"), Bytes(2, 70_000)
	first := mustPut(t, s, key, body)
	for _, opts := range []store.PutOptions{{Size: 70_000}, {Size: -1}, {Size: 70_000, Overwrite: true}} {
		info, outcome, err := put(t, s, key, body, opts)
		if err != nil || outcome != store.Unchanged || info.SHA256 != first.SHA256 || info.Size != first.Size {
			t.Fatalf("%+v: %+v, %v, %v", opts, info, outcome, err)
		}
	}
	mustHold(t, s, key, body)
}

func testConflict(t *testing.T, s store.Store) {
	key, body := Key(t, "con/flict/1.zip"), Bytes(3, 70_000)
	mustPut(t, s, key, body)
	for name, other := range map[string][]byte{"same size": Bytes(4, 70_000), "longer": Bytes(3, 70_001), "shorter": body[:1]} {
		for _, size := range []int64{int64(len(other)), -1} {
			_, _, err := put(t, s, key, other, store.PutOptions{Size: size})
			var conflict *store.ConflictError
			if !errors.Is(err, store.ErrConflict) || !errors.As(err, &conflict) {
				t.Fatalf("%s: error %v, want a ConflictError", name, err)
			}
			if conflict.Stored.SHA256 != sha256.Sum256(body) || conflict.Stored.Size != 70_000 || conflict.Size != int64(len(other)) {
				t.Errorf("%s: %+v", name, conflict)
			}
			if conflict.SHA256.Known() && conflict.SHA256 != sha256.Sum256(other) {
				t.Errorf("%s: the offered digest is %v", name, conflict.SHA256)
			}
			mustHold(t, s, key, body)
		}
	}
}

func testIfAbsent(t *testing.T, s store.Store) {
	key, body := Key(t, "if/absent/1.zip"), Bytes(5, 1000)
	if _, outcome, err := put(t, s, key, body, store.PutOptions{Size: 1000, IfAbsent: true}); err != nil || outcome != store.Created {
		t.Fatal(outcome, err)
	}
	for _, opts := range []store.PutOptions{{Size: 1000}, {Size: -1}, {Size: 1000, Overwrite: true}} {
		opts.IfAbsent = true
		for _, b := range [][]byte{body, Bytes(6, 1000)} {
			if _, _, err := put(t, s, key, b, opts); !errors.Is(err, store.ErrExists) {
				t.Fatalf("%+v: %v, want ErrExists", opts, err)
			}
		}
	}
	mustHold(t, s, key, body)
}

func testOverwrite(t *testing.T, s store.Store) {
	key := Key(t, "over/write/1.zip")
	for i, want := range []store.Outcome{store.Created, store.Replaced, store.Replaced} {
		body := Bytes(uint64(i), 100_000+i)
		info, outcome, err := put(t, s, key, body, store.PutOptions{Size: int64(len(body)), Overwrite: true})
		if err != nil || outcome != want || info.SHA256 != sha256.Sum256(body) {
			t.Fatalf("%d: %+v, %v, %v", i, info, outcome, err)
		}
		mustHold(t, s, key, body)
	}
}

// untouched fails the test when it is read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func testDecidedBeforeTheBody(t *testing.T, s store.Store) {
	key := Key(t, "before/body/1.zip")
	mustPut(t, s, key, Bytes(7, 1000))
	for _, test := range []struct {
		opts store.PutOptions
		want error
	}{
		{store.PutOptions{Size: 999}, store.ErrConflict},
		{store.PutOptions{Size: 1000, IfAbsent: true}, store.ErrExists},
		{store.PutOptions{Size: -1, IfAbsent: true, Overwrite: true}, store.ErrExists},
	} {
		if _, _, err := s.Put(t.Context(), key, untouched{t}, test.opts); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v, want %v", test.opts, err, test.want)
		}
	}
}

func testDigests(t *testing.T, s store.Store) {
	body := Bytes(8, 300_000)
	right256, right512 := sha256.Sum256(body), sha512.Sum512(body)
	wrong256, wrong512 := sha256.Sum256(nil), sha512.Sum512(nil)
	d256 := func(sum [32]byte) store.Digest { return store.Digest{Algorithm: store.AlgorithmSHA256, Sum: sum[:]} }
	d512 := func(sum [64]byte) store.Digest { return store.Digest{Algorithm: store.AlgorithmSHA512, Sum: sum[:]} }
	for name, wrong := range map[string][]store.Digest{
		"sha-256":                {d256(wrong256)},
		"sha-512":                {d512(wrong512)},
		"right and wrong":        {d256(right256), d512(wrong512)},
		"both algorithms, first": {d256(wrong256), d512(right512)},
		"twice":                  {d256(right256), d256(wrong256)},
		"truncated":              {{Algorithm: store.AlgorithmSHA256, Sum: right256[:31]}},
		"unknown algorithm":      {{Algorithm: "sha-1", Sum: right256[:20]}},
	} {
		key := Key(t, "dig/est/wrong.zip")
		if _, _, err := put(t, s, key, body, store.PutOptions{Size: int64(len(body)), Digests: wrong}); !errors.Is(err, store.ErrMismatch) {
			t.Errorf("%s: %v, want ErrMismatch", name, err)
		}
		mustBeAbsent(t, s, key)
	}
	key := Key(t, "dig/est/right.zip")
	right := []store.Digest{d256(right256), d512(right512), d256(right256)}
	if _, outcome, err := put(t, s, key, body, store.PutOptions{Size: -1, Digests: right}); err != nil || outcome != store.Created {
		t.Fatal(outcome, err)
	}
	mustHold(t, s, key, body)
}
