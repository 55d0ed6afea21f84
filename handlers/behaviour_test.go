package handlers_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"depot/auth"
	"depot/handlers"
	"depot/store"
	"depot/store/storetest"
)

// faulty is a store that fails as it is told: a real one cannot be made to on demand.
type faulty struct {
	store.Store
	err   error
	panic any
	open  func() (store.Object, error)
	check func(context.Context) error
}

func (f *faulty) fail() error {
	if f.panic != nil {
		panic(f.panic)
	}
	return f.err
}

func (f *faulty) Put(_ context.Context, _ store.Key, body io.Reader, _ store.PutOptions) (store.Info, store.Outcome, error) {
	_, err := io.Copy(io.Discard, body)
	return store.Info{}, 0, errors.Join(err, f.fail())
}

func (f *faulty) Open(context.Context, store.Key) (store.Object, error) {
	if f.open != nil {
		return f.open()
	}
	return store.Object{}, f.fail()
}

func (f *faulty) Stat(context.Context, store.Key) (store.Info, error)       { return store.Info{}, f.fail() }
func (f *faulty) Delete(context.Context, store.Key) error                   { return f.fail() }
func (f *faulty) List(context.Context, string) iter.Seq2[store.Info, error] { return nil }
func (f *faulty) Check(ctx context.Context) error {
	if f.check != nil {
		return f.check(ctx)
	}
	return f.fail()
}

func withStore(s store.Store) func(*options) { return func(o *options) { o.handlers.Store = s } }

const key = "ns/name/1.0.0.zip"

// Errors of the store become statuses in one place; what they say inside stays inside, and goes to the log.
func TestStoreErrors(t *testing.T) {
	const inside = "at /srv/private/path"
	for want, err := range map[int]error{
		404: store.ErrNotFound,
		409: &store.ConflictError{},
		412: store.ErrExists,
		400: store.ErrMismatch,
		502: store.ErrUntrusted,
		503: store.ErrUnavailable,
		504: store.ErrTimeout,
		507: store.ErrFull,
		500: errors.New("something else"),
	} {
		s := start(t, withStore(&faulty{err: fmt.Errorf("operation %s: %w", inside, fmt.Errorf("wrapped: %w", err))}))
		for _, method := range []string{"PUT", "GET", "HEAD", "DELETE"} {
			url, headers := s.url+"/"+key, []string{"Authorization", "Bearer " + uploadToken}
			if method == "GET" || method == "HEAD" {
				url, headers = url+"?token="+downloadToken, nil
			}
			response, body := s.do(t, method, url, strings.NewReader("hello"), headers...)
			if response.StatusCode != want || strings.Contains(body, inside) || method != "HEAD" && !strings.Contains(body, `"detail":"`) {
				t.Errorf("%s with %v: %s %s", method, err, response.Status, body)
			}
		}
		if n := strings.Count(s.log.String(), `"reason":"operation `+inside); n != 4 {
			t.Errorf("%v: %d of 4 reasons were logged:\n%s", err, n, s.log)
		}
	}
}

// A panic is a 500 like any other, costs one request, and its value is not logged unless the runtime made it.
func TestPanic(t *testing.T) {
	for name, value := range map[string]any{"text": "canary " + uploadToken, "error": errors.New("canary " + downloadToken), "runtime": nil} {
		t.Run(name, func(t *testing.T) {
			broken := &faulty{panic: value}
			if value == nil {
				broken.open = func() (store.Object, error) {
					var none []int
					return store.Object{}, fmt.Errorf("%d", none[len(os.Args)])
				}
			}
			s := start(t, withStore(broken))
			response, body := s.get(t, key)
			if response.StatusCode != 500 || !strings.Contains(body, response.Header.Get("X-Request-Id")) {
				t.Errorf("%s %s", response.Status, body)
			}
			log := s.log.String()
			if !strings.Contains(log, `"msg":"panic"`) || !strings.Contains(log, `"status":500`) || !strings.Contains(log, "behaviour_test.go") {
				t.Errorf("logged:\n%s", log)
			}
			if strings.Contains(log+body, "canary") || strings.Contains(log+body, downloadToken) || strings.Contains(log+body, base64.StdEncoding.EncodeToString([]byte(uploadToken))) {
				t.Errorf("a panic's value was written:\n%s%s", log, body)
			}
			if name == "runtime" && !strings.Contains(log, "index out of range") {
				t.Errorf("what the runtime said is not logged:\n%s", log)
			}
			if response, _ := s.do(t, "GET", s.url+"/healthz", nil); response.StatusCode != 200 {
				t.Errorf("after a panic: %s", response.Status)
			}
		})
	}
}

