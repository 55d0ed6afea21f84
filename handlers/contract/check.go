package contract

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// check is the run of one statement's check.
type check struct {
	*testing.T
	e    Endpoint
	used []string // keys to delete afterwards
}

// answer is a response, read to its end.
type answer struct {
	*http.Response
	body  []byte
	proxy bool // it is a refusal by the proxy in front: see byProxy
}

// header is what a check adds to a request: name, value, name, value.
type header []string

// key is a fresh key with this version file, escaped as given.
func (c *check) key(file string) string {
	return c.keyIn("contract-"+strings.ToLower(rand.Text()[:10]), file)
}

func (c *check) keyIn(namespace, file string) string {
	key := namespace + "/" + strings.ToLower(rand.Text()[:10]) + "/" + file
	c.used = append(c.used, key)
	return key
}

func (c *check) cleanUp() {
	for _, key := range c.used {
		c.do(http.MethodDelete, c.e.UploadURL+"/"+key, nil, c.uploadHeader())
	}
}

// do sends a request and reads the whole answer. Redirects are not followed: there must be none.
func (c *check) do(method, url string, body io.Reader, headers ...header) *answer {
	c.Helper()
	r, err := http.NewRequestWithContext(c.Context(), method, url, body)
	if err != nil {
		c.Fatal(err)
	}
	for _, h := range headers {
		for i := 0; i < len(h); i += 2 {
			r.Header.Add(h[i], h[i+1])
		}
	}
	response, err := c.e.Client.Do(r)
	if err != nil {
		c.Fatalf("%s: %v", method, err)
	}
	return c.read(response)
}

func (c *check) read(response *http.Response) *answer {
	c.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.Fatalf("read the answer: %v", err)
	}
	if response.StatusCode/100 == 3 && response.StatusCode != http.StatusNotModified {
		c.Errorf("the endpoint redirects: %s", response.Status)
	}
	return &answer{response, body, c.e.Proxy && byProxy(response)}
}

// byProxy reports that a proxy in front has refused a request which is malformed, or has a method that it does not pass on.
func byProxy(response *http.Response) bool {
	r := response.Request
	path := r.URL.EscapedPath()
	method := r.Method == http.MethodTrace || r.Method != strings.ToUpper(r.Method)
	malformed := method || len(r.Header["Authorization"]) > 1 || len(r.Header["If-None-Match"]) > 1 || strings.Contains(path, "%00") || strings.Contains(path, "%2e%2e/")
	refused := malformed && response.StatusCode == http.StatusBadRequest || method && response.StatusCode == http.StatusMethodNotAllowed
	return refused && response.Header.Get("X-Request-Id") == ""
}

// uploadHeader are the credentials for uploads, if there are any.
func (c *check) uploadHeader() header {
	if len(c.e.UploadTokens) == 0 {
		return nil
	}
	return bearer(c.e.UploadTokens[0])
}

func bearer(token string) header { return header{"Authorization", "Bearer " + token} }

// put uploads with good credentials.
func (c *check) put(key string, body []byte, headers ...header) *answer {
	c.Helper()
	return c.do(http.MethodPut, c.e.UploadURL+"/"+key, bytes.NewReader(body), append(headers, c.uploadHeader())...)
}

// download is how AgentVerse's users get an artifact: with the token in the query, in the header, or without one.
func (c *check) download(method, key string, headers ...header) *answer {
	c.Helper()
	u, auth := c.downloadURL(key)
	return c.do(method, u, nil, append(headers, auth)...)
}

func (c *check) downloadURL(key string) (string, header) {
	u := c.e.DownloadURLBase + "/" + key
	switch c.e.DownloadAuth {
	case "query_param":
		return u + "?" + c.e.DownloadParam + "=" + c.e.DownloadTokens[0], nil
	case "bearer_header":
		return u, bearer(c.e.DownloadTokens[0])
	}
	return u, nil
}

func (c *check) delete(key string, headers ...header) *answer {
	c.Helper()
	return c.do(http.MethodDelete, c.e.UploadURL+"/"+key, nil, append(headers, c.uploadHeader())...)
}

// is fails the statement unless the answer has one of these statuses; an error must also have the form of one.
func (c *check) is(a *answer, what string, statuses ...int) *answer {
	c.Helper()
	if a.proxy && statuses[0] >= 400 {
		return a // with a status and in words of its own
	}
	for _, status := range statuses {
		if a.StatusCode == status {
			if status >= 400 && a.Request.Method != http.MethodHead {
				c.isProblem(a, what)
			}
			return a
		}
	}
	c.Errorf("%s: answered %s, want %v; body %.300q", what, a.Status, statuses, a.body)
	return a
}

// unlessProxy is the status that is wanted, and behind a proxy also those that it turns the request into.
func (c *check) unlessProxy(want int, others ...int) []int {
	if !c.e.Proxy {
		return []int{want}
	}
	return append(others, want)
}

