package s3test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Fault is how a Proxy spoils a request. The zero value passes it on.
type Fault int

// The faults.
const (
	Pass        Fault = iota
	ResetBefore       // the connection is reset before the body is read
	ResetDuring       // … when half of the body is read
	ResetAfter        // … when all of it is read; nothing is passed on
	Silent            // nothing is ever answered
	SlowDown          // 503
	Internal          // 500
	ErrorIn200        // an error document with status 200
	WebPage           // 200 with a page of something that is no S3 service
	WrongETag         // passed on, and answered with another entity tag
	ShortBody         // passed on, and the answer ends in the middle
	LostAnswer        // passed on, and the connection reset instead of the answer
	Corrupted         // passed on with a byte of its body changed
	CutShort          // passed on with half of its body, and the connection closed

	Faults // how many there are
)

func (f Fault) String() string {
	return [...]string{"pass", "reset before the body", "reset during the body", "reset after the body", "silent", "503 SlowDown", "500", "error in a 200", "web page", "wrong ETag", "short body", "lost answer", "corrupted", "cut short"}[f]
}

// Proxy stands between a client and a server and spoils what it is told to.
type Proxy struct {
	Endpoint string // http://host:port

	behind   string // the server's endpoint
	mu       sync.Mutex
	requests []string // method, path and query, as they came
	fault    func(*http.Request) Fault
}

// NewProxy starts a proxy in front of a server.
func NewProxy(t testing.TB, endpoint string) *Proxy {
	t.Helper()
	p := &Proxy{behind: endpoint}
	server := httptest.NewServer(p)
	server.Config.ErrorLog = nil
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	p.Endpoint = server.URL
	return p
}

// Set chooses the fault of each request from now on, and forgets the requests so far; nil passes all on.
func (p *Proxy) Set(fault func(*http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.requests = fault, nil
}

// Requests are those that came since Set: "GET /bucket/key?query".
func (p *Proxy) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.requests...)
}

func (p *Proxy) choose(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, r.Method+" "+r.URL.RequestURI())
	if p.fault == nil {
		return Pass
	}
	return p.fault(r)
}

// ServeHTTP passes a request on, or spoils it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	document := func(status int, contentType, text string) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
	failure := func(status int, code string) {
		document(status, "application/xml", fmt.Sprintf("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>injected</Message><RequestId>1</RequestId></Error>", code))
	}
	fault := p.choose(r)
	switch fault {
	case ResetBefore:
		reset(w)
		return
	case ResetDuring:
		_, _ = io.CopyN(io.Discard, r.Body, max(r.ContentLength, 0)/2)
		reset(w)
		return
	case ResetAfter:
		_, _ = io.Copy(io.Discard, r.Body)
		reset(w)
		return
	case Silent:
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		return
	case SlowDown:
		failure(http.StatusServiceUnavailable, "SlowDown")
		return
	case Internal:
		failure(http.StatusInternalServerError, "InternalError")
		return
	case ErrorIn200:
		failure(http.StatusOK, "InternalError")
		return
	case WebPage:
		document(http.StatusOK, "text/html", "<html><title>Sign in</title></html>")
		return
	}
	forward(w, r, p.behind, fault)
}

// forward passes a request on as it is, the Host it was signed for included.
func forward(w http.ResponseWriter, r *http.Request, endpoint string, fault Fault) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = "http", strings.TrimPrefix(endpoint, "http://")
	if fault == Corrupted {
		body, _ := io.ReadAll(r.Body)
		if len(body) > 0 {
			body[len(body)/2]++
		}
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	if fault == CutShort && r.ContentLength > 1 {
		out.Body = io.NopCloser(io.LimitReader(r.Body, r.ContentLength/2))
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	response, err := transport.RoundTrip(out)
	if err != nil {
		reset(w)
		return
	}
	defer response.Body.Close()
	if fault == LostAnswer {
		_, _ = io.Copy(io.Discard, response.Body)
		reset(w)
		return
	}
	for name, values := range response.Header {
		w.Header()[name] = values
	}
	if fault == WrongETag && response.Header.Get("ETag") != "" {
		w.Header().Set("ETag", `"00000000000000000000000000000000"`)
	}
	w.WriteHeader(response.StatusCode)
	if fault == ShortBody {
		_, _ = io.CopyN(w, response.Body, max(response.ContentLength, 2)/2)
		panic(http.ErrAbortHandler)
	}
	_, _ = io.Copy(w, response.Body)
}

// Together runs functions that mostly wait, some at a time: so many that waiting is short, so few that none times out for
// want of a processor.
func Together(runs []func()) {
	var done sync.WaitGroup
	next := make(chan func())
	for range 12 {
		done.Go(func() {
			for run := range next {
				run()
			}
		})
	}
	for _, run := range runs {
		next <- run
	}
	close(next)
	done.Wait()
}

// reset ends the connection the hard way.
func reset(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
