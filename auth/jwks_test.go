package auth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"depot/auth"
)

// keyServer stands in for the network, where time is not real: it answers with what it is told to, and counts.
type keyServer struct {
	mu      sync.Mutex
	status  int
	body    string
	takes   time.Duration
	headers map[string]string
	fetches int
}

func (s *keyServer) set(status int, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.body = status, body
}

func (s *keyServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.fetches
	s.fetches = 0
	return n
}

func (s *keyServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetches++
	takes := s.takes
	s.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-r.Context().Done():
	}
	s.mu.Lock()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if s.status == 0 {
		return nil, errors.New("unreachable")
	}
	response := &http.Response{StatusCode: s.status, Status: fmt.Sprint(s.status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(s.body)), Request: r}
	for name, value := range s.headers {
		response.Header.Set(name, value)
	}
	return response, nil
}

const byURL = `jwks_url = "https://issuer.test/jwks"`

// withKeys runs a test in a time of its own, with an issuer whose keys come from a keyServer. check says what the answer to a
// token is: "yes", "401" or "503".
func withKeys(t *testing.T, test func(t *testing.T, s *keyServer, a *auth.Authenticator, check func(token string) string)) {
	_ = signers() // RSA keys are made by real time
	synctest.Test(t, func(t *testing.T) {
		cfg := issuers(t, entry(byURL, `allow = ["upload"]`, `namespaces = ["*"]`), nil)
		var log strings.Builder
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		a, err := auth.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s := &keyServer{status: 200, body: jwks("p256")}
		a.SetTransport(s)
		test(t, s, a, func(token string) string {
			_, err := a.Authenticate(t.Context(), auth.Upload, auth.Credentials{Authorization: []string{"Bearer " + token}})
			var refused *auth.Error
			switch {
			case err == nil:
				return "yes"
			case errors.As(err, &refused) && refused.Unavailable:
				return "503"
			}
			return "401"
		})
		synctest.Wait()
		t.Logf("%s", log.String())
	})
}

func es256(t *testing.T, key string, header map[string]any) string {
	t.Helper()
	h := map[string]any{"alg": "ES256"}
	for name, value := range header {
		h[name] = value
	}
	return sign(t, signers()[key], h, claims())
}

