package auth_test

import (
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"depot/auth"
)

// ask authenticates with a bearer token.
func ask(t testing.TB, a *auth.Authenticator, token string) (auth.Identity, error) {
	return a.Authenticate(t.Context(), auth.Upload, auth.Credentials{Authorization: []string{"Bearer " + token}})
}

func oneIssuer(t testing.TB, more ...string) *auth.Authenticator {
	t.Helper()
	lines := append([]string{`key_file = "keys"`, `allow = ["upload"]`, `namespaces = ["*"]`}, more...)
	a, err := auth.New(issuers(t, entry(lines...), map[string]string{"keys": publicPEM("p256")}))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// exp is exact; nbf and iat may be 30 s ahead; all of them must be dates.
func TestDates(t *testing.T) {
	_ = signers()
	synctest.Test(t, func(t *testing.T) {
		a := oneIssuer(t)
		now := time.Now().Unix()
		for _, test := range []struct {
			name    string
			changes map[string]any
			want    string // in the refusal; "" for none
		}{
			{"exp in a second", map[string]any{"exp": now + 1}, ""},
			{"exp now", map[string]any{"exp": now}, "has expired"},
			{"exp past, within the leeway for others", map[string]any{"exp": now - 10}, "has expired"},
			{"exp long past", map[string]any{"exp": now - 3600}, "has expired"},
			{"no exp", map[string]any{"exp": nil}, "it needs the claim exp"},
			{"exp of nothing", map[string]any{"exp": 0}, "exp is no date"},
			{"exp before time", map[string]any{"exp": -1}, "exp is no date"},
			{"exp as a text", map[string]any{"exp": fmt.Sprint(now + 1000)}, "exp is no date"},
			{"exp that is true", map[string]any{"exp": true}, "exp is no date"},
			{"exp in a list", map[string]any{"exp": []int64{now + 1000}}, "exp is no date"},
			{"exp after time", map[string]any{"exp": 1e300}, "exp is no date"},
			{"exp with a fraction", map[string]any{"exp": float64(now) + 0.5}, "has expired"},
			{"nbf past", map[string]any{"nbf": now - 10}, ""},
			{"nbf 30 s ahead", map[string]any{"nbf": now + 30}, ""},
			{"nbf 31 s ahead", map[string]any{"nbf": now + 31}, "not valid yet"},
			{"nbf that wraps around", map[string]any{"nbf": 1e300}, "nbf is no date"},
			{"nbf as a text", map[string]any{"nbf": "never"}, "nbf is no date"},
			{"iat 30 s ahead", map[string]any{"iat": now + 30}, ""},
			{"iat 31 s ahead", map[string]any{"iat": now + 31}, "issued in the future"},
			{"iat as a text", map[string]any{"iat": "now"}, "iat is no date"},
		} {
			_, err := ask(t, a, sign(t, signers()["p256"], map[string]any{"alg": "ES256"}, claims(test.changes)))
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %q", test.name, err, test.want)
			}
		}
	})
}

