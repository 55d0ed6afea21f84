package store

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ErrInvalidKey is wrapped by every error of [ParseKey]; the text says which part broke which rule.
var ErrInvalidKey = errors.New("invalid key")

// Bounds of a key's parts, in characters (all of them ASCII).
const (
	MaxNamespace = 128
	MaxName      = 128
	MaxVersion   = 64
)

const extension = ".zip"

// Key names an artifact: <namespace>/<name>/<version>.zip. Only [ParseKey] makes one, so a Key that exists is valid and
// safe as a path of three elements below a directory, as an object name, and in a URL without escaping. The zero Key is
// none. Keys are comparable.
type Key struct{ namespace, name, version string }

// ParseKey reads a key from an escaped URL path (RFC 3986) without a leading slash. It splits first and decodes each
// part once, so an encoded slash is a character of its part, and refused there.
//
// Each part begins and ends with something else than a dot and holds only A-Z a-z 0-9 . _ + - ~ @: no separators, no
// dot segments, no names that are hidden, and nothing a shell, a log or a Content-Disposition header would trip over.
func ParseKey(escaped string) (Key, error) {
	namespace, rest, _ := strings.Cut(escaped, "/")
	name, file, found := strings.Cut(rest, "/")
	if !found || strings.Contains(file, "/") {
		return Key{}, fmt.Errorf("%w: it is not <namespace>/<name>/<version>.zip: the number of its parts is %d",
			ErrInvalidKey, strings.Count(escaped, "/")+1)
	}
	var k Key
	var err error
	if k.namespace, err = parsePart("namespace", namespace, "", MaxNamespace); err != nil {
		return Key{}, err
	}
	if k.name, err = parsePart("name", name, "", MaxName); err != nil {
		return Key{}, err
	}
	if k.version, err = parsePart("version", file, extension, MaxVersion); err != nil {
		return Key{}, err
	}
	return k, nil
}

func parsePart(what, escaped, suffix string, most int) (string, error) {
	fail := func(rule string, args ...any) (string, error) {
		return "", fmt.Errorf("%w: the %s %s", ErrInvalidKey, what, fmt.Sprintf(rule, args...))
	}
	s, err := url.PathUnescape(escaped)
	if err != nil {
		return fail("has a percent sign that is not followed by two hexadecimal digits")
	}
	s, found := strings.CutSuffix(s, suffix)
	if !found {
		return fail("is not followed by %s", suffix)
	}
	switch {
	case s == "":
		return fail("is empty")
	case len(s) > most:
		return fail("is longer than %d characters", most)
	case s[0] == '.':
		return fail("begins with a dot")
	case s[len(s)-1] == '.':
		return fail("ends with a dot")
	}
	for _, c := range s {
		if !allowed(c) {
			return fail("has the character %q; allowed are A-Z a-z 0-9 . _ + - ~ @", c)
		}
	}
	return s, nil
}

func allowed(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._+-~@", c)
}

// beginsKeys reports whether a key can begin like this.
func beginsKeys(prefix string) bool {
	for i, c := range prefix {
		afterSlash := i == 0 || prefix[i-1] == '/'
		if c != '/' && !allowed(c) || c == '.' && afterSlash || c == '/' && (afterSlash || prefix[i-1] == '.') {
			return false
		}
	}
	return strings.Count(prefix, "/") <= 2
}

// String is the key as text, <namespace>/<name>/<version>.zip; ParseKey reads it back.
func (k Key) String() string { return k.namespace + "/" + k.name + "/" + k.File() }

// Namespace is the first part.
func (k Key) Namespace() string { return k.namespace }

// Name is the second part.
func (k Key) Name() string { return k.name }

// Version is the third part, without ".zip".
func (k Key) Version() string { return k.version }

// File is the last element of the path: <version>.zip.
func (k Key) File() string { return k.version + extension }
