package store

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"
)

// newTransport makes the connections to the service. What it leaves to chance, a watch bounds.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       30 * time.Second, // services close idle connections, some of them early
		DisableCompression:    true,             // else it would offer gzip and unpack what comes
	}
}

// honest is a transport that calls an error an error: S3 may begin an answer with 200 and end it with one.
type honest struct{ http.RoundTripper }

func (h honest) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := h.RoundTripper.RoundTrip(r)
	if err != nil || response.StatusCode != http.StatusOK || r.Method == http.MethodHead || response.Header.Get("ETag") != "" {
		return response, err // what has an entity tag is an object, and may say whatever it likes
	}
	body := bufio.NewReader(response.Body)
	if isErrorDocument(body) {
		response.StatusCode, response.Status = http.StatusInternalServerError, "500 an error inside a 200"
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{body, response.Body}
	return response, nil
}

// isErrorDocument reports whether the first element of an XML document is Error, as in every error of S3.
func isErrorDocument(body *bufio.Reader) bool {
	const enough = 512 // for white space, an XML declaration, and the element
	for n := 1; n <= enough; n++ {
		text, err := body.Peek(n)
		if err != nil {
			return false
		}
		if at := n - len("<Error"); at >= 0 && string(text[at:]) == "<Error" {
			return true
		}
		if last := text[n-1]; n >= 2 && text[n-2] == '<' && last != '?' && last != '!' && last != 'E' {
			return false
		}
	}
	return false
}
