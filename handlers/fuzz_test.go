package handlers_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"depot/auth"
	"depot/handlers"
	"depot/store"
)

// fuzzServer is a server on a store in a directory of its own, so that whatever lands beside the store is seen.
func fuzzServer(f *testing.F) (h *handlers.Server, parent string, log *syncBuffer) {
	f.Helper()
	parent, log = f.TempDir(), &syncBuffer{}
	disk, err := store.OpenDisk(store.DiskConfig{Dir: filepath.Join(parent, "root")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = disk.Close() })
	a, err := auth.New(auth.Config{UploadAuth: auth.Bearer, UploadToken: []string{"U"}, DownloadAuth: auth.QueryParam, DownloadParam: "t", DownloadToken: []string{"D"}})
	if err != nil {
		f.Fatal(err)
	}
	h, err = handlers.New(handlers.Config{Store: disk, Auth: a, Log: jsonLog(log), UploadURL: "http://x/up", DownloadURLBase: "http://x", MaxSize: 1 << 20, Overwrite: true, Patience: 200 * time.Millisecond})
	if err != nil {
		f.Fatal(err)
	}
	return h, parent, log
}

// contained fails unless the store is the only thing in its parent, and has nothing but namespaces and .depot.
func contained(t *testing.T, parent string) {
	t.Helper()
	beside, err := os.ReadDir(parent)
	if err != nil || len(beside) != 1 {
		t.Fatalf("beside the store there is %v, %v", beside, err)
	}
	inside, err := os.ReadDir(filepath.Join(parent, "root"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range inside {
		if !e.IsDir() {
			t.Fatalf("in the store there is the file %s", e.Name())
		}
	}
}

// Whatever the path, an upload is stored under the key that ParseKey sees in it, or nowhere.
func FuzzRequestPath(f *testing.F) {
	for _, seed := range []string{"/up/ns/name/1.0.0.zip", "/up/ns/name/1.0.0%2Bb.zip", "/up/../../x/y/1.zip", "/up/%2e%2e/%2e%2e/x.zip", "/up/a%2fb/c/1.zip", "//up/a/b/1.zip", "/up//a/b/1.zip",
		"/up/.depot/staging/1.zip", "/up/a/b/1.zip/", "/up/a/b/..%2f1.zip", "/upa/b/c/1.zip", "/a/b/1.zip", "/up/a/b/1.zip?x#y", "/up/%00/b/1.zip", "*", "", "/up/a/b/%"} {
		f.Add(seed)
	}
	h, parent, log := fuzzServer(f)
	f.Fuzz(func(t *testing.T, path string) {
		r, err := http.NewRequest(http.MethodPut, "http://x", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if r.URL, err = url.ParseRequestURI(path); err != nil {
			return // net/http refuses it
		}
		r.Header.Set("Authorization", "Bearer U")
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, r)
		contained(t, parent)
		rest, below := strings.CutPrefix(r.URL.EscapedPath(), "/up/")
		key, err := store.ParseKey(rest)
		stored := filepath.Join(parent, "root", filepath.FromSlash(key.String()))
		switch {
		case below && err == nil && answer.Code == http.StatusCreated && answer.Header().Get("Location") == "http://x/"+key.String():
			if got, err := os.ReadFile(stored); err != nil || string(got) != "hello" {
				t.Fatalf("%q: stored is %q, %v", path, got, err)
			}
			if err := os.RemoveAll(filepath.Join(parent, "root", key.Namespace())); err != nil {
				t.Fatal(err)
			}
		case below && err == nil, answer.Code != http.StatusBadRequest && answer.Code != http.StatusMethodNotAllowed:
			t.Fatalf("%q: %d %s\n%s", path, answer.Code, answer.Body, log)
		}
	})
}

var ownFailure = regexp.MustCompile(`HTTP/1\.[01] 5\d\d [^\n]*\r\n([A-Za-z-]+: [^\n]*\r\n)*X-Request-Id: `)

// Whatever bytes come in over a connection: no panic, no 5xx of ours, no file outside of the store, no secret in the log.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"PUT /up/a/b/1.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer U\r\nContent-Length: 5\r\n\r\nhello",
		"PUT /up/a/b/1.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer U\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"PUT /up/a/b/1.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer U\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"PUT /up/a/b/1.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer U\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
		"PUT /up/a/b/2.zip HTTP/1.0\r\nAuthorization: Bearer U\r\nContent-Length: 5\r\nRepr-Digest: sha-256=:AAAA:\r\n\r\nhello",
		"PUT /up/a/b/2.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer U\r\nContent-Length: 9\r\nIf-None-Match: *\r\n\r\nhello",
		"GET /a/b/1.zip?t=D HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1,3-,-2\r\n\r\nGET /a/b/1.zip?t=D&t=D HTTP/1.1\r\nHost: x\r\n\r\n",
		"HEAD /a/b/1.zip?t=D HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"x\"\r\n\r\n",
		"DELETE /up/a/b/1.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer U\r\nContent-Length: 5\r\n\r\nhello",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "BREW coffee HTTP/1.1\r\n\r\n", "GET http://u:p@x/a/b/1.zip HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	h, parent, log := fuzzServer(f)
	socket := filepath.Join(f.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		f.Fatal(err)
	}
	server := &http.Server{Handler: h, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	f.Cleanup(func() { _ = server.Close() })
	f.Fuzz(func(t *testing.T, request []byte) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = conn.Write(request)
		_ = conn.(*net.UnixConn).CloseWrite()
		answer, err := io.ReadAll(conn)
		if err != nil && os.IsTimeout(err) {
			t.Fatalf("no end after %q", answer)
		}
		contained(t, parent)
		if ownFailure.Match(answer) {
			t.Fatalf("answered %q\n%s", answer, log)
		}
		written := log.String()
		if strings.Contains(written, `"msg":"panic"`) || strings.Contains(written, `"status":5`) {
			t.Fatalf("logged\n%s", written)
		}
		log.reset()
		if bytes.Contains(answer, []byte("panic")) && !bytes.Contains(request, []byte("panic")) {
			t.Fatalf("answered %q", answer)
		}
	})
}
