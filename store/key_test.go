package store_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"depot/store"
)

func TestParseKey(t *testing.T) {
	long := strings.Repeat("n", 128)
	for escaped, want := range map[string]string{
		"ns/name/1.0.0.zip":                          "ns/name/1.0.0.zip",
		"ns/name/1.0.0+build.5.zip":                  "ns/name/1.0.0+build.5.zip",
		"ns/name/1.0.0%2Bbuild.5.zip":                "ns/name/1.0.0+build.5.zip",
		"ns/name/1.0.0%2bbuild%2E5.zip":              "ns/name/1.0.0+build.5.zip",
		"%6E%73/name/1.zip":                          "ns/name/1.zip",
		"ns/name/1.zi%70":                            "ns/name/1.zip",
		"@scope/a~b_c-d/1.zip":                       "@scope/a~b_c-d/1.zip",
		"upload/upload/upload.zip":                   "upload/upload/upload.zip",
		"a/b/c.zip.zip":                              "a/b/c.zip.zip",
		"-/-/-.zip":                                  "-/-/-.zip",
		long + "/" + long + "/" + long[:64] + ".zip": long + "/" + long + "/" + long[:64] + ".zip",
	} {
		k, err := store.ParseKey(escaped)
		if err != nil || k.String() != want || k.Namespace()+"/"+k.Name()+"/"+k.Version()+".zip" != want {
			t.Errorf("ParseKey(%q) = %q, %v; want %q", escaped, k, err, want)
		}
	}
	for escaped, rule := range map[string]string{
		"":                              "parts is 1",
		"ns":                            "parts is 1",
		"ns/name":                       "parts is 2",
		"ns/name/v/1.zip":               "parts is 4",
		"/ns/name/1.zip":                "parts is 4",
		"ns/name/1.zip/":                "parts is 4",
		"ns//1.zip":                     "name is empty",
		"/name/1.zip":                   "namespace is empty",
		"ns/name/.zip":                  "version is empty",
		"ns/name/":                      "not followed by .zip",
		"ns/name/1.ZIP":                 "not followed by .zip",
		"ns/name/1.zip.tar":             "not followed by .zip",
		"ns/name/zip":                   "not followed by .zip",
		"../name/1.zip":                 "namespace begins with a dot",
		"%2e%2e/name/1.zip":             "namespace begins with a dot",
		"./name/1.zip":                  "namespace begins with a dot",
		".depot/staging/1.zip":          "namespace begins with a dot",
		"ns/../1.zip":                   "name begins with a dot",
		"ns/name/..zip":                 "version begins with a dot",
		"ns/name/...zip":                "version begins with a dot",
		"ns./name/1.zip":                "namespace ends with a dot",
		"ns/name/1..zip":                "version ends with a dot",
		"n%2Fs/name/1.zip":              `'/'`,
		"ns/name/a%2f..%2f1.zip":        `'/'`,
		"n%5Cs/name/1.zip":              `'\\'`,
		"n%252Fs/name/1.zip":            `'%'`,
		"n%00s/name/1.zip":              `'\x00'`,
		"n%0As/name/1.zip":              `'\n'`,
		"n s/name/1.zip":                `' '`,
		"n%22s/name/1.zip":              `'"'`,
		"n:s/name/1.zip":                `':'`,
		"n;s/name/1.zip":                `';'`,
		"n%C3%A9/name/1.zip":            `'é'`,
		"n%FF/name/1.zip":               "allowed are",
		"n%/name/1.zip":                 "percent sign",
		"n%zz/name/1.zip":               "percent sign",
		"ns/name/1.zip%":                "percent sign",
		long + "n/name/1.zip":           "namespace is longer than 128",
		"ns/" + long + "n/1.zip":        "name is longer than 128",
		"ns/name/" + long[:65] + ".zip": "version is longer than 64",
	} {
		k, err := store.ParseKey(escaped)
		if !errors.Is(err, store.ErrInvalidKey) || !strings.Contains(err.Error(), rule) || k != (store.Key{}) {
			t.Errorf("ParseKey(%q) = %q, %v; want an error about %q", escaped, k, err, rule)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{"ns/name/1.0.0.zip", "ns/name/1.0.0%2Bb.zip", "../../etc/passwd.zip", "%2e%2e/%2e%2e/x.zip", "a/b/..zip", "a%2fb/c/d.zip", "@a/~b/+c.zip", "a/b/c.zip\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, escaped string) {
		k, err := store.ParseKey(escaped)
		if err != nil {
			if !errors.Is(err, store.ErrInvalidKey) || k != (store.Key{}) {
				t.Fatalf("%q: %v, %v", escaped, k, err)
			}
			return
		}
		again, err := store.ParseKey(k.String())
		if err != nil || again != k {
			t.Fatalf("%q prints as %q, which parses as %q, %v", escaped, k, again, err)
		}
		if u := (&url.URL{Path: "/" + k.String()}); u.EscapedPath() != "/"+k.String() {
			t.Fatalf("%q needs escaping in a URL: %q", k, u.EscapedPath())
		}
		for _, part := range []string{k.Namespace(), k.Name(), k.Version(), k.File()} {
			if part == "" || part[0] == '.' || strings.ContainsAny(part, "/\\\x00") || len(part) > 132 {
				t.Fatalf("%q has the part %q", escaped, part)
			}
		}
	})
}
