package auth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"depot/auth"
)

func valid() auth.Config {
	return auth.Config{
		UploadAuth: auth.Bearer, UploadToken: []string{"up-1", "up-2"},
		DownloadAuth: auth.QueryParam, DownloadParam: "token", DownloadToken: []string{"down-1", "down-2"},
	}
}

func TestAuthenticate(t *testing.T) {
	header := func(values ...string) auth.Credentials { return auth.Credentials{Authorization: values} }
	query := func(values ...string) auth.Credentials { return auth.Credentials{Query: values} }
	for _, test := range []struct {
		name   string
		mode   auth.Mode // of downloads
		action auth.Action
		given  auth.Credentials
		want   string // the identity; "missing" or "bad" without one
	}{
		{"no credentials", auth.QueryParam, auth.Upload, auth.Credentials{}, "missing"},
		{"first upload token", auth.QueryParam, auth.Upload, header("Bearer up-1"), "upload-token-1"},
		{"second upload token", auth.QueryParam, auth.Delete, header("Bearer up-2"), "upload-token-2"},
		{"download token on an upload", auth.QueryParam, auth.Upload, header("Bearer down-1"), "download-token-1"},
		{"scheme in another case", auth.QueryParam, auth.Upload, header("bearer up-1"), "upload-token-1"},
		{"more spaces", auth.QueryParam, auth.Upload, header("Bearer  up-1 "), "upload-token-1"},
		{"token in another case", auth.QueryParam, auth.Upload, header("Bearer UP-1"), "bad"},
		{"empty header", auth.QueryParam, auth.Upload, header(""), "bad"},
		{"no token", auth.QueryParam, auth.Upload, header("Bearer "), "bad"},
		{"no scheme", auth.QueryParam, auth.Upload, header("up-1"), "bad"},
		{"basic", auth.QueryParam, auth.Upload, header("Basic up-1"), "bad"},
		{"two headers", auth.QueryParam, auth.Upload, header("Bearer up-1", "Bearer up-1"), "bad"},
		{"query token on an upload", auth.QueryParam, auth.Upload, query("up-1"), "missing"},
		{"query token", auth.QueryParam, auth.Download, query("down-2"), "download-token-2"},
		{"repeated query token", auth.QueryParam, auth.Download, query("down-1", "down-1"), "bad"},
		{"empty query token", auth.QueryParam, auth.Download, query(""), "bad"},
		{"header before query", auth.QueryParam, auth.Download, auth.Credentials{Authorization: []string{""}, Query: []string{"down-1"}}, "bad"},
		{"good header, bad query", auth.QueryParam, auth.Download, auth.Credentials{Authorization: []string{"Bearer down-1"}, Query: []string{"x", "y"}}, "download-token-1"},
		{"header under query_param", auth.QueryParam, auth.Download, header("Bearer down-1"), "download-token-1"},
		{"header", auth.BearerHeader, auth.Download, header("Bearer down-1"), "download-token-1"},
		{"query token under bearer_header", auth.BearerHeader, auth.Download, query("down-1"), "missing"},
		{"nothing under none", auth.None, auth.Download, auth.Credentials{}, "anyone"},
		{"anything under none", auth.None, auth.Download, header("Bearer nonsense"), "anyone"},
		{"upload under none", auth.None, auth.Upload, auth.Credentials{}, "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := valid()
			cfg.DownloadAuth = test.mode
			a, err := auth.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			id, err := a.Authenticate(t.Context(), test.action, test.given)
			got := id.Name
			if e := (*auth.Error)(nil); errors.As(err, &e) {
				got = map[bool]string{true: "missing", false: "bad"}[e.Missing]
				for _, secret := range []string{"up-1", "down-1", "nonsense"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("the error repeats the token: %v", err)
					}
				}
			}
			if got != test.want {
				t.Errorf("%q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func TestMay(t *testing.T) {
	a, err := auth.New(valid())
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]auth.Action{"up-1": auth.Upload | auth.Delete, "up-2": auth.Upload | auth.Delete, "down-1": auth.Download, "down-2": auth.Download} {
		id, err := a.Authenticate(t.Context(), auth.Upload, auth.Credentials{Authorization: []string{"Bearer " + token}})
		if err != nil {
			t.Fatal(err)
		}
		for _, action := range []auth.Action{auth.Upload, auth.Delete, auth.Download} {
			if id.May(action, "ns") != (want&action != 0) {
				t.Errorf("%s may %v: %v", token, action, id.May(action, "ns"))
			}
		}
	}
	if (auth.Identity{}).May(auth.Download, "ns") {
		t.Error("the zero Identity may download")
	}
	cfg := valid()
	cfg.DownloadAuth = auth.None
	if a, err = auth.New(cfg); err != nil {
		t.Fatal(err)
	}
	if id, _ := a.Authenticate(t.Context(), auth.Download, auth.Credentials{}); !id.May(auth.Download, "ns") || id.May(auth.Upload, "ns") || id.May(auth.Delete, "ns") {
		t.Error("where downloads are open, anyone may download and nothing else")
	}
}

func TestConfigErrors(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*auth.Config)
		want   string
	}{
		"no upload token":           {func(c *auth.Config) { c.UploadToken = nil }, "Config.UploadToken"},
		"no download token":         {func(c *auth.Config) { c.DownloadToken = nil }, "Config.DownloadToken"},
		"empty token":               {func(c *auth.Config) { c.UploadToken = []string{"a", ""} }, "Config.UploadToken: token 2 is empty"},
		"space":                     {func(c *auth.Config) { c.UploadToken = []string{"a b"} }, "Config.UploadToken: token 1"},
		"newline":                   {func(c *auth.Config) { c.DownloadToken = []string{"a\nb"} }, "Config.DownloadToken: token 1"},
		"not ASCII":                 {func(c *auth.Config) { c.UploadToken = []string{"é"} }, "Config.UploadToken: token 1"},
		"plus in a query token":     {func(c *auth.Config) { c.DownloadToken = []string{"a+b"} }, "Config.DownloadToken: token 1"},
		"ampersand in a query":      {func(c *auth.Config) { c.DownloadToken = []string{"a&b"} }, "Config.DownloadToken: token 1"},
		"empty parameter":           {func(c *auth.Config) { c.DownloadParam = "" }, "Config.DownloadParam"},
		"parameter with brackets":   {func(c *auth.Config) { c.DownloadParam = "a[]" }, "Config.DownloadParam"},
		"unknown upload mode":       {func(c *auth.Config) { c.UploadAuth = "basic" }, "Config.UploadAuth"},
		"no upload mode":            {func(c *auth.Config) { c.UploadAuth = "" }, "Config.UploadAuth"},
		"unknown download mode":     {func(c *auth.Config) { c.DownloadAuth = "bearer" }, "Config.DownloadAuth"},
		"one token for both":        {func(c *auth.Config) { c.DownloadToken = []string{"x", "up-2"} }, "Config.UploadToken"},
		"a token among open others": {func(c *auth.Config) { c.UploadAuth, c.UploadToken = auth.None, []string{""} }, "Config.UploadToken"},
	} {
		cfg := valid()
		test.change(&cfg)
		_, err := auth.New(cfg)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want something about %s", name, err, test.want)
		}
	}
	all := auth.Config{UploadAuth: auth.Bearer, DownloadAuth: auth.QueryParam}
	_, err := auth.New(all)
	for _, field := range []string{"UploadToken", "DownloadToken", "DownloadParam"} {
		if err == nil || !strings.Contains(err.Error(), "Config."+field) {
			t.Errorf("all at once: %v, want %s too", err, field)
		}
	}
	plus := valid()
	plus.DownloadAuth, plus.DownloadToken = auth.BearerHeader, []string{"a+b/c=="}
	if _, err := auth.New(plus); err != nil {
		t.Errorf("under bearer_header a token may have any characters: %v", err)
	}
}

