package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"depot/store"
	"depot/store/s3test"
	"depot/store/storetest"
)

// hostile is a service that answers as a test wants it to; what the test leaves alone goes to a real one.
func hostile(t *testing.T, patience time.Duration, answer func(w http.ResponseWriter, r *http.Request) bool) (s, straight *store.S3) {
	t.Helper()
	s3test.Setenv()
	server := s3test.Versitygw.Start(t)
	proxy := s3test.NewProxy(t, server.Endpoint)
	bucket := server.Bucket()
	straight = openS3(t, server.Endpoint, "s3://"+bucket, nil)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "ns/name") || !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	front.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			_ = c.(*net.TCPConn).SetReadBuffer(64 << 10) // so that taking a body slowly is felt on the other side
		}
	}
	front.Start()
	t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
	return openS3(t, front.URL, "s3://"+bucket, func(c *store.S3Config) { c.Patience = patience }), straight
}

// A service that refuses every write, as if there were something else, is not sent the body again and again.
func TestS3EndlessConflict(t *testing.T) {
	for _, status := range []int{http.StatusConflict, http.StatusPreconditionFailed} {
		puts := atomic.Int64{}
		s, _ := hostile(t, 10*time.Second, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			puts.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
			return true
		})
		_, _, err := s.Put(t.Context(), storetest.Key(t, "ns/name/1.zip"), strings.NewReader("x"), store.PutOptions{Size: 1})
		if !errors.Is(err, store.ErrUnavailable) || puts.Load() > 10 {
			t.Errorf("%d: %v after %d attempts", status, err, puts.Load())
		}
	}
}

// A delete whose answer is lost is not repeated on what another replica has published meanwhile.
func TestS3DeleteIsNotRepeatedOnAnother(t *testing.T) {
	var straight *store.S3
	key := storetest.Key(t, "ns/name/1.zip")
	s, other := hostile(t, 10*time.Second, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete {
			return false
		}
		if err := straight.Delete(r.Context(), key); err != nil {
			t.Error(err)
		}
		if _, _, err := straight.Put(r.Context(), key, strings.NewReader("second"), store.PutOptions{Size: 6}); err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler)
	})
	straight = other
	if _, _, err := straight.Put(t.Context(), key, strings.NewReader("first"), store.PutOptions{Size: 5}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), key); err != nil {
		t.Error(err)
	}
	if info, err := straight.Stat(t.Context(), key); err != nil || info.Size != 6 {
		t.Errorf("the second artifact: %+v, %v", info, err)
	}
}

