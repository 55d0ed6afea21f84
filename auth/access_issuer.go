package auth

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// issuerEntry is one [[issuer]]:
//
//	name = "github"                 # for the log; optional: else the issuer without https://
//	issuer = "https://…"            # the claim iss
//	audience = "https://…"          # must be in the claim aud
//	jwks_url = "https://…"          # or jwks_file, or key_file (PEM), or secret_file (HS256, 32 bytes or more)
//	allow = ["upload"]
//	namespaces = ["team-*"]         # optional beside namespace_claim
//	namespace_claim = "owner"       # the one namespace is this claim's value, and has to be among namespaces
//	require = { visibility = "private" }
//	max_ttl = "1h"                  # longest time from iat to exp; optional
type issuerEntry struct {
	Name           string         `toml:"name"`
	Issuer         string         `toml:"issuer"`
	Audience       string         `toml:"audience"`
	JWKSURL        string         `toml:"jwks_url"`
	JWKSFile       string         `toml:"jwks_file"`
	KeyFile        string         `toml:"key_file"`
	SecretFile     string         `toml:"secret_file"`
	Allow          []string       `toml:"allow"`
	Namespaces     []string       `toml:"namespaces"`
	NamespaceClaim *string        `toml:"namespace_claim"`
	Require        map[string]any `toml:"require"`
	MaxTTL         *string        `toml:"max_ttl"`
}

func (r *reader) issuer(entry issuerEntry, tokens []token, before []*issuer) *issuer {
	i := &issuer{name: entry.Name, url: entry.Issuer, audience: entry.Audience, require: entry.Require}
	if i.name == "" {
		i.name = strings.TrimPrefix(entry.Issuer, "https://")
	}
	if entry.Issuer == "" {
		r.fail("issuer", "it needs an issuer: what its tokens have as claim iss")
	} else if !printableASCII(i.name) {
		r.fail("name", "a name has printable ASCII without spaces: the log knows it by that")
	}
	if reserved.MatchString(i.name) {
		r.fail("name", "the name %s is taken by a token from the settings", i.name)
	}
	if entry.Audience == "" {
		r.fail("audience", "it needs an audience: tokens that were issued for others must not count here")
	}
	for _, b := range before {
		if b.name == i.name {
			r.fail("name", "another issuer has the name %s: give this entry a name of its own", i.name)
		}
	}
	for _, t := range tokens {
		if t.identity.Name == i.name {
			r.fail("name", "a token has the name %s: give this entry another", i.name)
		}
	}
	i.keys = r.keys(entry)
	i.actions = r.actions(entry.Allow)
	if entry.NamespaceClaim != nil {
		if i.claim = *entry.NamespaceClaim; i.claim == "" {
			r.fail("namespace_claim", "it is empty: name the claim that holds the namespace, or leave this out")
		}
	}
	if i.namespaces = everywhere; entry.NamespaceClaim == nil || entry.Namespaces != nil {
		i.namespaces = r.patterns(entry.Namespaces)
	}
	if entry.Require != nil && len(entry.Require) == 0 {
		r.fail("require", "it requires nothing: name claims and their values, or leave it out")
	}
	for _, name := range slices.Sorted(maps.Keys(entry.Require)) {
		want := entry.Require[name]
		if text, _ := want.(string); strings.HasSuffix(text, "*") {
			r.fail("require", "what %q must be ends with a star, and there are no patterns here: list the values, or require another claim", name)
		}
		if !usable(want) {
			r.fail("require", "what %q must be is empty or of no use: give a text, a number, true or false, a list of those, or a table", name)
		}
	}
	if entry.MaxTTL != nil {
		var err error
		if i.maxTTL, err = ParseTTL(*entry.MaxTTL); err != nil {
			r.fail("max_ttl", `give a time like "15m", "12h" or "90d"`)
		}
	}
	return i
}

// usable reports whether a claim can be compared with this: an empty text or list would let through what nobody meant.
func usable(want any) bool {
	switch w := want.(type) {
	case string:
		return w != ""
	case bool, int64:
		return true
	case []any:
		for _, one := range w {
			if !usable(one) {
				return false
			}
		}
		return len(w) > 0
	case map[string]any:
		for _, one := range w {
			if !usable(one) {
				return false
			}
		}
		return len(w) > 0
	}
	return false
}

// keys reads where an issuer's keys are.
func (r *reader) keys(entry issuerEntry) *source {
	given := 0
	for _, where := range []string{entry.JWKSURL, entry.JWKSFile, entry.KeyFile, entry.SecretFile} {
		if where != "" {
			given++
		}
	}
	if given != 1 {
		r.fail("jwks_url", "give one of jwks_url, jwks_file, key_file and secret_file, and not empty: the keys its tokens are signed with")
		return nil
	}
	if entry.JWKSURL != "" {
		u, err := url.Parse(entry.JWKSURL)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
			r.fail("jwks_url", "it must begin with https:// and a host (http:// only to this machine): whoever can change the answer can sign tokens")
			return nil
		}
		return r.sourceOf(entry.JWKSURL)
	}
	key, path, read := "jwks_file", entry.JWKSFile, readJWKS
	if entry.KeyFile != "" {
		key, path, read = "key_file", entry.KeyFile, readPEM
	}
	if entry.SecretFile != "" {
		key, path, read = "secret_file", entry.SecretFile, readHMAC
	}
	content, err := r.readFile(path)
	if err != nil {
		r.fail(key, "%s", r.unreadable(err))
		return nil
	}
	set, err := read(content)
	if err != nil {
		r.fail(key, "%v", err)
	}
	return fixed(set)
}

// readHMAC reads a secret: the bytes of the file, less the line break that an editor put at its end.
func readHMAC(content []byte) (*keySet, error) {
	return namelessKeys([]byte(strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")))
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ParseTTL reads a time of more than nothing: what [time.ParseDuration] reads, or a number of days like 90d.
func ParseTTL(text string) (ttl time.Duration, err error) {
	if digits, found := strings.CutSuffix(text, "d"); found {
		days, err := strconv.ParseUint(digits, 10, 15)
		ttl = time.Duration(days) * 24 * time.Hour
		if err == nil && ttl == 0 {
			err = errors.New("nothing")
		}
		return ttl, err
	}
	if ttl, err = time.ParseDuration(text); err == nil && (ttl <= 0 || ttl > 1<<15*24*time.Hour) {
		err = errors.New("nothing, or more than ninety years")
	}
	return ttl, err
}

// inDays writes a time the way that ParseTTL reads it.
func inDays(ttl time.Duration) string {
	if ttl%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", ttl/(24*time.Hour))
	}
	return ttl.String()
}