func TestNewToken(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		token := auth.NewToken()
		if len(token) != 43 || seen[token] || strings.ContainsAny(token, "+/=") {
			t.Fatalf("token %q", token)
		}
		seen[token] = true
	}
}

func Example() {
	a, err := auth.New(auth.Config{
		UploadAuth: auth.Bearer, UploadToken: []string{"s3cret"},
		DownloadAuth: auth.None,
	})
	if err != nil {
		panic(err)
	}
	id, err := a.Authenticate(context.Background(), auth.Upload, auth.Credentials{Authorization: []string{"Bearer s3cret"}})
	fmt.Println(id.Name, err, id.May(auth.Upload, "myorg"), id.May(auth.Download, "myorg"))
	_, err = a.Authenticate(context.Background(), auth.Upload, auth.Credentials{})
	fmt.Println(err)
	// Output:
	// upload-token <nil> true false
	// this needs a token: send the header Authorization: Bearer <token>
}

// What a request pays: for a static token, right or wrong in its first or last byte; for a JWT that was seen before, and for
// one that was not.
func BenchmarkAuthenticate(b *testing.B) {
	cfg := issuers(b, entry(`key_file = "keys"`, `allow = ["upload"]`, `namespaces = ["*"]`), map[string]string{"keys": publicPEM("rsa", "p256")})
	for range 20 {
		cfg.UploadToken = append(cfg.UploadToken, tokenWith("A"))
	}
	a, err := auth.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	measure := func(name string, ok bool, next func() string) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := a.Authenticate(b.Context(), auth.Upload, auth.Credentials{Authorization: []string{next()}})
				if (err == nil) != ok {
					b.Fatal(err)
				}
			}
		})
	}
	always := func(token string) func() string { return func() string { return "Bearer " + token } }
	first, last := cfg.UploadToken[0], cfg.UploadToken[19]
	measure("static, 1st of 20", true, always(first))
	measure("static, 20th of 20", true, always(last))
	measure("static, first byte wrong", false, always("B"+first[1:]))
	measure("static, last byte wrong", false, always(first[:len(first)-1]+"!"))
	for alg, key := range map[string]string{"RS256": "rsa", "ES256": "p256"} {
		var fresh []string // more than a cache holds
		for range 2 * 1000 {
			fresh = append(fresh, "Bearer "+sign(b, signers()[key], map[string]any{"alg": alg}, claims(map[string]any{"jti": auth.NewToken()})))
		}
		measure(alg+", seen", true, always(strings.TrimPrefix(fresh[0], "Bearer ")))
		n := 0
		measure(alg+", not seen", true, func() string { n++; return fresh[n%len(fresh)] })
	}
}

// tokenWith is a random token with this at its beginning.
func tokenWith(prefix string) string { return prefix + auth.NewToken()[len(prefix):] }
