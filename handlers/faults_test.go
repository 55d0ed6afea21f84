package handlers_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"depot/store"
	"depot/store/s3test"
	"depot/store/storetest"
)

// operation is what a client asks for, and what that asks of the bucket, in order.
type operation struct {
	name, method string
	size         int    // of the artifact
	ranges       string // of a download
	requests     []string
}

var operations = []operation{
	{"put", "PUT", 300_000, "", []string{"HEAD", "PUT", "HEAD"}},
	{"put-small", "PUT", 100, "", []string{"HEAD", "PUT", "HEAD"}}, // which is not staged in a file
	{"get", "GET", 300_000, "", []string{"GET"}},
	{"range", "GET", 300_000, "bytes=200000-200099", []string{"GET", "GET"}},
	{"head", "HEAD", 300_000, "", []string{"HEAD"}},
	{"delete", "DELETE", 300_000, "", []string{"HEAD", "DELETE"}},
}

func (o operation) body() string { return string(storetest.Bytes(1, o.size)) }

// faultCase is an operation on an artifact of its own, with a fault of the first requests of a kind that it makes of the
// bucket after it has come to a stage.
type faultCase struct {
	operation
	request string
	stage   int
	fault   s3test.Fault
	times   int

	key            store.Key
	mu             sync.Mutex
	tries, spoiled int
}

func (c *faultCase) choose(r *http.Request) s3test.Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	if c.tries > c.stage && r.Method == c.request && c.spoiled < c.times {
		c.spoiled++
		return c.fault
	}
	return s3test.Pass
}

