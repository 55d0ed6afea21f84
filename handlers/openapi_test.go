package handlers_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"depot/auth"
	"depot/handlers"
	"depot/store"
)

// document is deploy/openapi.yaml.
type document struct {
	t    *testing.T
	root map[string]any
	seen map[string]bool
}

// at follows names from a node, and references wherever they stand.
func (d *document) at(node any, names ...string) map[string]any {
	for i := 0; ; i++ {
		m, _ := node.(map[string]any)
		if ref, ok := m["$ref"].(string); ok {
			m = d.at(d.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
		if i == len(names) || m == nil {
			return m
		}
		node = m[names[i]]
	}
}

const artifactPath, noArtifact = "/{namespace}/{name}/{version}.zip", "/{other}"

// everywhere are headers that say nothing of what was asked for.
var everywhere = []string{"Date", "Connection", "Transfer-Encoding", "Content-Type", "Content-Length", "X-Content-Type-Options"}

// documented fails the test unless the answer to a request is one that the document has, as it has it.
func (d *document) documented(path, method string, response *http.Response, body string) {
	d.t.Helper()
	what := fmt.Sprintf("%s %s %d", method, path, response.StatusCode)
	d.seen[what] = true
	answer := d.at(d.root, "paths", path, strings.ToLower(method), "responses", fmt.Sprint(response.StatusCode))
	if answer == nil {
		d.t.Errorf("%s is not in the document", what)
		return
	}
	for name := range d.at(answer, "headers") {
		if required, _ := d.at(answer, "headers", name)["required"].(bool); required && response.Header.Get(name) == "" {
			d.t.Errorf("%s: it has no %s", what, name)
		}
	}
	known := everywhere
	for name := range d.at(answer, "headers") {
		known = append(slices.Clip(known), http.CanonicalHeaderKey(name))
	}
	for name := range response.Header {
		if !slices.Contains(known, name) {
			d.t.Errorf("%s: the document does not have its header %s", what, name)
		}
	}
	if method == http.MethodHead {
		return
	}
	content := d.at(answer, "content")
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if len(content) == 0 && body == "" {
		return
	}
	if content[kind] == nil && (kind != "multipart/byteranges" || response.StatusCode != 206) {
		d.t.Errorf("%s: its content is %q, in the document %v", what, kind, slices.Collect(maps.Keys(content)))
		return
	}
	schema := d.at(content, kind, "schema")
	if schema["type"] != "object" {
		return
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(body), &object); err != nil {
		d.t.Errorf("%s: %v", what, err)
	}
	for _, name := range schema["required"].([]any) {
		if object[name.(string)] == nil {
			d.t.Errorf("%s: its body has no %s", what, name)
		}
	}
	for name, value := range object {
		property := d.at(schema, "properties", name)
		number, isNumber := value.(float64)
		if property == nil || (property["type"] == "integer") != isNumber || isNumber && number != float64(int64(number)) {
			d.t.Errorf("%s: its body has %s: %v", what, name, value)
		}
	}
}

// admin asks the admin listener.
func (d *document) admin(ctx context.Context, s *server, method, path string) int {
	d.t.Helper()
	w := httptest.NewRecorder()
	s.admin.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, nil))
	documented, _, _ := strings.Cut(path, "?")
	if d.at(d.root, "paths", documented) == nil {
		documented = "/debug/pprof/{profile}"
	}
	d.documented(documented, method, w.Result(), w.Body.String())
	return w.Code
}

// meanwhile asks while others are being answered, until it is refused for that.
func (d *document) meanwhile(s *server, others int, method, long, short string, want int) {
	d.t.Helper()
	ctx, cancel := context.WithCancel(d.t.Context())
	var group sync.WaitGroup
	for range others {
		group.Go(func() {
			for ctx.Err() == nil {
				s.admin.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, method, long, nil))
			}
		})
	}
	for d.admin(d.t.Context(), s, method, short) != want { // go test's timeout ends a server that refuses nobody
		time.Sleep(time.Millisecond)
	}
	cancel()
	group.Wait()
	d.admin(d.t.Context(), s, method, short)
}

// Every answer in the document is one that the server gives, as the document has it, and every route is in it.
func TestOpenAPI(t *testing.T) {
	text, err := os.ReadFile("../deploy/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := &document{t: t, seen: map[string]bool{}}
	if err := yaml.Unmarshal(text, &d.root); err != nil {
		t.Fatal(err)
	}
	up, none := []string{"Authorization", "Bearer " + uploadToken}, []string(nil)
	with := func(headers ...string) []string { return append(slices.Clone(up), headers...) }
	s := start(t, func(o *options) { o.handlers.Patience, o.handlers.MaxSize = 500*time.Millisecond, 1000 })
	askOf := func(documented string, s *server, method, path string, body io.Reader, headers []string) {
		t.Helper()
		response, text := s.do(t, method, s.url+path, body, headers...)
		d.documented(documented, method, response, text)
	}
	ask := func(s *server, method, path string, body io.Reader, headers []string) {
		t.Helper()
		askOf(artifactPath, s, method, path, body, headers)
	}
	hello := func() io.Reader { return strings.NewReader("hello") }
	down := "?token=" + downloadToken
	other := start(t, func(o *options) { o.auth.DownloadAuth = auth.BearerHeader })
	for _, r := range []struct {
		method, path string
		body         io.Reader
		headers      []string
	}{
		{"PUT", "/a/b/1.zip", hello(), up},
		{"PUT", "/a/b/1.zip", hello(), up},
		{"PUT", "/a/b/1.zip", strings.NewReader("other"), up},
		{"PUT", "/a/b/1.zip", hello(), with("If-None-Match", "*")},
		{"PUT", "/a/b", hello(), up},
		{"PUT", "/a/b/2.zip", hello(), none},
		{"PUT", "/a/b/2.zip", hello(), []string{"Authorization", "Bearer " + downloadToken}},
		{"PUT", "/a/b/2.zip", strings.NewReader(strings.Repeat("x", 1001)), up},
		{"PUT", "/a/b/2.zip", hello(), with("Content-Type", "multipart/form-data")},
		{"GET", "/a/b/1.zip" + down, nil, none},
		{"GET", "/a/b/1.zip" + down, nil, []string{"Range", "bytes=1-2"}},
		{"GET", "/a/b/1.zip" + down, nil, []string{"Range", "bytes=1-2,4-4"}},
		{"GET", "/a/b/1.zip" + down, nil, []string{"Range", "bytes=9-"}},
		{"GET", "/a/b/1.zip" + down, nil, []string{"If-None-Match", "*"}},
		{"GET", "/a/b/1.zip" + down, nil, []string{"If-Match", `"x"`}},
		{"GET", "/a/b" + down, nil, none},
		{"GET", "/a/b/1.zip", nil, none},
		{"GET", "/a/b/1.zip", nil, up},
		{"GET", "/a/b/9.zip" + down, nil, none},
		{"HEAD", "/a/b/1.zip" + down, nil, none},
		{"HEAD", "/a/b/1.zip" + down, nil, []string{"If-None-Match", "*"}},
		{"HEAD", "/a/b/1.zip" + down, nil, []string{"If-Match", `"x"`}},
		{"HEAD", "/a/b" + down, nil, none},
		{"HEAD", "/a/b/1.zip", nil, none},
		{"HEAD", "/a/b/1.zip", nil, up},
		{"HEAD", "/a/b/9.zip" + down, nil, none},
		{"DELETE", "/a/b", nil, up},
		{"DELETE", "/a/b/1.zip", nil, none},
		{"DELETE", "/a/b/1.zip", nil, []string{"Authorization", "Bearer " + downloadToken}},
		{"DELETE", "/a/b/9.zip", nil, up},
		{"DELETE", "/a/b/1.zip", nil, up},
		{"POST", "/a/b/1.zip", nil, none},
		{"PATCH", "/a/b/1.zip", nil, none},
		{"OPTIONS", "/a/b/1.zip", nil, none},
		{"TRACE", "/a/b/1.zip", nil, none},
	} {
		ask(s, r.method, r.path, r.body, r.headers)
	}
	ask(other, "GET", "/a/b/1.zip", nil, none)
	for _, rest := range []string{"\r\n", "Content-Length: 100\r\n\r\nstalls"} { // 411, 408
		conn := s.dial(t)
		if _, err := io.WriteString(conn, "PUT /a/b/3.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+uploadToken+"\r\n"+rest); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		d.documented(artifactPath, "PUT", response, string(body))
	}
	for _, err := range []error{store.ErrFull, store.ErrUnavailable, store.ErrTimeout, store.ErrUntrusted, errors.New("broken")} {
		s := start(t, withStore(&faulty{err: err}))
		for _, method := range []string{"PUT", "DELETE"} {
			ask(s, method, "/a/b/1.zip", hello(), up)
		}
		for _, method := range []string{"GET", "HEAD"} {
			ask(s, method, "/a/b/1.zip"+down, nil, none)
		}
	}
	redirecting := start(t, func(o *options) {
		o.handlers.Redirect = func(context.Context, store.Key, string) (string, error) { return "https://bucket.test/x", nil }
	})
	ask(redirecting, "PUT", "/a/b/1.zip", hello(), up)
	r, _ := http.NewRequestWithContext(t.Context(), "GET", redirecting.url+"/a/b/1.zip"+down, nil)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	d.documented(artifactPath, "GET", response, "")

	prefixed := start(t, func(o *options) { o.handlers.UploadURL += "/up"; o.handlers.DownloadURLBase += "/down" })
	for _, method := range []string{"PUT", "DELETE"} {
		ask(prefixed, method, "/down/a/b/1.zip", nil, up)
	}
	for _, method := range []string{"GET", "HEAD"} {
		ask(prefixed, method, "/up/a/b/1.zip"+down, nil, none)
	}

	// What is no artifact, also where only operators come.
	locked := start(t, func(o *options) { // the keys of its issuer cannot be had
		o.auth.AccessFile = filepath.Join(t.TempDir(), "access.toml")
		o.auth.DownloadAuth = auth.BearerHeader
		text := "[[issuer]]\nissuer = \"https://gone.test\"\naudience = \"depot\"\njwks_url = \"http://127.0.0.1:1\"\nallow = [\"upload\", \"download\", \"delete\"]\nnamespaces = [\"*\"]\n"
		if err := os.WriteFile(o.auth.AccessFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	unknown := []string{"Authorization", "Bearer " + raw(t, newAuthority(t, "gone").rsa, `{"alg":"RS256","kid":"x"}`, fmt.Sprintf(`{"iss":"https://gone.test","aud":"depot","sub":"x","exp":%d}`, time.Now().Add(time.Hour).Unix()))}
	for _, method := range []string{"PUT", "DELETE", "GET", "HEAD", "POST", "PATCH", "OPTIONS", "TRACE"} {
		for _, path := range []string{"/", "/favicon.ico", "/a/b/c/d/1.zip", "/a/../b", "/metrics", "/a//1.zip"} {
			for _, server := range []*server{s, prefixed} {
				askOf(noArtifact, server, method, path, nil, none)
				askOf(noArtifact, server, method, path+down, nil, up)
			}
			askOf(noArtifact, locked, method, path, nil, unknown)
		}
		ask(locked, method, "/a/b/1.zip", nil, unknown)
	}
	nested := start(t, func(o *options) { o.handlers.UploadURL += "/up" }) // downloads at the root, as in AgentVerse's own example
	for _, method := range []string{"PUT", "DELETE", "GET", "HEAD"} {
		askOf(noArtifact, prefixed, method, "/up/x", nil, none)
		askOf(noArtifact, prefixed, method, "/down/x", nil, none)
		for _, path := range []string{"/healthz", "/readyz"} {
			askOf(path, nested, method, path, nil, none)
		}
	}
	lost := start(t, withStore(&faulty{check: func(context.Context) error { return store.ErrUnavailable }}))
	for _, server := range []*server{s, lost, locked} {
		for _, path := range []string{"/healthz", "/readyz"} {
			for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS", "TRACE"} {
				for _, headers := range [][]string{none, up, unknown} {
					askOf(path, server, method, path, nil, headers)
				}
				if method == "GET" || method == "HEAD" {
					d.admin(t.Context(), server, method, path)
				}
			}
		}
	}
	for _, method := range []string{"GET", "HEAD"} {
		for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=1", "/debug/pprof/none", "/debug/pprof/cmdline", "/debug/pprof/symbol"} {
			d.admin(t.Context(), s, method, path)
		}
		for _, path := range []string{"/debug/pprof/profile", "/debug/pprof/trace"} { // one at a time
			d.meanwhile(s, 1, method, path+"?seconds=100", path+"?seconds=1", 500)
		}
	}
	release := make(chan struct{})
	hanging := start(t, withStore(&faulty{check: func(context.Context) error { <-release; return nil }}))
	for _, method := range []string{"GET", "HEAD"} {
		d.meanwhile(hanging, 4, method, "/metrics", "/metrics", 503)
	}
	close(release)
	for _, request := range []string{"POST /metrics 405", "PUT /healthz 405", "DELETE /debug/pprof/heap 405", "GET / 404", "GET /a/b/1.zip 404", "PUT /a/b/1.zip 404"} {
		method, rest, _ := strings.Cut(request, " ")
		path, want, _ := strings.Cut(rest, " ")
		w := httptest.NewRecorder()
		s.admin.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if kind := w.Header().Get("Content-Type"); fmt.Sprint(w.Code) != want || !strings.HasPrefix(kind, "text/plain") {
			t.Errorf("admin %s: %d %s", request, w.Code, kind)
		}
	}
	h, err := handlers.New(handlers.Config{Store: s.store, Auth: mustAuth(t), Log: jsonLog(io.Discard), UploadURL: "http://x", DownloadURLBase: "http://x", MaxSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range h.Routes() {
		method, path, _ := strings.Cut(route, " ")
		if path != "/*" && d.at(d.root, "paths", path, strings.ToLower(method)) == nil {
			t.Errorf("the route %s is not in the document", route)
		}
	}
	for path, methods := range d.at(d.root, "paths") {
		for method := range d.at(methods) {
			for status := range d.at(methods, method, "responses") {
				if what := strings.ToUpper(method) + " " + path + " " + status; !d.seen[what] {
					t.Errorf("%s is in the document, and was not seen", what)
				}
			}
		}
	}
}

func mustAuth(t *testing.T) *auth.Authenticator {
	t.Helper()
	a, err := auth.New(auth.Config{UploadAuth: auth.None, DownloadAuth: auth.None})
	if err != nil {
		t.Fatal(err)
	}
	return a
}
