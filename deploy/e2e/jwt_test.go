package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The way from nothing to a service token: keys, the entry that trusts them, the token, and what it may do as the header that
// AgentVerse sends.
func TestServiceToken(t *testing.T) {
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		t.Run(alg, func(t *testing.T) {
			dir := t.TempDir()
			entry, stderr, status := run(t, dir, nil, "token", "keygen", "--alg", alg)
			if status != 0 {
				t.Fatal(stderr)
			}
			if st, err := os.Stat(filepath.Join(dir, "depot-signing.pem")); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("the private key: %v, %v", st.Mode(), err)
			}
			if err := os.WriteFile(filepath.Join(dir, "access.toml"), []byte(entry), 0o600); err != nil {
				t.Fatal(err)
			}
			token := func(args ...string) string {
				t.Helper()
				out, stderr, status := run(t, dir, nil, append([]string{"token", "jwt", "--key=depot-signing.pem"}, args...)...)
				if status != 0 || stderr != "" {
					t.Fatal(stderr)
				}
				return strings.TrimSpace(out)
			}
			all, narrow := token("--name", "agentverse"), token("--name", "ci", "--allow", "upload", "--namespace", "team-a,lib-*", "--ttl", "15m")
			p := serve(t, dir, []string{"DEPOT_ACCESS_FILE=access.toml", "DEPOT_DOWNLOAD_AUTH=none"})
			for _, test := range []struct {
				method, key, token string
				status             int
			}{
				{"PUT", "team-a/x/1.zip", all, 201},
				{"PUT", "team-a/x/1.zip", narrow, 200},
				{"DELETE", "team-a/x/1.zip", narrow, 403},
				{"PUT", "team-b/x/1.zip", narrow, 403},
				{"PUT", "lib-x/x/1.zip", narrow, 201},
				{"DELETE", "team-a/x/1.zip", all, 204},
				{"PUT", "team-a/x/1.zip", all[:len(all)-1], 401},
				{"PUT", "team-a/x/1.zip", token("--name", "x", "--issuer", "other"), 401},
				{"PUT", "team-a/x/1.zip", token("--name", "x", "--audience", "other"), 401},
				{"PUT", "team-a/x/1.zip", token("--name", "x", "--ttl", "91d"), 401},
			} {
				response, body := do(t, test.method, p.url+"/"+test.key, strings.NewReader("hello"), "Authorization", "Bearer "+test.token)
				if response.StatusCode != test.status {
					t.Errorf("%s %s: %s %s, want %d", test.method, test.key, response.Status, body, test.status)
				}
			}
			if log := p.stderr.String(); !strings.Contains(log, `"identity":"depot-signing:agentverse"`) || strings.Contains(log, narrow[:20]) {
				t.Errorf("the log:\n%s", log)
			}
			if err := os.WriteFile(filepath.Join(dir, "token"), []byte(narrow), 0o600); err != nil {
				t.Fatal(err)
			}
			for key, want := range map[string]string{"lib-x/y/1.zip": "yes: depot-signing:ci may upload in lib-x\n", "team-b/y/1.zip": "no: depot-signing:ci may not upload in team-b: it may upload in team-a, lib-*\n"} {
				out, stderr, _ := run(t, dir, nil, "access", "access.toml", "--token-file=token", "--action=upload", "--key", key)
				if !strings.HasSuffix(out+stderr, want) {
					t.Errorf("access: %s%s", out, stderr)
				}
			}
			if _, stderr, status := run(t, dir, nil, "token", "keygen"); status != 1 || !strings.Contains(stderr, "keys are not replaced") {
				t.Errorf("keys again: %d %s", status, stderr)
			}
		})
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"keygen", "--alg", "HS256"}, 1, "--alg: choose RS256, ES256 or EdDSA"},
		{[]string{"keygen", "--out", "no/where"}, 1, "--out: open no/where.pem"},
		{[]string{"jwt"}, 1, "--name: say who"},
		{[]string{"jwt", "--name=x"}, 1, "--key: name a readable file"},
		{[]string{"jwt", "--name=x", "--key=x"}, 1, "--key: the file holds no private key"},
		{[]string{"jwt", "--name=x", "--key=x", "--ttl=0d"}, 1, "--ttl: give a time"},
		{[]string{"jwt", "--name=x", "--key=x", "--ttl=-1h"}, 1, "--ttl: give a time"},
		{[]string{"jwt", "--name=x", "--key=x", "--allow=write"}, 1, "--allow: choose one of"},
		{[]string{"jwt", "--name=x", "--key=x", "--namespace=a/b"}, 1, `--namespace: "a/b" can match no namespace`},
		{[]string{"jwt", "--name=x", "--secret=canary-1"}, 2, "argument 2 is no flag"},
		{[]string{"jtw"}, 2, "depot token makes new, keygen or jwt"},
	} {
		out, stderr, status := run(t, dir, nil, append([]string{"token"}, test.args...)...)
		if status != test.status || out != "" || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "canary") {
			t.Errorf("%v: %d %s%s", test.args, status, out, stderr)
		}
	}
}