// Every fault, at every request that an operation makes of the bucket: the answer is the one that the contract has, it comes
// in bounded time and tries, what was acknowledged is whole, and what was not is whole or absent.
func TestBucketFaults(t *testing.T) {
	server := s3test.Versitygw.Start(t)
	proxy, bucket := s3test.NewProxy(t, server.Endpoint), server.Bucket()
	clean := openBucket(t, server.Endpoint, bucket, nil)
	s := start(t, withStore(openBucket(t, proxy.Endpoint, bucket, func(c *store.S3Config) { c.Patience = 10 * time.Second })))
	cases := map[string]*faultCase{} // by the path of the object
	for _, o := range operations {
		for stage, request := range o.requests {
			for fault := s3test.ResetBefore; fault < s3test.Faults; fault++ {
				for _, times := range []int{1, 3, 1000} {
					key := storetest.Key(t, fmt.Sprintf("faults/%s/%d-%d-%d.zip", o.name, stage, fault, times))
					cases["/"+bucket+"/"+key.String()] = &faultCase{operation: o, request: request, stage: stage, fault: fault, times: times, key: key}
				}
			}
		}
	}
	for _, c := range cases {
		if c.method != "PUT" {
			if _, _, err := clean.Put(t.Context(), c.key, strings.NewReader(c.body()), store.PutOptions{Size: -1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	proxy.Set(func(r *http.Request) s3test.Fault {
		if c := cases[r.URL.Path]; c != nil {
			return c.choose(r)
		}
		return s3test.Pass
	})
	var runs []func()
	for _, c := range cases {
		runs = append(runs, func() { c.run(t, s, clean) })
	}
	s3test.Together(runs)
	proxy.Set(nil)
	for _, c := range cases {
		if c.method == "PUT" { // the client's retry
			_, err := clean.Stat(t.Context(), c.key)
			again, text := s.put(t, c.key.String(), c.body())
			if want := map[bool]int{true: 200, false: 201}[err == nil]; again.StatusCode != want {
				t.Errorf("%s: the client's retry is answered %s %s, want %d", c, again.Status, text, want)
			}
			mustBeWhole(t, clean, c.key, c.body())
		}
	}
}

func (c *faultCase) String() string {
	return fmt.Sprintf("%s with %v at %s %d, %d times", c.name, c.fault, c.request, c.stage, c.times)
}

func (c *faultCase) run(t *testing.T, s *server, clean store.Store) {
	body := c.body()
	status, got, err := s.attempt(t, c.operation, c.key)
	c.mu.Lock()
	tries := c.tries
	c.mu.Unlock()
	fail := func(format string, args ...any) {
		t.Errorf("%s: answered %d, %v, after %d requests: %s", c, status, err, tries, fmt.Sprintf(format, args...))
	}
	// A few attempts each of a few requests; and net/http tries again where a connection from its pool turns out dead.
	most := 60
	if c.fault == s3test.SlowDown || c.fault == s3test.Internal || c.fault == s3test.ErrorIn200 {
		most = 9 // a HEAD, then four writes each with a look afterwards
	}
	if tries > most {
		fail("too many")
	}
	want, broken := c.wantStatus(), c.breaksOff()
	if status != want && !broken {
		fail("want %d", want)
	}
	if (err != nil) != broken {
		fail("want an answer that breaks off: %v", broken)
	}
	held := mustBeWhole(t, clean, c.key, body)
	switch {
	case c.ranges != "" && err == nil && status == http.StatusPartialContent && got != body[200_000:200_100]:
		fail("a clean end with other bytes than were asked for")
	case c.method == "GET" && err == nil && status == http.StatusOK && got != body:
		fail("a clean end after %d of %d bytes", len(got), len(body))
	case c.method == "PUT" && status < 300 && !held:
		fail("what was acknowledged is not there")
	case c.method == "DELETE" && status == http.StatusNoContent && held:
		fail("what was deleted is still there")
	}
}

// breaksOff reports that the answer has begun when the fault shows, so that it must not end cleanly.
func (c *faultCase) breaksOff() bool {
	switch {
	case c.ranges == "":
		return c.method == "GET" && c.fault == s3test.ShortBody
	case c.fault == s3test.WrongETag: // then the object seems to be another at the second request
		return true
	case c.fault == s3test.ShortBody: // what was asked for is in its first half
		return false
	}
	return c.stage == 1 && c.wantStatus() != http.StatusPartialContent
}

// wantStatus is how the operation must be answered.
func (c *faultCase) wantStatus() int {
	method, request, stage, fault, times := c.method, c.request, c.stage, c.fault, c.times
	good := map[string]int{"PUT": 201, "GET": 200, "HEAD": 200, "DELETE": 204}[method]
	if c.ranges != "" {
		good = http.StatusPartialContent
	}
	switch fault {
	case s3test.Silent:
		return http.StatusGatewayTimeout
	case s3test.WebPage, s3test.ErrorIn200:
		if request == "HEAD" && fault == s3test.ErrorIn200 { // an answer without a body: nothing tells it from a success but what it lacks
			return http.StatusBadGateway
		}
		if times > 3 {
			return map[s3test.Fault]int{s3test.WebPage: 502, s3test.ErrorIn200: 503}[fault]
		}
	case s3test.WrongETag:
		if method == "PUT" && (stage == 1 || times > 3) { // what was written and what is there seem not to be the same
			return http.StatusBadGateway
		}
	case s3test.Corrupted:
		if request == "PUT" { // the bucket has the digest
			return http.StatusBadGateway
		}
	case s3test.CutShort: // as it passes the proxy: what it passed on must not be taken for the whole
		if request == "PUT" && times > 3 {
			return http.StatusServiceUnavailable
		}
	case s3test.ShortBody, s3test.LostAnswer:
		switch {
		case request == "PUT":
			return 200 // it is stored, and by whom is not known
		case request == "HEAD" && times > 3, request == "GET" && fault == s3test.LostAnswer && times > 3:
			return http.StatusServiceUnavailable
		}
	default:
		if times > 3 {
			return http.StatusServiceUnavailable
		}
	}
	return good
}

// attempt makes one request; an answer that breaks off is an error.
func (s *server) attempt(t *testing.T, o operation, key store.Key) (status int, got string, err error) {
	t.Helper()
	method := o.method
	url, token := s.url+"/"+key.String(), uploadToken
	var content io.Reader
	switch method {
	case "PUT":
		content = strings.NewReader(o.body())
	case "GET", "HEAD":
		token = downloadToken
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, content)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if o.ranges != "" {
		r.Header.Set("Range", o.ranges)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// mustBeWhole reports whether the artifact is there; if so it must have all its bytes.
func mustBeWhole(t *testing.T, s store.Store, key store.Key, body string) bool {
	t.Helper()
	object, err := s.Open(t.Context(), key)
	if err != nil {
		if !errors.Is(err, store.ErrNotFound) {
			t.Error(err)
		}
		return false
	}
	defer object.Close()
	if got, err := io.ReadAll(object); err != nil || !bytes.Equal(got, []byte(body)) {
		t.Errorf("%s holds %d bytes of %d, %v", key, len(got), len(body), err)
	}
	return true
}