// An issuer whose keys cannot be had is no reason not to start: its tokens are 503 until they can, and it is asked once a minute,
// however many tokens come.
func TestKeysUnreachable(t *testing.T) {
	withKeys(t, func(t *testing.T, s *keyServer, a *auth.Authenticator, check func(string) string) {
		s.set(0, "")
		a.Refresh(t.Context())
		if n := s.count(); n != 1 {
			t.Errorf("%d fetches at the start", n)
		}
		token := es256(t, "p256", nil)
		for range 1000 {
			if got := check(token); got != "503" {
				t.Fatalf("without keys: %s", got)
			}
		}
		if n := s.count(); n != 0 {
			t.Errorf("%d fetches for 1,000 tokens in the same minute", n)
		}
		s.set(200, jwks("p256"))
		time.Sleep(time.Minute)
		if got := check(token); got != "yes" { // the request itself has it fetched
			t.Errorf("a minute later: %s", got)
		}
		if n := s.count(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// Tokens that name unknown keys cause a fetch a minute at the most; a new key is found by the first token that it signed.
func TestUnknownKeys(t *testing.T) {
	withKeys(t, func(t *testing.T, s *keyServer, a *auth.Authenticator, check func(string) string) {
		a.Refresh(t.Context())
		s.count()
		time.Sleep(2 * time.Minute)
		for _, test := range []struct {
			pause time.Duration
			most  int
		}{{0, 1}, {600 * time.Millisecond, 10}} { // at once, and in ten minutes
			for range 1000 {
				if got := check(es256(t, "p256", map[string]any{"kid": auth.NewToken()})); got != "401" {
					t.Fatalf("an unknown kid: %s", got)
				}
				time.Sleep(test.pause)
			}
			if n := s.count(); n < 1 || n > test.most {
				t.Errorf("%d fetches for 1,000 unknown kids every %v", n, test.pause)
			}
		}
		for _, header := range []map[string]any{{"kid": "p256-2"}, nil} {
			time.Sleep(time.Minute)
			s.set(200, jwks("p256"))
			a.Refresh(t.Context())
			time.Sleep(time.Minute)
			s.set(200, jwks("p256", "p256-2"))
			if got := check(es256(t, "p256-2", header)); got != "yes" {
				t.Errorf("a new key, header %v: %s", header, got)
			}
			time.Sleep(16 * time.Minute)
			s.set(200, jwks("p256"))
			a.Refresh(t.Context())
		}
		// A kind of key that was not there before.
		time.Sleep(time.Minute)
		s.set(200, jwks("p256", "ed25519"))
		if got := check(sign(t, signers()["ed25519"], map[string]any{"alg": "EdDSA", "kid": "ed25519"}, claims())); got != "yes" {
			t.Errorf("a new kind of key: %s", got)
		}
	})
}

// A request waits for a key a second at most; the fetch goes on without it.
func TestSlowKeys(t *testing.T) {
	withKeys(t, func(t *testing.T, s *keyServer, a *auth.Authenticator, check func(string) string) {
		s.takes = 5 * time.Second
		token, begin := es256(t, "p256", nil), time.Now()
		if got := check(token); got != "503" || time.Since(begin) != time.Second {
			t.Errorf("%s after %v of the test's own time", got, time.Since(begin))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := a.Authenticate(ctx, auth.Upload, auth.Credentials{Authorization: []string{"Bearer " + token}})
		if err == nil || time.Since(begin) != time.Second {
			t.Errorf("for a client that left: %v after %v", err, time.Since(begin))
		}
		time.Sleep(5 * time.Second)
		if got := check(token); got != "yes" || s.count() != 1 {
			t.Errorf("after the fetch: %s", got)
		}
		s.takes = time.Hour
		time.Sleep(time.Minute)
		begin = time.Now()
		if got := check(es256(t, "p256-2", nil)); got != "401" || time.Since(begin) != time.Second {
			t.Errorf("an unknown key: %s after %v", got, time.Since(begin))
		}
		if got := check(token); got != "yes" {
			t.Errorf("a known one meanwhile: %s", got)
		}
		time.Sleep(time.Minute) // the fetch has its own limit
	})
}

// The set is fetched every 15 minutes.
func TestKeysAreRefreshed(t *testing.T) {
	withKeys(t, func(t *testing.T, s *keyServer, a *auth.Authenticator, _ func(string) string) {
		for range 20 * 60 { // an hour
			a.Refresh(t.Context())
			time.Sleep(3 * time.Second)
		}
		if n := s.count(); n != 4 {
			t.Errorf("%d fetches in an hour, want 4", n)
		}
	})
}

// Whatever the URL answers instead of a good set leaves the last good one in force, for six hours; then its tokens are 503.
func TestBadKeySets(t *testing.T) {
	for name, bad := range map[string]struct {
		status  int
		body    string
		headers map[string]string
	}{
		"unreachable":    {0, "", nil},
		"error":          {500, "", nil},
		"not found":      {404, jwks("p256-2"), nil},
		"redirect":       {302, "", map[string]string{"Location": "https://elsewhere.test/jwks"}},
		"redirect, near": {307, "", map[string]string{"Location": "https://issuer.test/other"}},
		"too large":      {200, jwks("p256-2") + strings.Repeat(" ", 300<<10), nil},
		"too many":       {200, strings.Replace(jwks("p256-2"), "]}", strings.Repeat(","+strings.TrimSuffix(strings.TrimPrefix(jwks("p256-2"), `{"keys":[`), "]}"), 50)+"]}", 1), nil},
		"weak":           {200, jwks("p256-2", "rsa-weak"), nil},
		"symmetric":      {200, strings.Replace(jwks("p256-2"), `[{`, `[{"kty":"oct","k":"AAAA"},{`, 1), nil},
		"private":        {200, strings.Replace(jwks("p256-2"), `"kty"`, `"d":"AAAA","kty"`, 1), nil},
		"off the curve":  {200, strings.Replace(jwks("p256-2"), `"x":"`, `"x":"BBBB`, 1), nil},
		"empty":          {200, `{"keys":[]}`, nil},
		"html":           {200, `<html>`, nil},
		"nothing":        {200, ``, nil},
		"cut short":      {200, jwks("p256-2")[:50], nil},
	} {
		t.Run(name, func(t *testing.T) {
			withKeys(t, func(t *testing.T, s *keyServer, a *auth.Authenticator, check func(string) string) {
				a.Refresh(t.Context())
				s.set(bad.status, bad.body)
				s.headers = bad.headers
				s.count()
				token, other := sign(t, signers()["p256"], map[string]any{"alg": "ES256"}, claims(map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()})), es256(t, "p256-2", nil)
				for range 5 { // 5 h 50 min
					time.Sleep(70 * time.Minute)
					a.Refresh(t.Context())
					if got := check(token); got != "yes" {
						t.Errorf("with keys of %v: %s", time.Now(), got)
					}
					if got := check(other); got != "401" {
						t.Errorf("signed with a key of the bad set: %s", got)
					}
				}
				time.Sleep(10*time.Minute + time.Second)
				for _, asked := range []string{token, other} {
					if got := check(asked); got != "503" {
						t.Errorf("with keys that are too old: %s", got)
					}
				}
				if n := s.count(); n < 6 || n > 12 {
					t.Errorf("%d fetches", n)
				}
				time.Sleep(time.Minute)
				s.set(200, jwks("p256"))
				if got := check(token); got != "yes" {
					t.Errorf("with a good set again: %s", got)
				}
			})
		})
	}
}

// A key that its issuer has taken back verifies nothing from the next fetch on, not even what was remembered.
func TestKeyTakenBack(t *testing.T) {
	withKeys(t, func(t *testing.T, s *keyServer, a *auth.Authenticator, check func(string) string) {
		token := es256(t, "p256", nil)
		if got := check(token) + check(token); got != "yesyes" {
			t.Errorf("before: %s", got)
		}
		s.set(200, jwks("p256-2"))
		time.Sleep(15 * time.Minute)
		a.Refresh(t.Context())
		if got := check(token); got != "401" {
			t.Errorf("after: %s", got)
		}
	})
}

// A reload keeps the keys that were fetched, also when they could not be fetched now; after a failure they are asked for again in a
// minute, not in a quarter of an hour.
func TestKeysOutliveReload(t *testing.T) {
	_ = signers()
	synctest.Test(t, func(t *testing.T) {
		cfg := issuers(t, entry(byURL, `allow = ["upload"]`, `namespaces = ["*"]`), nil)
		a, err := auth.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s := &keyServer{status: 200, body: jwks("p256")}
		a.SetTransport(s)
		a.Refresh(t.Context())
		s.set(0, "")
		if err := os.WriteFile(cfg.AccessFile, []byte(entry(byURL, `allow = ["upload", "delete"]`, `namespaces = ["*"]`)), 0o600); err != nil {
			t.Fatal(err)
		}
		s.count()
		if changed, err := a.Reload(cfg, true); !changed || err != nil {
			t.Fatalf("%v, %v", changed, err)
		}
		if id, err := ask(t, a, es256(t, "p256", nil)); err != nil || !id.May(auth.Delete, "x") || s.count() != 0 {
			t.Errorf("after a reload: %v", err)
		}
		time.Sleep(15 * time.Minute)
		a.Refresh(t.Context()) // fails
		s.set(200, jwks("p256"))
		time.Sleep(time.Minute)
		a.Refresh(t.Context())
		if n := s.count(); n != 2 {
			t.Errorf("%d fetches, want one that failed and one a minute later", n)
		}
		synctest.Wait()
	})
}

// Each file that an access file names counts: a change of it alone is a change.
func TestEveryFileCounts(t *testing.T) {
	old := map[string]string{"key": publicPEM("rsa"), "set": jwks("p256"), "hmac": strings.Repeat("x", 32), "secret": "first"}
	text := entry(`name = "a"`, `key_file = "key"`, `allow = ["upload"]`, `namespaces = ["*"]`) + entry(`name = "b"`, `jwks_file = "set"`, `allow = ["upload"]`, `namespaces = ["*"]`) +
		entry(`name = "c"`, `secret_file = "hmac"`, `allow = ["upload"]`, `namespaces = ["*"]`) + "[[token]]\nname = \"d\"\nsecret_file = \"secret\"\nallow = [\"upload\"]\nnamespaces = [\"*\"]\n"
	hs := func(c string) string {
		return sign(t, []byte(strings.Repeat(c, 32)), map[string]any{"alg": "HS256"}, claims())
	}
	for name, test := range map[string]struct{ content, before, after string }{
		"key":    {publicPEM("rsa-2"), sign(t, signers()["rsa"], map[string]any{"alg": "RS256"}, claims()), sign(t, signers()["rsa-2"], map[string]any{"alg": "RS256"}, claims())},
		"set":    {jwks("p256-2"), es256(t, "p256", nil), es256(t, "p256-2", nil)},
		"hmac":   {strings.Repeat("y", 32), hs("x"), hs("y")},
		"secret": {"second", "first", "second"},
	} {
		cfg := issuers(t, text, old)
		a, err := auth.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		works := func(token string) bool { _, err := ask(t, a, token); return err == nil }
		if !works(test.before) || works(test.after) {
			t.Errorf("%s, before", name)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(cfg.AccessFile), name), []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if changed, err := a.Reload(cfg, true); !changed || err != nil || works(test.before) || !works(test.after) {
			t.Errorf("%s, after: %v, %v", name, changed, err)
		}
	}
}

// Over a real connection: a set as it is served, a redirect, and nobody there.
func TestKeysOverHTTP(t *testing.T) {
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/jwks", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, jwks("rsa", "p256"))
	}))
	defer served.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for url, want := range map[string]string{served.URL + "/jwks": "may upload", served.URL + "/old": "has not got the keys", gone.URL: "has not got the keys"} {
		a, err := auth.New(issuers(t, entry(`jwks_url = "`+url+`"`, `allow = ["upload"]`, `namespaces = ["*"]`), nil))
		if err != nil {
			t.Fatal(err)
		}
		a.Refresh(t.Context())
		if _, why := a.Explain(t.Context(), es256(t, "p256", nil), auth.Upload, "x"); !strings.Contains(why, want) {
			t.Errorf("%s: %s", url, why)
		}
	}
}

// However many entries an issuer has, a request waits one second for keys, and an entry whose keys cannot be had makes a token
// unavailable, not invalid; and it is judged again when the keys are there.
func TestSeveralEntries(t *testing.T) {
	_ = signers()
	synctest.Test(t, func(t *testing.T) {
		text := ""
		for i := range 5 {
			text += entry(fmt.Sprintf("name = \"url-%d\"", i), fmt.Sprintf("jwks_url = \"https://issuer.test/%d\"", i), `allow = ["upload"]`, `namespaces = ["*"]`)
		}
		a, err := auth.New(issuers(t, text+entry(`name = "file"`, `key_file = "keys"`, `allow = ["download"]`, `namespaces = ["*"]`), map[string]string{"keys": publicPEM("p256")}))
		if err != nil {
			t.Fatal(err)
		}
		s := &keyServer{status: 200, body: jwks("p256-2"), takes: time.Hour}
		a.SetTransport(s)
		begin := time.Now()
		_, err = ask(t, a, es256(t, "p256-2", nil))
		var refused *auth.Error
		if !errors.As(err, &refused) || !refused.Unavailable || time.Since(begin) != time.Second {
			t.Errorf("a token of an issuer with five entries that hang: %v after %v", err, time.Since(begin))
		}
		token := es256(t, "p256", nil)
		if id, err := ask(t, a, token); err != nil || id.May(auth.Upload, "x") || !id.May(auth.Download, "x") || id.Pending() == nil {
			t.Errorf("by the entry with a file: %v, %v", id, err)
		}
		s.mu.Lock()
		s.takes, s.body = 0, jwks("p256-2")
		s.mu.Unlock()
		time.Sleep(2 * time.Minute)
		a.Refresh(t.Context())
		for range 2 {
			if id, err := ask(t, a, token); err != nil || id.May(auth.Upload, "x") || !id.May(auth.Download, "x") || id.Pending() != nil {
				t.Errorf("with other keys at the URLs: %v, %v", id, err)
			}
		}
		s.set(200, jwks("p256"))
		time.Sleep(16 * time.Minute)
		a.Refresh(t.Context())
		if id, err := ask(t, a, token); err != nil || !id.May(auth.Upload, "x") || !id.May(auth.Download, "x") {
			t.Errorf("with its key at the URLs: %v, %v", id, err)
		}
		synctest.Wait()
	})
}
