package store

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// newTransport makes the connections to the service. What it leaves to chance, a watch bounds.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second, Control: limitUnsent}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        30 * time.Second, // services close idle connections, some of them early
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // else it would offer gzip and unpack what comes
	}
}

// limitUnsent keeps the kernel from taking megabytes of an upload that it has yet to send: what it has taken has moved, for a
// watch, and the service would get no time for it. Where it cannot be set, slow links time out sooner.
func limitUnsent(_, _ string, conn syscall.RawConn) error {
	return conn.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bufferSize)
	})
}

// honest is a transport that sees through a success that is none: S3 may begin an answer with 200 and end it with an error,
// and what stands between us and S3 (a captive portal, a balancer's default page) answers everything with 200.
type honest struct{ http.RoundTripper }

// largestDocument is more than a page of a listing takes, in bytes: a thousand names of a thousand characters.
const largestDocument = 8 << 20

// rootElement finds the name of an XML document's first element.
var rootElement = regexp.MustCompile(`^\s*(?:<\?[^>]*\?>\s*)?<([A-Za-z]+)`)

func (h honest) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := h.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Header.Del("Set-Cookie") // minio-go would keep them all, and send them along with every request
	}
	if err != nil || response.StatusCode/100 != 2 {
		return response, err
	}
	page := strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") && response.Header.Get("X-Amz-Meta-"+digestMetadata) == ""
	if r.Method == http.MethodHead || response.Header.Get("ETag") != "" {
		if page { // a web server has entity tags too
			response.StatusCode, response.Status = http.StatusBadGateway, "502 not an answer of S3"
		}
		return response, nil // what has an entity tag is an object, and may say whatever else it likes
	}
	body := bufio.NewReader(io.LimitReader(response.Body, largestDocument))
	begin, err := body.Peek(512)
	root := rootElement.FindSubmatch(begin)
	switch {
	case err == io.EOF && len(begin) == 0: // nothing more to say
	case root == nil, strings.EqualFold(string(root[1]), "html"):
		response.StatusCode, response.Status = http.StatusBadGateway, "502 not an answer of S3"
	case string(root[1]) == "Error":
		response.StatusCode, response.Status = http.StatusInternalServerError, "500 an error inside a success"
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{body, response.Body}
	return response, nil
}
