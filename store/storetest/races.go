package storetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"depot/store"
)

const crowd = 50

// testManyPuts lets every writer hold back its last byte until all of them have come that far, so that they publish at
// the same time.
func testManyPuts(t *testing.T, s store.Store) {
	for _, size := range []int{1, 4096, 600_000} {
		key := Key(t, fmt.Sprintf("many/puts/%d.zip", size))
		var ready, done sync.WaitGroup
		ready.Add(crowd)
		outcomes, errs := make([]store.Outcome, crowd), make([]error, crowd)
		for i := range crowd {
			body := Bytes(uint64(i), size+1)
			body[size] = byte(i)
			done.Go(func() {
				last := cancelling{bytes.NewReader(body[size:]), sync.OnceFunc(func() { ready.Done(); ready.Wait() })}
				r := io.MultiReader(bytes.NewReader(body[:size]), last)
				_, outcomes[i], errs[i] = s.Put(t.Context(), key, r, store.PutOptions{Size: int64(size) + 1})
			})
		}
		done.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && outcomes[i] == store.Created && winner < 0:
				winner = i
			case err == nil:
				t.Errorf("writer %d won too: %v", i, outcomes[i])
			case !errors.Is(err, store.ErrConflict):
				t.Errorf("writer %d: %v", i, err)
			}
		}
		if winner < 0 {
			t.Fatal("no writer won")
		}
		want := Bytes(uint64(winner), size+1)
		want[size] = byte(winner)
		mustHold(t, s, key, want)
	}
}

// testManyIfAbsent lets many writers ask for the same thing: IfAbsent lets one have it, even where the bytes are the same.
func testManyIfAbsent(t *testing.T, s store.Store) {
	for round := range 3 {
		key, body := Key(t, fmt.Sprintf("many/absent/%d.zip", round)), Bytes(1, 5000)
		errs := make([]error, crowd)
		var done sync.WaitGroup
		for i := range crowd {
			done.Go(func() { _, _, errs[i] = put(t, s, key, body, store.PutOptions{Size: 5000, IfAbsent: true}) })
		}
		done.Wait()
		created := 0
		for _, err := range errs {
			if err == nil {
				created++
			} else if !errors.Is(err, store.ErrExists) {
				t.Error(err)
			}
		}
		if created != 1 {
			t.Errorf("%d of %d were told that they created it", created, crowd)
		}
		mustHold(t, s, key, body)
	}
}

func testManyOverwrites(t *testing.T, s store.Store) {
	key := Key(t, "many/overwrites/1.zip")
	var done sync.WaitGroup
	for i := range crowd {
		done.Go(func() {
			if _, _, err := put(t, s, key, Bytes(uint64(i), 300_000), store.PutOptions{Size: 300_000, Overwrite: true}); err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	done.Wait()
	info, err := s.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range crowd {
		if body := Bytes(uint64(i), 300_000); sha256.Sum256(body) == info.SHA256 {
			mustHold(t, s, key, body)
			return
		}
	}
	t.Fatalf("what is stored, %v, is none of the bodies", info.SHA256)
}

func testReadersDuringReplacement(t *testing.T, s store.Store) {
	key := Key(t, "read/replace/1.zip")
	bodies := [][]byte{Bytes(1, 400_000), Bytes(2, 300_000)}
	sums := map[store.SHA256]int{sha256.Sum256(bodies[0]): 400_000, sha256.Sum256(bodies[1]): 300_000}
	mustPut(t, s, key, bodies[0])
	stop := make(chan struct{})
	var done sync.WaitGroup
	for range 4 {
		done.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				o, err := s.Open(t.Context(), key)
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				got, err := io.ReadAll(o)
				_ = o.Close()
				if err != nil {
					t.Errorf("Read: %v", err)
				}
				if sum := store.SHA256(sha256.Sum256(got)); sums[sum] != len(got) || len(got) == 0 || o.SHA256 != sum {
					t.Errorf("read %d bytes with %v where %v was promised", len(got), sum, o.SHA256)
					return
				}
			}
		})
	}
	for i := range 60 {
		if _, outcome, err := put(t, s, key, bodies[(i+1)%2], store.PutOptions{Size: -1, Overwrite: true}); err != nil || outcome != store.Replaced {
			t.Errorf("replace: %v, %v", outcome, err)
		}
	}
	close(stop)
	done.Wait()
}

func testOpenSurvivesDelete(t *testing.T, s store.Store) {
	key, body := Key(t, "open/delete/1.zip"), Bytes(11, 1<<20)
	mustPut(t, s, key, body)
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("after a delete, an open artifact gave %d bytes, %v", len(got), err)
	}
}

func testPutsAndDeletes(t *testing.T, s store.Store) {
	key, body := Key(t, "puts/deletes/1.zip"), Bytes(12, 100)
	var done sync.WaitGroup
	for range 8 {
		done.Go(func() {
			for range 30 {
				if _, _, err := put(t, s, key, body, store.PutOptions{Size: 100}); err != nil {
					t.Errorf("Put: %v", err)
				}
				if err := s.Delete(t.Context(), key); err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("Delete: %v", err)
				}
			}
		})
	}
	done.Wait()
	mustBeAbsent(t, s, key)
}
