package store

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// newTransport makes the connections to the service. What it leaves to chance, a watch bounds.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        30 * time.Second, // services close idle connections, some of them early
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // else it would offer gzip and unpack what comes
	}
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
	if err != nil || response.StatusCode/100 != 2 || r.Method == http.MethodHead || response.Header.Get("ETag") != "" {
		return response, err // what has an entity tag is an object, and may say whatever it likes
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
