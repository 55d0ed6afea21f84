package auth

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// grant lets someone do some things in some namespaces: in those that match a pattern of each list. A further list narrows.
type grant struct {
	actions    Action
	namespaces [][]pattern
}

func (g grant) covers(action Action, namespace string) bool {
	if g.actions&action == 0 || len(g.namespaces) == 0 {
		return false
	}
	for _, list := range g.namespaces {
		if !slices.ContainsFunc(list, func(p pattern) bool { return p.matches(namespace) }) {
			return false
		}
	}
	return true
}

// pattern is an exact namespace, or the beginning of some.
type pattern struct {
	text   string
	prefix bool
}

var everywhere = []pattern{{prefix: true}}

// parsePattern reads an exact name, or the beginning of names followed by a star, or a star alone. One that cannot match a
// namespace is an error.
func parsePattern(text string) (pattern, error) {
	name, star := strings.CutSuffix(text, "*")
	switch {
	case text == "":
		return pattern{}, fmt.Errorf(`a namespace is empty: give a name, the beginning of names like "team-*", or "*"`)
	case len(name) > 128 || strings.HasPrefix(name, ".") || !star && strings.HasSuffix(name, ".") ||
		strings.Trim(name, alphanumeric+"._+-~@") != "":
		return pattern{}, fmt.Errorf("%q can match no namespace: those have 1 to 128 of A-Z a-z 0-9 . _ + - ~ @ and no dot at either end; a star may stand at the end only", text)
	}
	return pattern{name, star}, nil
}

func (p pattern) matches(namespace string) bool {
	return namespace == p.text || p.prefix && strings.HasPrefix(namespace, p.text)
}

func (p pattern) String() string {
	if p.prefix {
		return p.text + "*"
	}
	return p.text
}

// May reports whether the identity may do something in a namespace.
func (id Identity) May(action Action, namespace string) bool {
	return slices.ContainsFunc(id.grants, func(g grant) bool { return g.covers(action, namespace) })
}

func digestOf(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }
