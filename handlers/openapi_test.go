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
	"slices"
	"strings"
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

const artifactPath = "/{namespace}/{name}/{version}.zip"

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
	ask := func(s *server, method, path string, body io.Reader, headers []string) {
		t.Helper()
		response, text := s.do(t, method, s.url+path, body, headers...)
		d.documented(artifactPath, method, response, text)
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

	lost := start(t, withStore(&faulty{check: func(context.Context) error { return store.ErrUnavailable }}))
	for _, server := range []*server{s, lost} {
		for _, path := range []string{"/healthz", "/readyz"} {
			for _, method := range []string{"GET", "HEAD"} {
				response, body := server.do(t, method, server.url+path, nil)
				d.documented(path, method, response, body)
			}
		}
	}
	h, err := handlers.New(handlers.Config{Store: s.store, Auth: mustAuth(t), Log: jsonLog(io.Discard), UploadURL: "http://x", DownloadURLBase: "http://x", MaxSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/metrics", "/debug/pprof/"} {
		w := httptest.NewRecorder()
		h.Admin().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		d.documented(path, "GET", w.Result(), w.Body.String())
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
