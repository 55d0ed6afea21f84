package storetest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"depot/store"
)

func testDelete(t *testing.T, s store.Store) {
	key, other := Key(t, "de/lete/1.zip"), Key(t, "de/lete/1.0.zip")
	mustPut(t, s, key, []byte("one"))
	mustPut(t, s, other, []byte("other"))
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	mustBeAbsent(t, s, key)
	for _, gone := range []store.Key{key, Key(t, "de/leted/1.zip"), Key(t, "never/was/1.zip")} {
		if err := s.Delete(t.Context(), gone); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Delete %s = %v, want ErrNotFound", gone, err)
		}
	}
	mustHold(t, s, other, []byte("other"))
	mustPut(t, s, key, []byte("again"))
	mustHold(t, s, key, []byte("again"))
}

var neighbours = []string{
	"a/b/1.0-rc.1.zip", "a/b/1.0.zip", "a/b/1.zip", "a/b/1.0.0+build.5.zip", "a/b/1.0.zip.zip", "a/b-c/1.zip", "a-b/c/1.zip",
	"a.b/c/1.zip", "a/bc/1.zip", "ab/c/1.zip", "A/b/1.zip", "a/b/V1.zip", "a@1/b/1.zip", "a~/b/1.zip", "a/b+/1.zip", "upload/b/1.zip",
}

func testNeighbours(t *testing.T, s store.Store) {
	for _, text := range neighbours {
		mustPut(t, s, Key(t, text), []byte(text))
	}
	for _, text := range neighbours {
		mustHold(t, s, Key(t, text), []byte(text))
	}
	for i, text := range neighbours {
		if err := s.Delete(t.Context(), Key(t, text)); err != nil {
			t.Fatal(err)
		}
		mustBeAbsent(t, s, Key(t, text))
		for _, rest := range neighbours[i+1:] {
			mustHold(t, s, Key(t, rest), []byte(rest))
		}
	}
}

func keys(t *testing.T, s store.Store, prefix string) []string {
	t.Helper()
	got := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		if info.Size != int64(len(info.Key.String())) || info.ModTime.IsZero() {
			t.Errorf("List yields %+v", info)
		}
		got = append(got, info.Key.String())
	}
	return got
}

func testList(t *testing.T, s store.Store) {
	if got := keys(t, s, ""); len(got) != 0 {
		t.Errorf("an empty store lists %v", got)
	}
	want := []string{}
	for _, ns := range []string{"a", "a-b", "a.b", "a0", "ab", "A", "z@", "~"} {
		for _, name := range []string{"n", "n-m", "n+", "n0"} {
			for _, version := range []string{"1", "1.0", "1.0-rc.1", "1.0+b", "10", "2"} {
				want = append(want, ns+"/"+name+"/"+version+".zip")
			}
		}
	}
	for _, i := range rand.Perm(len(want)) {
		mustPut(t, s, Key(t, want[i]), []byte(want[i]))
	}
	sortBytes(want)
	if diff := cmp.Diff(want, keys(t, s, "")); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

func sortBytes(texts []string) {
	for i := range texts { // insertion sort: the suite's order must not come from the code a backend sorts with
		for j := i; j > 0 && bytes.Compare([]byte(texts[j]), []byte(texts[j-1])) < 0; j-- {
			texts[j], texts[j-1] = texts[j-1], texts[j]
		}
	}
}

func testListPrefix(t *testing.T, s store.Store) {
	for _, text := range neighbours {
		mustPut(t, s, Key(t, text), []byte(text))
	}
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "a/b/1", "a/b/1.0", "a/b/1.0.zip", "a/b/1.0.zip.zip", "a/b/1.zipp", "a-", "x", "ab/c/", "/", "a//"} {
		want := []string{}
		for _, text := range neighbours {
			if strings.HasPrefix(text, prefix) {
				want = append(want, text)
			}
		}
		sortBytes(want)
		if diff := cmp.Diff(want, keys(t, s, prefix)); diff != "" {
			t.Errorf("List %q (-want +got):\n%s", prefix, diff)
		}
	}
}

func testListStops(t *testing.T, s store.Store) {
	for _, text := range neighbours {
		mustPut(t, s, Key(t, text), []byte(text))
	}
	n := 0
	for _, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("the listing was left after %d", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n = 0
	var last error
	for _, err := range s.List(ctx, "") {
		last = err
		if n++; n == 2 {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("a cancelled listing ended after %d with %v", n, last)
	}
}

func testCheck(t *testing.T, s store.Store) {
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