func (c *check) isProblem(a *answer, what string) {
	c.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
		RequestID           string `json:"request_id"`
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		c.Errorf("%s: an error of type %q", what, got)
	}
	if err := json.Unmarshal(a.body, &p); err != nil || p.Status != a.StatusCode || p.Type == "" || p.Title == "" || len(p.Detail) < 20 ||
		p.RequestID == "" || p.RequestID != a.Header.Get("X-Request-Id") {
		c.Errorf("%s: the problem %q does not say status, type, title, a useful detail and the request id (%v)", what, a.body, err)
	}
}

// says fails the statement unless the answer's body has all these texts.
func (c *check) says(a *answer, texts ...string) {
	c.Helper()
	if a.proxy {
		return
	}
	for _, text := range texts {
		if !strings.Contains(string(a.body), text) {
			c.Errorf("the answer %q does not say %q", a.body, text)
		}
	}
}

// stored uploads and expects 201.
func (c *check) stored(key string, body []byte, headers ...header) *answer {
	c.Helper()
	return c.is(c.put(key, body, headers...), "PUT "+key, http.StatusCreated)
}

// holds fails the statement unless a download gives exactly these bytes.
func (c *check) holds(key string, want []byte) *answer {
	c.Helper()
	a := c.is(c.download(http.MethodGet, key), "GET "+key, http.StatusOK)
	if a.StatusCode == http.StatusOK && !bytes.Equal(a.body, want) {
		c.Errorf("GET %s gave %d bytes with sha256 %x, want %d with %x", key, len(a.body), sha256.Sum256(a.body), len(want), sha256.Sum256(want))
	}
	return a
}

// absent fails the statement if anything is stored under the key.
func (c *check) absent(key string) {
	c.Helper()
	c.is(c.download(http.MethodGet, key), "GET of what should not be stored", http.StatusNotFound)
}

// has fails the statement unless the answer has these header fields with these values.
func (c *check) has(a *answer, want header) {
	c.Helper()
	if a.proxy {
		return
	}
	for i := 0; i < len(want); i += 2 {
		if got := a.Header.Values(want[i]); len(got) != 1 || got[0] != want[i+1] {
			c.Errorf("%s %s: %s is %q, want %q", a.Request.Method, a.Status, want[i], got, want[i+1])
		}
	}
}

// raw sends bytes that no HTTP client would and reads one answer. The connection stays open for more. A proxy may hold the
// answer back until it has the body, so it gets one.
func (c *check) raw(base, request string) (*answer, net.Conn) {
	c.Helper()
	conn := c.dial(base)
	if _, err := io.WriteString(conn, request); err != nil {
		c.Fatal(err)
	}
	if c.e.Proxy {
		_, after, _ := strings.Cut(request, "Content-Length: ")
		length, _, _ := strings.Cut(after, "\r\n")
		if size, err := strconv.Atoi(length); err == nil {
			_, _ = conn.Write(make([]byte, min(size, 1<<20))) // it may have been refused already
		} else if strings.Contains(request, "chunked\r\n\r\n") {
			_, _ = io.WriteString(conn, "0\r\n\r\n")
		}
	}
	return c.readRaw(conn, request), conn
}

func (c *check) dial(base string) net.Conn {
	c.Helper()
	u, err := url.Parse(base)
	if err != nil {
		c.Fatal(err)
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	var conn net.Conn
	if u.Scheme == "https" {
		conf := &tls.Config{}
		if t, ok := c.e.Client.Transport.(*http.Transport); ok && t.TLSClientConfig != nil {
			conf = t.TLSClientConfig.Clone()
		}
		conf.NextProtos = nil
		conn, err = tls.Dial("tcp", address, conf)
	} else {
		conn, err = net.Dial("tcp", address)
	}
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // a hang fails the check; no check measures time
	return conn
}

func (c *check) readRaw(conn net.Conn, request string) *answer {
	c.Helper()
	asked, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	if err != nil { // no more than a method is given
		method, _, _ := strings.Cut(request, " ")
		asked = &http.Request{Method: method, URL: &url.URL{}}
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), asked)
	if err != nil {
		c.Fatalf("no answer to a raw %s: %v", asked.Method, err)
	}
	return c.read(response)
}

// rawRequest is the beginning of a raw upload, up to where its own header fields go.
func (c *check) rawPut(key string) string {
	u, _ := url.Parse(c.e.UploadURL)
	text := fmt.Sprintf("PUT %s/%s HTTP/1.1\r\nHost: %s\r\n", u.EscapedPath(), key, u.Host)
	if h := c.uploadHeader(); h != nil {
		text += h[0] + ": " + h[1] + "\r\n"
	}
	return text
}

func pathOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	return u.EscapedPath()
}

// atMost is a size that the endpoint takes.
func (c *check) atMost(size int) int {
	if c.e.MaxSize > 0 {
		return int(min(int64(size), c.e.MaxSize))
	}
	return size
}

// random are n bytes no one has seen before.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func reprDigest(b []byte) string {
	s := sha256.Sum256(b)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(s[:]) + ":"
}