// A token that was verified is not verified again, until it expires, or the keys or the access file are others. And of many
// tokens only some are remembered.
func TestSeenTokens(t *testing.T) {
	_ = signers()
	synctest.Test(t, func(t *testing.T) {
		cfg := issuers(t, entry(`key_file = "keys"`, `allow = ["upload"]`, `namespaces = ["*"]`), map[string]string{"keys": publicPEM("p256")})
		a, err := auth.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		checks := 0
		a.OnSignature(func() { checks++ })
		verified := func(token string, want int, what string) {
			t.Helper()
			checks = 0
			if _, err := ask(t, a, token); err != nil || checks != want {
				t.Errorf("%s: %v, %d signatures checked, want %d", what, err, checks, want)
			}
		}
		token := es256(t, "p256", nil)
		verified(token, 1, "first")
		verified(token, 0, "second")
		forged := token[:len(token)-4] + "AAAA"
		for range 2 {
			if _, err := ask(t, a, forged); err == nil {
				t.Error("a forged token")
			}
		}
		for range 1001 {
			verified(es256(t, "p256", map[string]any{"x": auth.NewToken()}), 1, "others")
		}
		verified(token, 1, "after a thousand others")
		verified(token, 0, "and again")

		// Reload with a change elsewhere in the file: the memory is gone, the token is still good.
		text, err := os.ReadFile(cfg.AccessFile)
		if err != nil {
			t.Fatal(err)
		}
		if changed, err := a.Reload(cfg, true); changed || err != nil {
			t.Errorf("nothing changed: %v, %v", changed, err)
		}
		verified(token, 0, "after a reload of the same")
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(cfg.AccessFile, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(string(text) + "# changed\n")
		if changed, err := a.Reload(cfg, true); !changed || err != nil {
			t.Errorf("changed: %v, %v", changed, err)
		}
		a.OnSignature(func() { checks++ })
		verified(token, 1, "after a reload")
		verified(token, 0, "and again")
		write(strings.Replace(string(text), `"upload"`, `"delete"`, 1))
		if _, err := a.Reload(cfg, true); err != nil {
			t.Error(err)
		}
		if id, err := ask(t, a, token); err != nil || id.May(auth.Upload, "x") || !id.May(auth.Delete, "x") {
			t.Errorf("with other rights: %v", err)
		}
		time.Sleep(time.Hour)
		if _, err := ask(t, a, token); err == nil || !strings.Contains(err.Error(), "has expired") {
			t.Errorf("after its time: %v", err)
		}
	})
}

// After a broken file the old one stays in force, whatever breaks it; and a token that expires meanwhile breaks nothing.
func TestReload(t *testing.T) {
	_ = signers()
	synctest.Test(t, func(t *testing.T) {
		token := func(name string, expires time.Time) string {
			return fmt.Sprintf("[[token]]\nname = %q\nsha256 = %q\nallow = [\"upload\"]\nnamespaces = [\"*\"]\nexpires = %s\n", name, sum(name), expires.UTC().Format(time.RFC3339))
		}
		later := time.Now().Add(24 * time.Hour)
		old := token("brief", time.Now().Add(time.Hour)) + token("old", later)
		cfg := issuers(t, old, nil)
		a, err := auth.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		write := func(text string) (bool, error) {
			t.Helper()
			if err := os.WriteFile(cfg.AccessFile, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return a.Reload(cfg, true)
		}
		works := func(name string) bool { _, err := ask(t, a, name); return err == nil }
		for _, broken := range []string{"", "[[token]", old + "x = 1\n", old + token("old", later), strings.Replace(old, `"*"`, `"a*b"`, 1)} {
			if changed, err := write(broken); err == nil || changed || !works("old") || !works("brief") {
				t.Errorf("%q: %v, %v, old works: %v", broken, changed, err, works("old"))
			}
		}
		// A file that is being written: what is new counts when it has been seen twice.
		for i, step := range []struct {
			text         string
			changed, now bool
		}{{token("new", later), false, false}, {token("new", later) + token("old", later), false, false}, {token("new", later) + token("old", later), true, true}, {token("new", later) + token("old", later), false, true}} {
			if err := os.WriteFile(cfg.AccessFile, []byte(step.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if changed, err := a.Reload(cfg, false); changed != step.changed || err != nil || works("new") != step.now || !works("old") {
				t.Errorf("step %d: %v, %v", i, changed, err)
			}
		}
		if changed, err := write(old); err != nil || !changed {
			t.Errorf("and back: %v, %v", changed, err)
		}
		if err := os.Remove(cfg.AccessFile); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Reload(cfg, true); err == nil || !works("old") {
			t.Errorf("without the file: %v", err)
		}
		time.Sleep(2 * time.Hour)
		if works("brief") || !works("old") {
			t.Error("after the brief one has expired")
		}
		if changed, err := write(old + token("new", later)); !changed || err != nil || !works("new") || !works("old") {
			t.Errorf("another entry beside one that has expired meanwhile: %v, %v", changed, err)
		}
		if changed, err := write(token("new", later)); !changed || err != nil || !works("new") || works("old") {
			t.Errorf("taken away: %v, %v", changed, err)
		}
		if changed, err := write(token("new", time.Now())); !changed || err != nil || works("new") {
			t.Errorf("revoked by its date: %v, %v", changed, err)
		}
		if changed, err := write(token("new", later)); !changed || err != nil || !works("new") {
			t.Errorf("back again: %v, %v", changed, err)
		}
		if changed, err := write("# nobody\n"); !changed || err != nil || works("new") {
			t.Errorf("all revoked: %v, %v", changed, err)
		}
		if _, err := auth.New(issuers(t, old, nil)); err == nil || !strings.Contains(err.Error(), "it has expired") {
			t.Errorf("a start with an entry that has expired: %v", err)
		}
	})
}

// Whatever is offered, only what a key has signed is taken, and nothing of it is repeated.
func FuzzJWT(f *testing.F) {
	a := oneIssuer(f)
	good := sign(f, signers()["p256"], map[string]any{"alg": "ES256", "kid": "x"}, claims())
	encode := base64.RawURLEncoding.EncodeToString
	f.Add(good)
	f.Add(good + "\n")
	f.Add("." + good)
	f.Add("..")
	for _, header := range []string{`{"alg":"none"}`, `{"alg":"ES256","alg":"none"}`, `{"alg":["ES256"]}`, `{"alg":"ES256","kid":{"a":[1,{"b":2}]}}`, `[]`, `null`, `{`, `{"alg":"ES256"}{}`, `{"":1,"":2}`} {
		parts := strings.Split(good, ".")
		f.Add(encode([]byte(header)) + "." + parts[1] + "." + parts[2])
		f.Add(parts[0] + "." + encode([]byte(header)) + "." + parts[2])
	}
	f.Fuzz(func(t *testing.T, token string) {
		id, err := ask(t, a, token)
		if strings.Trim(token, " ") == good {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		var refused *auth.Error
		if !errors.As(err, &refused) || refused.Unavailable || id.May(auth.Upload, "x") {
			t.Fatalf("%v, %v", id, err)
		}
		if len(token) > 20 && strings.Contains(err.Error(), token) {
			t.Fatalf("it repeats the token: %v", err)
		}
	})
}

// Whatever a JWK Set holds, reading it ends.
func FuzzJWKS(f *testing.F) {
	f.Add(jwks("rsa", "p256", "p384", "ed25519"))
	f.Add(jwks("rsa-weak"))
	f.Add(`{"keys":[{"kty":"RSA","n":"AA","e":"AA"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`)
	f.Add(`{"keys":[{"kty":"RSA","n":"","e":"AQAB","x5c":["AA"],"x5u":"https://x"}]}`)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, set string) {
		file := dir + "/access.toml"
		if os.WriteFile(file, []byte(entry(`jwks_file = "keys"`, `allow = ["upload"]`, `namespaces = ["*"]`)), 0o600) != nil || os.WriteFile(dir+"/keys", []byte(set), 0o600) != nil {
			t.Fatal("cannot write")
		}
		a, err := auth.New(auth.Config{UploadAuth: auth.Bearer, DownloadAuth: auth.BearerHeader, AccessFile: file})
		if err != nil {
			return
		}
		if _, err := ask(t, a, sign(t, otherP256, map[string]any{"alg": "ES256"}, claims())); err == nil {
			t.Fatal("it took a token of a stranger")
		}
	})
}

var otherP256 = otherEC(elliptic.P256())
