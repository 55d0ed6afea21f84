package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"depot/store"
)

var errReader = errors.New("the reader failed")

// after yields n bytes and then err.
func after(n int, err error) io.Reader {
	return io.MultiReader(bytes.NewReader(Bytes(9, n)), errorReader{err})
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// cancelling yields n bytes, cancels, and goes on with more.
type cancelling struct {
	io.Reader
	cancel func()
}

func (c cancelling) Read(p []byte) (int, error) {
	c.cancel()
	return c.Reader.Read(p)
}

func testBadReaders(t *testing.T, s store.Store) {
	for _, n := range []int{0, 1, 1000, 256 << 10, 1 << 20} {
		for _, test := range []struct {
			name string
			size int64
			body io.Reader
			want error
		}{
			{"failing", int64(n) + 1, after(n, errReader), errReader},
			{"failing, length unknown", -1, after(n, errReader), errReader},
			{"cut short", int64(n) + 1, after(n, io.ErrUnexpectedEOF), io.ErrUnexpectedEOF},
			{"cut short, length unknown", -1, after(n, io.ErrUnexpectedEOF), io.ErrUnexpectedEOF},
			{"cut short at its declared end", int64(n), after(n, io.ErrUnexpectedEOF), io.ErrUnexpectedEOF},
			{"shorter than declared", int64(n) + 1, after(n, io.EOF), store.ErrMismatch},
			{"longer than declared", int64(n), after(n+1, io.EOF), store.ErrMismatch},
		} {
			t.Run(fmt.Sprintf("%s/%d", test.name, n), func(t *testing.T) {
				key := Key(t, "bad/reader/1.zip")
				_, _, err := s.Put(t.Context(), key, test.body, store.PutOptions{Size: test.size})
				if !errors.Is(err, test.want) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				mustBeAbsent(t, s, key)
			})
		}
		t.Run(fmt.Sprintf("cancelled/%d", n), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			body := io.MultiReader(bytes.NewReader(Bytes(9, n)), cancelling{bytes.NewReader(Bytes(9, 1<<20)), cancel})
			key := Key(t, "bad/reader/2.zip")
			_, _, err := s.Put(ctx, key, body, store.PutOptions{Size: -1})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want %v", err, context.Canceled)
			}
			mustBeAbsent(t, s, key)
		})
	}
	t.Run("empty", func(t *testing.T) {
		for _, size := range []int64{0, -1} {
			key := Key(t, "bad/reader/3.zip")
			if _, _, err := put(t, s, key, nil, store.PutOptions{Size: size}); !errors.Is(err, store.ErrMismatch) {
				t.Errorf("error %v, want ErrMismatch", err)
			}
			mustBeAbsent(t, s, key)
		}
	})
	t.Run("do not harm what is stored", func(t *testing.T) {
		key, body := Key(t, "bad/reader/4.zip"), Bytes(10, 5000)
		mustPut(t, s, key, body)
		for _, r := range []io.Reader{after(4999, errReader), after(4999, io.EOF), after(5001, io.EOF)} {
			if _, _, err := s.Put(t.Context(), key, r, store.PutOptions{Size: 5000, Overwrite: true}); err == nil {
				t.Error("a bad body was stored")
			}
			mustHold(t, s, key, body)
		}
	})
}