// What a service says is neither believed nor repeated without measure.
func TestS3LyingService(t *testing.T) {
	key, body := storetest.Key(t, "ns/name/1.zip"), storetest.Bytes(1, 1000)
	head := func(w http.ResponseWriter, tag, digest string, length int) {
		w.Header().Set("ETag", `"`+tag+`"`)
		w.Header().Set("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
		w.Header().Set("Content-Length", fmt.Sprint(length))
		if digest != "" {
			w.Header().Set("X-Amz-Meta-Depot-Sha256", digest)
		}
	}
	put := func(s *store.S3) error {
		_, _, err := s.Put(t.Context(), key, bytes.NewReader(body), store.PutOptions{Size: 1000})
		return err
	}
	open := func(s *store.S3) error {
		object, err := s.Open(t.Context(), key)
		if err == nil {
			_, err = io.Copy(io.Discard, object)
			_ = object.Close()
		}
		return err
	}
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, n int64) bool
		do     func(s *store.S3) error
		want   error
	}{
		"stores three bytes": {func(w http.ResponseWriter, r *http.Request, n int64) bool {
			switch {
			case r.Method == http.MethodPut:
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("ETag", `"tag"`)
			case n == 1:
				w.WriteHeader(http.StatusNotFound)
			default:
				head(w, "tag", "", 3)
			}
			return true
		}, put, store.ErrUntrusted},
		"sends a part as the whole": {func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
			head(w, "tag", strings.Repeat("00", 32), 10)
			w.Header().Set("Content-Range", "bytes 0-9/1000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(body[:10])
			return true
		}, open, store.ErrUntrusted},
		"sends another object's rest": {func(w http.ResponseWriter, r *http.Request, n int64) bool {
			head(w, fmt.Sprintf("tag-%d", n), strings.Repeat("00", 32), 1000)
			_, _ = w.Write(body)
			return true
		}, func(s *store.S3) error {
			object, err := s.Open(t.Context(), key)
			if err != nil {
				return fmt.Errorf("open: %s", err)
			}
			defer object.Close()
			_, _ = object.Read(make([]byte, 10))
			_, _ = object.Seek(0, io.SeekStart)
			_, err = object.Read(make([]byte, 10))
			return err
		}, store.ErrUntrusted},
		"drips": {func(w http.ResponseWriter, r *http.Request, _ int64) bool {
			head(w, "tag", "", 1<<20)
			for range 100 {
				_, _ = w.Write([]byte("x"))
				w.(http.Flusher).Flush()
				time.Sleep(100 * time.Millisecond)
				if r.Context().Err() != nil {
					break
				}
			}
			return true
		}, open, store.ErrTimeout},
		"talks too much": {func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error><Code>"+strings.Repeat("C", 1e6)+"</Code><Message>"+strings.Repeat("M", 1e6)+"</Message></Error>")
			return true
		}, func(s *store.S3) error {
			err := open(s)
			if err != nil && len(err.Error()) > 2000 {
				return fmt.Errorf("an error of %d bytes", len(err.Error()))
			}
			return err
		}, store.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			n := atomic.Int64{}
			s, _ := hostile(t, 2*time.Second, func(w http.ResponseWriter, r *http.Request) bool { return test.answer(w, r, n.Add(1)) })
			if err := test.do(s); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

// A transfer may take many times the patience as long as it moves, in either direction; and the time in which nobody wants
// more does not count.
func TestS3SlowTransfers(t *testing.T) {
	const patience, pieces, size = time.Second, 12, 1_000_000
	body := storetest.Bytes(1, pieces*size)
	s, straight := hostile(t, patience, func(w http.ResponseWriter, r *http.Request) bool {
		switch r.Method {
		case http.MethodPut: // takes the body slowly, and passes it on
			var got bytes.Buffer
			for range pieces {
				time.Sleep(patience / 4)
				_, _ = io.CopyN(&got, r.Body, size)
			}
			r.Body = io.NopCloser(&got)
		case http.MethodGet:
			w.Header().Set("ETag", `"tag"`)
			w.Header().Set("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			for i := range pieces {
				time.Sleep(patience / 4)
				_, _ = w.Write(body[i*size : (i+1)*size])
				w.(http.Flusher).Flush()
			}
			return true
		}
		return false
	})
	key := storetest.Key(t, "ns/name/1.zip")
	if _, _, err := s.Put(t.Context(), key, bytes.NewReader(body), store.PutOptions{Size: int64(len(body))}); err != nil {
		t.Errorf("a slow upload: %v", err)
	}
	if _, err := straight.Stat(t.Context(), key); err != nil {
		t.Error(err)
	}
	object, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer object.Close()
	half := make([]byte, len(body)/2)
	if _, err := io.ReadFull(object, half); err != nil || !bytes.Equal(half, body[:len(half)]) {
		t.Errorf("the first half of a slow download: %v", err)
	}
	time.Sleep(2 * patience) // the one who downloads takes a rest
	if rest, err := io.ReadAll(object); err != nil || !bytes.Equal(rest, body[len(half):]) {
		t.Errorf("the second half: %d bytes, %v", len(rest), err)
	}
}

// The status comes first: a failure is none of "not found", whatever it says; and what will not go away is not tried again
// and again.
func TestS3StatusBeforeCode(t *testing.T) {
	for _, test := range []struct {
		status int
		code   string
		want   error
	}{{500, "NoSuchKey", store.ErrUnavailable}, {403, "NoSuchKey", store.ErrUnavailable}, {409, "ObjectParentIsFile", store.ErrUnavailable}, {507, "XMinioStorageFull", store.ErrFull}, {403, "QuotaExceeded", store.ErrFull}} {
		puts := atomic.Int64{}
		s, _ := hostile(t, 10*time.Second, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				return false
			}
			puts.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(test.status)
			_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>injected</Message></Error>", test.code)
			return true
		})
		key := storetest.Key(t, "ns/name/1.zip")
		if _, err := s.Open(t.Context(), key); !errors.Is(err, test.want) || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%d %s: Open %v", test.status, test.code, err)
		}
		puts.Store(0)
		if _, _, err := s.Put(t.Context(), key, strings.NewReader("x"), store.PutOptions{Size: 1}); !errors.Is(err, test.want) || puts.Load() > 4 || test.status != 500 && test.status != 409 && puts.Load() != 1 {
			t.Errorf("%d %s: Put %v after %d attempts", test.status, test.code, err, puts.Load())
		}
	}
}

