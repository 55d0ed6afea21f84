package handlers_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"depot/auth"
	"depot/handlers"
	"depot/handlers/contract"
	"depot/store"
	"depot/store/s3test"
)

func TestMain(m *testing.M) {
	if staging := os.Getenv(traceVariable); staging != "" {
		fmt.Fprintln(os.Stderr, serveForTrace(os.Args[1], staging == "named"))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// server is a depot on a real listener and a real directory.
type server struct {
	url   string // http://host:port
	admin http.Handler
	dir   string // of a store on disk
	store store.Store
	log   *syncBuffer
	stop  func() error // begins the drain and waits for its end
	done  chan error
}

// options are what tests vary.
type options struct {
	handlers handlers.Config
	auth     auth.Config
	drain    time.Duration
}

const (
	uploadToken   = "upload-secret-Zx81"
	downloadToken = "download-secret-Qw92"
)

func start(t *testing.T, changes ...func(*options)) *server {
	t.Helper()
	s := &server{dir: t.TempDir(), log: &syncBuffer{}, done: make(chan error, 1)}
	// A send buffer that does not grow: on loopback it would soon be megabytes, and a writer that waits for room in it learns
	// only when a third of that has gone.
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 256<<10) })
	}}
	listener, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + listener.Addr().String()
	o := options{
		auth:     auth.Config{UploadAuth: auth.Bearer, UploadToken: []string{uploadToken}, DownloadAuth: auth.QueryParam, DownloadParam: "token", DownloadToken: []string{downloadToken}},
		handlers: handlers.Config{UploadURL: s.url, DownloadURLBase: s.url, MaxSize: 32 << 20, Log: jsonLog(s.log)},
		drain:    10 * time.Second,
	}
	for _, change := range changes {
		if change != nil {
			change(&o)
		}
	}
	if o.handlers.Auth, err = auth.New(o.auth); err != nil {
		t.Fatal(err)
	}
	if o.handlers.Store == nil {
		disk, err := store.OpenDisk(store.DiskConfig{Dir: s.dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = disk.Close() })
		o.handlers.Store = disk
	}
	s.store = o.handlers.Store
	h, err := handlers.New(o.handlers)
	if err != nil {
		t.Fatal(err)
	}
	s.admin = h.Admin()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { s.done <- h.Serve(ctx, listener, o.drain) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-s.done
	})
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("the end of the server: %v", err)
		}
	})
	return s
}

// onEachBackend runs a test on a disk, and on a bucket of a real S3 server.
func onEachBackend(t *testing.T, test func(t *testing.T, on func(*options))) {
	t.Run("disk", func(t *testing.T) { test(t, func(*options) {}) })
	t.Run("bucket", func(t *testing.T) {
		server := s3test.Versitygw.Start(t)
		test(t, func(o *options) { o.handlers.Store = openBucket(t, server.Endpoint, server.Bucket(), nil) })
	})
}

func jsonLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Reset()
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// The contract, over every way an endpoint can be configured.
func TestContract(t *testing.T) { onEachBackend(t, testContract) }

func testContract(t *testing.T, on func(*options)) {
	longList := func(tokens ...string) []string { return tokens }
	var mu sync.Mutex
	held := map[int]bool{}
	t.Cleanup(func() { // when all of the parallel subtests are done
		for i, text := range contract.Statements() {
			if !held[i+1] {
				t.Errorf("no endpoint was held to statement %d: %s", i+1, text)
			}
		}
	})
	for _, test := range []struct {
		name   string
		change func(*options)
	}{
		{"query_param", func(o *options) { o.handlers.Patience = 3 * time.Second }},
		{"bearer_header", func(o *options) { o.auth.DownloadAuth = auth.BearerHeader }},
		{"none", func(o *options) { o.auth.DownloadAuth = auth.None }},
		{"open uploads", func(o *options) { o.auth.UploadAuth = auth.None }},
		{"overwrite", func(o *options) { o.handlers.Overwrite = true }},
		{"several tokens", func(o *options) {
			o.auth.UploadToken = longList("up-1", "up-2-with-a-very-long-value-"+strings.Repeat("x", 500), "up/3+=")
			o.auth.DownloadToken = longList("down-1", "down.2_~", "down-3")
		}},
		{"documented example", func(o *options) {
			o.handlers.UploadURL += "/upload"
			o.auth.DownloadParam = "access_token"
		}},
		{"both prefixes", func(o *options) {
			o.handlers.UploadURL += "/artifacts/up/"
			o.handlers.DownloadURLBase += "/artifacts/down/"
		}},
		{"download below upload", func(o *options) { o.handlers.DownloadURLBase += "/public" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // what takes long is waiting
			var o options
			s := start(t, on, func(given *options) {
				if test.change != nil {
					test.change(given)
				}
				o = *given
			})
			e := contract.Endpoint{
				UploadURL:       strings.TrimRight(o.handlers.UploadURL, "/"),
				DownloadURLBase: strings.TrimRight(o.handlers.DownloadURLBase, "/"),
				UploadTokens:    o.auth.UploadToken, DownloadAuth: string(o.auth.DownloadAuth), DownloadParam: o.auth.DownloadParam, DownloadTokens: o.auth.DownloadToken,
				Overwrite: o.handlers.Overwrite, MaxSize: o.handlers.MaxSize, Patience: o.handlers.Patience,
			}
			if o.auth.UploadAuth == auth.None {
				e.UploadTokens = nil
			}
			numbers := contract.Run(t, e)
			mu.Lock()
			for _, n := range numbers {
				held[n] = true
			}
			mu.Unlock()
			if err := s.stop(); err != nil {
				t.Error(err)
			}
			s.mustBeTidy(t)
			mustHaveLogged(t, s.log.String())
		})
	}
}

