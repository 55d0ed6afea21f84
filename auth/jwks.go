package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	refreshEvery = 15 * time.Minute // a key set is fetched again
	retryEvery   = time.Minute      // after a failure, and at the most when tokens name keys it does not have
	staleAfter   = 6 * time.Hour    // a set that could not be fetched again serves for so long
	keyWait      = time.Second      // a request waits at most, for a key
	fetchTimeout = 10 * time.Second
	largestJWKS  = 256 << 10 // bytes; those of large services have about 10 KiB
)

// keyfunc could fetch too, but not so that a request waits no longer than this while the fetch goes on, that a bad set leaves the
// last good one in force, or that an old one ends.

// source is where the keys of an issuer come from: a URL, or a file, whose set is there from the beginning and is not fetched.
type source struct {
	url    string
	client *http.Client
	log    *slog.Logger

	mu        sync.Mutex
	set       *keySet // the last good one; nil before there was one
	attempted time.Time
	failure   string        // of the last attempt; "" when it was none
	running   chan struct{} // closed when the fetch under way ends; nil when there is none
}

// fixed is the source of keys from a file.
func fixed(set *keySet) *source { return &source{set: set} }

// shown is the URL for the log: what is in its query is nobody's business.
func (s *source) shown() string {
	shown, _, _ := strings.Cut(s.url, "?")
	return shown
}

// nothingRuns is a fetch that has ended.
var nothingRuns = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// fetchIfDue begins to fetch the set, when it is time to, and returns a channel that is closed when no fetch is under way.
func (s *source) fetchIfDue() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := refreshEvery
	if s.failure != "" {
		wait = retryEvery
	}
	return s.fetchAfter(wait)
}

// fetchAfter begins a fetch, unless one is under way, or was attempted less than wait ago. Under mu.
func (s *source) fetchAfter(wait time.Duration) <-chan struct{} {
	switch {
	case s.running != nil:
		return s.running
	case s.url == "", !s.attempted.IsZero() && time.Since(s.attempted) < wait:
		return nothingRuns
	}
	done := make(chan struct{})
	s.running, s.attempted = done, time.Now()
	go func() {
		defer close(done)
		set, err := s.fetch()
		s.mu.Lock()
		defer s.mu.Unlock()
		before := s.failure
		if s.running, s.failure = nil, ""; err != nil {
			if s.failure = err.Error(); s.failure == before {
				return // it was said
			}
			consequence := "its tokens are answered 503 until they can"
			if s.set.inForce(time.Now()) {
				consequence = "those fetched before stay in force until " + s.set.until.UTC().Format(time.RFC3339)
			}
			s.log.Warn("the keys of an issuer cannot be fetched", "jwks_url", s.shown(), "consequence", consequence, "reason", err.Error())
			return
		}
		if s.set != nil {
			s.set.retired.Store(true)
		}
		if s.set == nil || before != "" {
			s.log.Info("fetched the keys of an issuer", "jwks_url", s.shown())
		}
		s.set = set
	}()
	return done
}

// keys returns the keys in force, other than old, the ones that did not do. Where it has none it has them fetched, unless that
// was tried a short while ago, and waits a moment. It returns nil when there are none.
func (s *source) keys(ctx context.Context, old *keySet) *keySet {
	current := func() (set *keySet, done <-chan struct{}) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.set.inForce(time.Now()) && s.set != old {
			return s.set, nil
		}
		return nil, s.fetchAfter(retryEvery)
	}
	set, done := current()
	if set != nil || done == nothingRuns {
		return set
	}
	timeout := time.NewTimer(keyWait)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set.inForce(time.Now()) && s.set != old {
		return s.set
	}
	return nil
}

// fetch asks for the set, apart from any request, which may not wait for so long.
func (s *source) fetch() (*keySet, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := s.client.Do(request)
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		return nil, wrapped.Err // without the URL
	}
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, largestJWKS+1))
	if err != nil {
		return nil, err
	}
	if len(content) > largestJWKS {
		return nil, fmt.Errorf("the answer has more than %d bytes", largestJWKS)
	}
	set, err := readJWKS(content)
	if err == nil {
		set.until = time.Now().Add(staleAfter)
	}
	return set, err
}

// keyClient is how key sets are asked for: from where the file says and nowhere else, and through the proxy that the
// environment names.
func keyClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DisableKeepAlives:      true, // the next request is a quarter of an hour away
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    5 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects, which is not followed: give the address where the key set is")
		},
	}
}