// The keys of an issuer that is added while depot runs are fetched before its first token comes.
func TestIssuerAdded(t *testing.T) {
	fetched := make(chan struct{}, 10)
	keys := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched <- struct{}{} }))
	defer keys.Close()
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "access.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(tokenEntry("x"))
	p := serve(t, dir, []string{"DEPOT_ACCESS_FILE=access.toml"})
	write(fmt.Sprintf("%s[[issuer]]\nissuer = \"depot\"\naudience = \"depot\"\njwks_url = %q\nallow = [\"upload\"]\nnamespaces = [\"*\"]\n", tokenEntry("x"), keys.URL))
	select {
	case <-fetched:
	case <-time.After(time.Minute):
		t.Fatalf("its keys are not fetched:\n%s", p.stderr)
	}
}

// The health check asks the server that runs, whatever has become of the files that it was started with.
func TestHealthcheckAsksTheServer(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "access.toml"), []byte(tokenEntry("x")), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"DEPOT_ACCESS_FILE=access.toml", "DEPOT_LISTEN=" + freeAddress(t)}
	serve(t, dir, env)
	if err := os.WriteFile(filepath.Join(dir, "access.toml"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, status := run(t, dir, append(env, "DEPOT_UPLOAD_TOKEN_FILE=nowhere"), "healthcheck"); status != 0 {
		t.Errorf("%d %s", status, stderr)
	}
}

// An issuer that cannot be reached does not keep depot from starting: it warns, its tokens are 503, and all others are served.
func TestIssuerUnreachable(t *testing.T) {
	dir := t.TempDir()
	if _, stderr, status := run(t, dir, nil, "token", "keygen"); status != 0 {
		t.Fatal(stderr)
	}
	token, _, _ := run(t, dir, nil, "token", "jwt", "--key=depot-signing.pem", "--name=x")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	access := fmt.Sprintf("[[issuer]]\nissuer = \"depot\"\naudience = \"depot\"\njwks_url = %q\nallow = [\"upload\"]\nnamespaces = [\"*\"]\n", gone.URL+"/jwks")
	if err := os.WriteFile(filepath.Join(dir, "access.toml"), []byte(access), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serve(t, dir, []string{"DEPOT_ACCESS_FILE=access.toml", "DEPOT_UPLOAD_TOKEN=up"})
	if !strings.Contains(p.stderr.String(), "the keys of an issuer cannot be fetched") {
		t.Errorf("it does not warn:\n%s", p.stderr)
	}
	for token, want := range map[string]int{"up": 201, strings.TrimSpace(token): 503, "nonsense": 401} {
		response, body := do(t, "PUT", p.url+"/a/b/1.zip", strings.NewReader("hello"), "Authorization", "Bearer "+token)
		if response.StatusCode != want || want == 503 && !strings.Contains(string(body), "try again in a minute") {
			t.Errorf("%.8s: %s %s", token, response.Status, body)
		}
	}
}