// shrinking is an artifact whose file turns out to be shorter than it was.
type shrinking struct{ *bytes.Reader }

func (shrinking) Close() error { return nil }

func (s shrinking) Read(p []byte) (int, error) {
	if s.Len() < 50_000 {
		return 0, io.EOF
	}
	return s.Reader.Read(p[:min(len(p), 10_000)])
}

// A download that cannot be completed is broken off: it must not look complete.
func TestShortDownloadIsNoCleanEnd(t *testing.T) {
	for _, size := range []int{60_000, 200_000, 9 << 20} {
		k, _ := store.ParseKey(key)
		s := start(t, withStore(&faulty{open: func() (store.Object, error) {
			return store.Object{Info: store.Info{Key: k, Size: int64(size)}, ReadSeekCloser: shrinking{bytes.NewReader(make([]byte, size))}}, nil
		}}))
		response, err := http.Get(s.url + "/" + key + "?token=" + downloadToken)
		if err != nil {
			continue // broken off before the header got through: no clean end either
		}
		got, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err == nil || len(got) >= size {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		if !strings.Contains(s.log.String(), "broke off") {
			t.Errorf("logged:\n%s", s.log)
		}
	}
}

// The same with a real file that is cut while it is sent.
func TestTruncatedFileIsNoCleanEnd(t *testing.T) {
	s := start(t, nil)
	const size = 20 << 20
	s.put(t, key, strings.Repeat("x", size))
	conn := s.dial(t)
	_, _ = io.WriteString(conn, "GET /"+key+"?token="+downloadToken+" HTTP/1.1\r\nHost: x\r\n\r\n")
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(s.dir, key), 15<<20); err != nil { // it is not all sent yet: nobody reads
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, response.Body); err == nil || n >= size {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

func (s *server) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // so that a hang fails the test
	return conn.(*net.TCPConn)
}

const impatient = 300 * time.Millisecond

func impatience(o *options) { o.handlers.Patience = impatient }

// A stalled upload is told so, leaves nothing, and frees its connection.
func TestStalledUpload(t *testing.T) { onEachBackend(t, testStalledUpload) }

func testStalledUpload(t *testing.T, on func(*options)) {
	for _, rest := range []string{"Content-Length: 1000000\r\n\r\nhello", "Content-Length: 5\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
		s := start(t, on, impatience)
		conn := s.dial(t)
		_, _ = io.WriteString(conn, "PUT /"+key+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+uploadToken+"\r\n"+rest)
		r := bufio.NewReader(conn)
		response, err := http.ReadResponse(r, nil)
		if err != nil || response.StatusCode != 408 || !response.Close {
			t.Fatalf("%q: %v, %v", rest, response, err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Error(err)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%q: the connection is not closed: %v", rest, err)
		}
		s.mustBeTidy(t)
	}
}

// An honest upload may take many times the patience, as long as it moves.
func TestSlowUploadIsTaken(t *testing.T) { onEachBackend(t, testSlowUploadIsTaken) }

func testSlowUploadIsTaken(t *testing.T, on func(*options)) {
	s := start(t, on, impatience)
	conn := s.dial(t)
	const parts = 12
	_, _ = fmt.Fprintf(conn, "PUT /%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", key, uploadToken, parts*70_000)
	for range parts {
		time.Sleep(impatient / 4)
		_, _ = conn.Write(make([]byte, 70_000))
	}
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 201 {
		t.Errorf("%v, %v", response, err)
	}
}

// A client that does not read is given up; one that reads slowly is not.
func TestSlowDownload(t *testing.T) { onEachBackend(t, testSlowDownload) }

func testSlowDownload(t *testing.T, on func(*options)) {
	s := start(t, on, impatience)
	const size = 24 << 20
	s.put(t, key, strings.Repeat("x", size))
	get := func() (*net.TCPConn, *http.Response) {
		conn := s.dial(t)
		_ = conn.SetReadBuffer(64 << 10)
		_, _ = io.WriteString(conn, "GET /"+key+"?token="+downloadToken+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, response
	}
	_, stalled := get()
	_, slow := get()
	got, buffer := int64(0), make([]byte, 400_000)
	for range 10 {
		n, err := io.ReadFull(slow.Body, buffer)
		got += int64(n)
		if err != nil {
			t.Fatalf("a slow reader was cut off after %d bytes: %v", got, err)
		}
		time.Sleep(impatient / 3)
	}
	n, err := io.Copy(io.Discard, slow.Body)
	if got += n; err != nil || got != size {
		t.Errorf("a slow reader got %d bytes, %v", got, err)
	}
	for !strings.Contains(s.log.String(), "broke off") { // the go test timeout ends a server that never gives up
		time.Sleep(impatient / 10)
	}
	if n, err := io.Copy(io.Discard, stalled.Body); err == nil || n >= size {
		t.Errorf("one that did not read got %d bytes, %v", n, err)
	}
}

// What is left of a deadline of one request does not end the next one on the connection.
func TestKeepAliveAfterPatience(t *testing.T) { onEachBackend(t, testKeepAliveAfterPatience) }

func testKeepAliveAfterPatience(t *testing.T, on func(*options)) {
	s := start(t, on, impatience)
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	for i := range 4 {
		body := strings.Repeat("x", 100_000)
		_, _ = fmt.Fprintf(conn, "PUT /ns/name/%d.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", i, uploadToken, len(body))
		if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
			t.Fatalf("request %d: %q, %v", i, line, err)
		}
		_, _ = r.ReadString('\n')
		_, _ = io.WriteString(conn, body)
		response, err := http.ReadResponse(r, nil)
		if err != nil || response.StatusCode != 201 {
			t.Fatalf("request %d: %v, %v", i, response, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		time.Sleep(impatient * 2)
	}
}

// After a full body the connection is used again; that is what makes many small uploads cheap.
func TestConnectionIsReused(t *testing.T) { onEachBackend(t, testConnectionIsReused) }

func testConnectionIsReused(t *testing.T, on func(*options)) {
	s := start(t, on)
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	auth := "Authorization: Bearer " + uploadToken + "\r\n"
	for i, request := range []string{
		"PUT /ns/name/1.zip HTTP/1.1\r\nHost: x\r\n" + auth + "Content-Length: 5\r\n\r\nhello",
		"PUT /ns/name/1.zip HTTP/1.1\r\nHost: x\r\n" + auth + "Transfer-Encoding: chunked\r\n\r\n5\r\njello\r\n0\r\n\r\n",
		"PUT /ns/name/2.zip HTTP/1.1\r\nHost: x\r\n" + auth + "X-Checksum-Sha256: " + strings.Repeat("00", 32) + "\r\nContent-Length: 5\r\n\r\nhello",
		"GET /ns/name/1.zip?token=" + downloadToken + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /ns/name/2.zip HTTP/1.1\r\nHost: x\r\n\r\n",
		"DELETE /ns/name/1.zip HTTP/1.1\r\nHost: x\r\n" + auth + "\r\n",
		"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		_, _ = io.WriteString(conn, request)
		response, err := http.ReadResponse(r, nil)
		if err != nil || response.Close || response.StatusCode != []int{201, 409, 400, 200, 401, 204, 200}[i] {
			t.Fatalf("request %d: %v, %v", i, response, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
	}
}

// A request whose body nobody wants must not hold its answer back, whatever the method.
func TestUnwantedBody(t *testing.T) { onEachBackend(t, testUnwantedBody) }

func testUnwantedBody(t *testing.T, on func(*options)) {
	s := start(t, on)
	s.put(t, key, "hello")
	for _, method := range []string{"GET", "HEAD", "DELETE", "POST"} {
		for _, length := range []string{"Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 10\r\nExpect: 100-continue\r\n"} {
			conn := s.dial(t)
			_, _ = io.WriteString(conn, method+" /"+key+"?token="+downloadToken+" HTTP/1.1\r\nHost: x\r\n"+length+"\r\n")
			response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
			if err != nil || !response.Close || response.StatusCode == 100 {
				t.Errorf("%s %q: %v, %v", method, length, response, err)
			}
			_ = conn.Close()
		}
	}
}

// Over HTTP/2 (TLS) the bytes are as right as over HTTP/1.1.
func TestHTTP2(t *testing.T) { onEachBackend(t, testHTTP2) }

func testHTTP2(t *testing.T, on func(*options)) {
	server := http2Server(t, on, 30<<20)
	body := storetest.Bytes(1, 5<<20)
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+"/"+key, bytes.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+uploadToken)
	response, err := server.Client().Do(r)
	if err != nil || response.StatusCode != http.StatusCreated || response.ProtoMajor != 2 {
		t.Fatalf("%v, %v", response, err)
	}
	_ = response.Body.Close()
	if response, err = server.Client().Get(server.URL + "/" + key); err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got, err := io.ReadAll(response.Body); err != nil || !bytes.Equal(got, body) {
		t.Errorf("a download: %d bytes, %v", len(got), err)
	}
}

// blocked is a body that never comes.
func blocked(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	return r
}

// A prober that has closed its side still gets the store's answer, and no other.
func TestReadinessHalfClosed(t *testing.T) {
	s := start(t, withStore(&faulty{check: func(context.Context) error {
		time.Sleep(impatient) // so that the server notices the end before it has an answer
		return nil
	}}))
	conn := s.dial(t)
	_, _ = io.WriteString(conn, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = conn.CloseWrite()
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("%v, %v", response, err)
	}
}

func TestReadiness(t *testing.T) {
	var down, hang atomic.Bool
	release := make(chan struct{})
	checks := atomic.Int64{}
	s := start(t, withStore(&faulty{check: func(context.Context) error {
		checks.Add(1)
		if hang.Load() {
			<-release // as a file system does whose server is gone: no context ends it
		}
		if down.Load() {
			return errors.New("the disk is gone")
		}
		return nil
	}}))
	ready := func() int {
		response, _ := s.do(t, "GET", s.url+"/readyz", nil)
		return response.StatusCode
	}
	for range 200 {
		if status := ready(); status != 200 {
			t.Fatalf("readyz: %d", status)
		}
	}
	if n := checks.Load(); n > 20 {
		t.Errorf("200 probes asked the store %d times", n)
	}
	down.Store(true)
	for ready() != 503 {
		time.Sleep(10 * time.Millisecond)
	}
	down.Store(false)
	for ready() != 200 {
		time.Sleep(10 * time.Millisecond)
	}
	hang.Store(true)
	for ready() != 503 {
		time.Sleep(10 * time.Millisecond)
	}
	if response, _ := s.do(t, "GET", s.url+"/healthz", nil); response.StatusCode != 200 {
		t.Errorf("healthz while the store hangs: %s", response.Status)
	}
	if !strings.Contains(s.log.String(), "the disk is gone") {
		t.Error("why it was not ready is not logged")
	}
	close(release)
}

// While requests in flight are finished, the server says that it is not ready.
func TestNotReadyWhileDraining(t *testing.T) {
	disk, err := store.OpenDisk(store.DiskConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	a, err := auth.New(auth.Config{UploadAuth: auth.None, DownloadAuth: auth.None})
	if err != nil {
		t.Fatal(err)
	}
	var log syncBuffer
	h, err := handlers.New(handlers.Config{Store: disk, Auth: a, Log: jsonLog(&log), UploadURL: "http://x", DownloadURLBase: "http://x", MaxSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	ready := func() int {
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, httptest.NewRequest("GET", "/readyz", nil))
		return answer.Code
	}
	if status := ready(); status != 200 {
		t.Errorf("before: %d", status)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Serve(ctx, listener, time.Second); err != nil {
		t.Fatal(err)
	}
	if status := ready(); status != 503 {
		t.Errorf("after: %d", status)
	}
}

// What stands in an artifact's place and is no file is the operator's affair: 500, and a reason in the log.
func TestPlanted(t *testing.T) {
	s := start(t, nil)
	s.put(t, "ns/name/2.zip", "hello")
	if err := unix.Mkfifo(filepath.Join(s.dir, key), 0o644); err != nil {
		t.Fatal(err)
	}
	if response, _ := s.get(t, key); response.StatusCode != 500 {
		t.Errorf("GET of a FIFO: %s", response.Status)
	}
	if response, _ := s.put(t, key, "x"); response.StatusCode != 500 {
		t.Errorf("PUT on a FIFO: %s", response.Status)
	}
	if !strings.Contains(s.log.String(), "not a regular file") {
		t.Errorf("logged:\n%s", s.log)
	}
}

// The line of a request has all that an operator needs to find out what happened.
func TestLogLine(t *testing.T) { onEachBackend(t, testLogLine) }

func testLogLine(t *testing.T, on func(*options)) {
	s := start(t, on)
	response, _ := s.put(t, key, "hello")
	s.get(t, key)
	s.do(t, "PUT", s.url+"/"+key, strings.NewReader("x"), "Authorization", "Bearer wrong")
	s.do(t, "GET", s.url+"/na%20me/x/1.zip?token="+downloadToken, nil)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	const digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for _, want := range []string{
		`"level":"INFO","msg":"request","request_id":"` + response.Header.Get("X-Request-Id") + `","method":"PUT","key":"ns/name/1.0.0.zip","identity":"upload-token","status":201,"bytes":5,"sha256":"` + digest + `","duration":0.`,
		`"method":"GET","key":"ns/name/1.0.0.zip","identity":"download-token","status":200,"bytes":5,"sha256":"` + digest + `","duration":0.`,
		`"level":"WARN","msg":"request",`, `"method":"PUT","key":"ns/name/1.0.0.zip","status":401,"bytes":0,"duration":0.`, `"client":"127.0.0.1","reason":"the token is not valid`,
		`"method":"GET","identity":"download-token","status":400,`, `"reason":"invalid key: the namespace has the character ' '`,
	} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("not logged: %s", want)
		}
	}
	if t.Failed() {
		t.Log(s.log)
	}
}

// What a client writes into a broken body is not logged: it may be a header that slipped.
func TestBrokenBodyIsNotRepeated(t *testing.T) { onEachBackend(t, testBrokenBodyIsNotRepeated) }

func testBrokenBodyIsNotRepeated(t *testing.T, on func(*options)) {
	s := start(t, on)
	for _, body := range []string{"0\r\nAuthorization Bearer canary-5e\r\n\r\n", "canary-5e\r\n\r\n", "5;canary-5e\r\nhello\r\ncanary-5e"} {
		conn := s.dial(t)
		_, _ = io.WriteString(conn, "PUT /"+key+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+uploadToken+"\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
		_ = conn.CloseWrite()
		answer, _ := io.ReadAll(conn)
		if !bytes.Contains(answer, []byte(" 400 ")) || bytes.Contains(answer, []byte("canary")) {
			t.Errorf("%q is answered %q", body, answer)
		}
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if log := s.log.String(); strings.Contains(log, "canary") || strings.Count(log, `"reason":"the body ended`) != 3 {
		t.Errorf("logged:\n%s", log)
	}
	s.mustBeTidy(t)
}

// slow is a store that takes its time after it has the body, as a disk does with an fsync.
type slow struct{ faulty }

func (s *slow) Put(ctx context.Context, k store.Key, body io.Reader, _ store.PutOptions) (store.Info, store.Outcome, error) {
	n, err := io.Copy(io.Discard, body)
	time.Sleep(3 * impatient)
	return store.Info{Key: k, Size: n}, store.Created, errors.Join(err, ctx.Err())
}

// The deadline is for the body; what the store does with it afterwards may take longer.
func TestSlowStore(t *testing.T) {
	s := start(t, func(o *options) { impatience(o); o.handlers.Store = &slow{} })
	for _, body := range []string{"hello", strings.Repeat("x", 300_000)} {
		if response, text := s.put(t, key, body); response.StatusCode != http.StatusCreated {
			t.Errorf("%s %s", response.Status, text)
		}
	}
}

// A slow reader of several ranges is given up or gets every byte; nothing is left out in between.
func TestSlowMultiRange(t *testing.T) { onEachBackend(t, testSlowMultiRange) }

func testSlowMultiRange(t *testing.T, on func(*options)) {
	s := start(t, on, impatience)
	body := storetest.Bytes(3, 8<<20)
	if response, _ := s.put(t, key, string(body)); response.StatusCode != http.StatusCreated {
		t.Fatal(response.Status)
	}
	conn := s.dial(t)
	_ = conn.SetReadBuffer(64 << 10)
	_, _ = fmt.Fprintf(conn, "GET /%s?token=%s HTTP/1.1\r\nHost: x\r\nRange: bytes=0-0,1-%d\r\n\r\n", key, downloadToken, len(body)-2)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != http.StatusPartialContent {
		t.Fatal(response, err)
	}
	var got []byte
	for buffer := make([]byte, 300_000); err == nil; time.Sleep(impatient / 3) {
		var n int
		n, err = io.ReadFull(response.Body, buffer)
		got = append(got, buffer[:n]...)
	}
	_, got, _ = bytes.Cut(got, []byte("bytes 1-"))
	_, got, _ = bytes.Cut(got, []byte("\r\n\r\n"))
	got = got[:min(len(got), len(body)-2)]
	if len(got) == 0 || !bytes.Equal(got, body[1:1+len(got)]) {
		t.Errorf("%d bytes came, and not those that are stored", len(got))
	}
}

// Answers that are a header only have a deadline too: a client that never reads cannot hold its connection, which would
// hold up the end of the server.
func TestHeadersThatNobodyReads(t *testing.T) { onEachBackend(t, testHeadersThatNobodyReads) }

func testHeadersThatNobodyReads(t *testing.T, on func(*options)) {
	get := " /" + key + "?token=" + downloadToken + " HTTP/1.1\r\nHost: x\r\n"
	for _, request := range []string{"HEAD" + get + "\r\n", "GET" + get + "If-None-Match: *\r\n\r\n"} {
		s := start(t, on, impatience)
		s.put(t, key, "hello")
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
		}}
		conn, err := dialer.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * impatient))
		_, _ = io.WriteString(conn, strings.Repeat(request, 100_000)) // until the server waits for room to write, and gives up
		if err := s.stop(); err != nil {
			t.Errorf("%.4s: %v", request, err)
		}
	}
}