// Cookies are not kept: a service that sets them would fill the memory, and every request.
func TestS3Cookies(t *testing.T) {
	var mu sync.Mutex
	got := 0
	s, _ := hostile(t, 10*time.Second, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		got += len(r.Header.Get("Cookie"))
		if encoding := r.Header.Get("Accept-Encoding"); strings.Contains(encoding, "gzip") {
			t.Errorf("it asks for %s: what comes would be unpacked", encoding)
		}
		w.Header().Add("Set-Cookie", "a=b")
		return false
	})
	for range 3 {
		_, _ = s.Stat(t.Context(), storetest.Key(t, "ns/name/1.zip"))
	}
	if got != 0 {
		t.Errorf("%d bytes of cookies were sent back", got)
	}
}

// A listing that does not end is given up.
func TestS3EndlessListing(t *testing.T) {
	s3test.Setenv()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet:
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("ETag", `"x"`)
		case r.URL.Query().Get("max-keys") == "1":
			_, _ = io.WriteString(w, "<ListBucketResult></ListBucketResult>")
		default:
			_, _ = io.WriteString(w, "<ListBucketResult><Name>")
			for range 64 {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
					return
				}
			}
			_, _ = io.WriteString(w, "</Name></ListBucketResult>")
		}
	}))
	defer server.Close()
	s := openS3(t, server.URL, "s3://bucket", func(c *store.S3Config) { c.Overwrite = true })
	for _, err := range s.List(t.Context(), "") {
		if err == nil {
			t.Error("it lists something")
		}
		return
	}
	t.Error("a listing of 64 MiB was read to its end")
}

// In a directory that others use too, nothing of theirs is touched, and nothing of theirs stops the start.
func TestS3SharedStaging(t *testing.T) {
	s3test.Setenv()
	server := s3test.Versitygw.Start(t)
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"depot-upload-holiday.zip": 0o644, "depot-upload-": 0o644, "other": 0} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), mode); err != nil {
			t.Fatal(err)
		}
	}
	const staged = "depot-upload-ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, staged)); err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(dir, "depot-upload-BBBBBBBBBBBBBBBBBBBBBBBBBB")
	if err := os.WriteFile(leftover, []byte("of a dead process"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenS3(context.Background(), store.S3Config{Store: "s3://" + server.Bucket(), S3Endpoint: server.Endpoint, S3Region: "us-east-1", S3PathStyle: "auto", S3CreateBucket: true, StagingDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, err := os.Lstat(leftover); err == nil {
		t.Error("the leftover of a dead process is still there")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 4 {
		t.Errorf("there is %v, %v", left, err)
	}
	// The largest that stays in memory, and its neighbours, from readers of every kind.
	for _, size := range []int{256<<10 - 1, 256 << 10, 256<<10 + 1} {
		for _, declared := range []int64{-1, int64(size), int64(size) + 10} {
			body := storetest.Bytes(1, size)
			key := storetest.Key(t, fmt.Sprintf("ns/name/%d.%d.zip", size, declared+1))
			_, _, err := s.Put(t.Context(), key, iotest.DataErrReader(bytes.NewReader(body)), store.PutOptions{Size: declared})
			if declared > int64(size) != errors.Is(err, store.ErrMismatch) || err != nil && declared <= int64(size) {
				t.Errorf("%d bytes, %d declared: %v", size, declared, err)
			}
		}
	}
}