// mustBeTidy fails unless the store is empty: no artifact, and on a disk no other file either. (Every test looks into the
// staging directory of a bucket at its end.)
func (s *server) mustBeTidy(t *testing.T) {
	t.Helper()
	for info, err := range s.store.List(t.Context(), "") {
		t.Errorf("left behind: %v, %v", info.Key, err)
	}
	err := filepath.WalkDir(s.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			t.Errorf("stray file %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// mustHaveLogged checks every line of a log: no 5xx, no panic, a reason for every refusal, an identity where one was found.
func mustHaveLogged(t *testing.T, log string) {
	t.Helper()
	for line := range strings.Lines(log) {
		status := regexp.MustCompile(`"status":(\d+)`).FindStringSubmatch(line)
		if status == nil {
			if !strings.Contains(line, "draining") {
				t.Errorf("logged: %s", line)
			}
			continue
		}
		if strings.HasPrefix(status[1], "5") || status[1] == "0" {
			t.Errorf("logged: %s", line)
		}
		for _, attr := range []string{`"request_id":"`, `"method":"`, `"bytes":`, `"duration":`, `"client":"127.0.0.1"`} {
			if !strings.Contains(line, attr) {
				t.Errorf("no %s in %s", attr, line)
			}
		}
		if refused := strings.HasPrefix(status[1], "4"); refused != strings.Contains(line, `"reason":"`) && !strings.Contains(line, "broke off") {
			t.Errorf("a reason is missing or too much: %s", line)
		}
	}
}

func (s *server) do(t *testing.T, method, url string, body io.Reader, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

func (s *server) put(t *testing.T, key, body string) (*http.Response, string) {
	t.Helper()
	return s.do(t, "PUT", s.url+"/"+key, strings.NewReader(body), "Authorization", "Bearer "+uploadToken)
}

func (s *server) get(t *testing.T, key string) (*http.Response, string) {
	t.Helper()
	return s.do(t, "GET", s.url+"/"+key+"?token="+downloadToken, nil)
}

func TestConfigErrors(t *testing.T) {
	good := handlers.Config{UploadURL: "https://a.example/upload", DownloadURLBase: "http://b.example:8080", MaxSize: 1}
	if _, err := handlers.New(good); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"":                           "begin with",
		"ftp://x":                    "begin with",
		"artifacts.example.com":      "begin with",
		"http://":                    "begin with",
		"http://a b":                 "not a URL",
		"https://user:secret@x":      "leave out",
		"https://x/?a=b":             "leave out",
		"https://x?":                 "leave out",
		"https://x/#f":               "leave out",
		"https://x/a//b":             "single slashes",
		"https://x/../b":             "single slashes",
		"https://x/a%20b":            "single slashes",
		"https://x/a%2Bb":            "single slashes",
		"https://user:secret@x:port": "not a URL",
	} {
		bad := good
		bad.UploadURL = url
		_, err := handlers.New(bad)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Config.UploadURL") || strings.Contains(err.Error(), "secret") {
			t.Errorf("UploadURL %q: %v, want something about %q", url, err, want)
		}
		bad = good
		bad.DownloadURLBase = url
		if _, err := handlers.New(bad); err == nil || !strings.Contains(err.Error(), "Config.DownloadURLBase") {
			t.Errorf("DownloadURLBase %q: %v", url, err)
		}
	}
	_, err := handlers.New(handlers.Config{})
	for _, field := range []string{"UploadURL", "DownloadURLBase", "MaxSize"} {
		if err == nil || !strings.Contains(err.Error(), "Config."+field) {
			t.Errorf("an empty Config: %v", err)
		}
	}
}

func TestForeignFileOverHTTP(t *testing.T) {
	s := start(t, nil)
	path := filepath.Join(s.dir, "for", "eign", "1.zip")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	response, body := s.get(t, "for/eign/1.zip")
	if want := fmt.Sprintf(`"5-%d"`, st.ModTime().UnixNano()); body != "hello" || response.Header.Get("ETag") != want || response.Header.Get("Repr-Digest") != "" {
		t.Errorf("%q, %v; want the ETag %s and no Repr-Digest", body, response.Header, want)
	}
	if response, body := s.put(t, "for/eign/1.zip", "hello"); response.StatusCode != 200 || response.Header.Get("Repr-Digest") == "" {
		t.Errorf("the same bytes: %s %s", response.Status, body)
	}
	if response, body := s.put(t, "for/eign/1.zip", "jello"); response.StatusCode != 409 {
		t.Errorf("other bytes: %s %s", response.Status, body)
	}
	if response, body := s.put(t, "for/eign/1.zip", "longer"); response.StatusCode != 409 || !strings.Contains(body, "sha256 unknown") {
		t.Errorf("another size: %s %s", response.Status, body)
	}
}
