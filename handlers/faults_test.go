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

// faultCase is an operation on an artifact of its own, with a fault of the first requests of a kind that it makes of the
// bucket after it has come to a stage.
type faultCase struct {
	method, request string
	stage           int
	fault           s3test.Fault
	times           int

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
	cases := map[string]*faultCase{}                   // by the path of the object
	for method, requests := range map[string][]string{ // what each operation asks of the bucket, in order
		"PUT": {"HEAD", "PUT", "HEAD"}, "GET": {"GET"}, "HEAD": {"HEAD"}, "DELETE": {"HEAD", "DELETE"},
	} {
		for stage, request := range requests {
			for fault := s3test.ResetBefore; fault < s3test.Faults; fault++ {
				for _, times := range []int{1, 3, 1000} {
					key := storetest.Key(t, fmt.Sprintf("faults/%s/%d-%d-%d.zip", method, stage, fault, times))
					cases["/"+bucket+"/"+key.String()] = &faultCase{method: method, request: request, stage: stage, fault: fault, times: times, key: key}
				}
			}
		}
	}
	body := string(storetest.Bytes(1, 300_000))
	for _, c := range cases {
		if c.method != "PUT" {
			if _, _, err := clean.Put(t.Context(), c.key, strings.NewReader(body), store.PutOptions{Size: -1}); err != nil {
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
		runs = append(runs, func() { c.run(t, s, clean, body) })
	}
	s3test.Together(runs)
	proxy.Set(nil)
	for _, c := range cases {
		if c.method == "PUT" { // the client's retry
			_, err := clean.Stat(t.Context(), c.key)
			again, text := s.put(t, c.key.String(), body)
			if want := map[bool]int{true: 200, false: 201}[err == nil]; again.StatusCode != want {
				t.Errorf("%s: the client's retry is answered %s %s, want %d", c, again.Status, text, want)
			}
			mustBeWhole(t, clean, c.key, body)
		}
	}
}

func (c *faultCase) String() string {
	return fmt.Sprintf("%s with %v at %s %d, %d times", c.method, c.fault, c.request, c.stage, c.times)
}

func (c *faultCase) run(t *testing.T, s *server, clean store.Store, body string) {
	status, got, err := s.attempt(t, c.method, c.key, body)
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
	if want := c.wantStatus(); status != want {
		fail("want %d", want)
	}
	if broken := c.method == "GET" && c.fault == s3test.ShortBody; (err != nil) != broken {
		fail("the answer itself")
	}
	held := mustBeWhole(t, clean, c.key, body)
	switch {
	case c.method == "GET" && err == nil && status == http.StatusOK && got != body:
		fail("a clean end after %d of %d bytes", len(got), len(body))
	case c.method == "PUT" && status < 300 && !held:
		fail("what was acknowledged is not there")
	case c.method == "DELETE" && status == http.StatusNoContent && held:
		fail("what was deleted is still there")
	}
}

// wantStatus is how the operation must be answered.
func (c *faultCase) wantStatus() int {
	method, request, stage, fault, times := c.method, c.request, c.stage, c.fault, c.times
	good := map[string]int{"PUT": 201, "GET": 200, "HEAD": 200, "DELETE": 204}[method]
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
func (s *server) attempt(t *testing.T, method string, key store.Key, body string) (status int, got string, err error) {
	t.Helper()
	url, token := s.url+"/"+key.String(), uploadToken
	var content io.Reader
	switch method {
	case "PUT":
		content = strings.NewReader(body)
	case "GET", "HEAD":
		token = downloadToken
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, content)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
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
