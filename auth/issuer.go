package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// issuer is one entry for someone whose tokens are taken: with which keys they are signed, and which rights they carry.
type issuer struct {
	name       string
	url        string // as in the claim iss
	audience   string
	keys       *source
	actions    Action
	namespaces []pattern
	claim      string         // holds the one namespace a token is for; "" when that is not wanted
	require    map[string]any // claims that a token must have, and their values
	maxTTL     time.Duration  // longest time from iat to exp; 0: any
}

// verify says whether a token is signed with one of the issuer's keys, meant for this endpoint, and in time. It returns the
// keys that it was held against, also when they refuse it.
func (i *issuer) verify(ctx context.Context, t unverified) (jwt.MapClaims, *keySet, *Error) {
	keys := i.keys.keys(ctx, nil)
	if keys == nil {
		return nil, nil, &Error{Unavailable: true, detail: "the token cannot be checked: the endpoint has not got the keys of its issuer " + i.name + " at the moment; try again in a minute, and if that does not help have its log looked at"}
	}
	claims, err := keys.verify(t, i)
	if errors.Is(err, errOtherKey) {
		if newer := i.keys.keys(ctx, keys); newer != nil {
			keys = newer
			claims, err = keys.verify(t, i)
		}
	}
	if err == nil && !time.Now().Before(t.expires) { // the library has its leeway for this too
		err = jwt.ErrTokenExpired
	}
	if err != nil {
		return nil, keys, explain(err, i, t)
	}
	return claims, keys, nil
}

// inTime says whether a verified token is for no longer than this entry takes.
func (i *issuer) inTime(claims jwt.MapClaims, t unverified) *Error {
	if i.maxTTL == 0 {
		return nil
	}
	switch issued, _ := dateOf(claims, "iat"); {
	case issued.IsZero():
		return invalid("the token of " + i.identity(t.subject) + " does not say when it was issued: it needs the claim iat")
	case t.expires.Sub(issued) > i.maxTTL:
		return invalid(fmt.Sprintf("the token of %s is valid for longer than the %s this endpoint takes: have one issued for less", i.identity(t.subject), inDays(i.maxTTL)))
	}
	return nil
}

// identity is what the log calls who a token of this issuer is for.
func (i *issuer) identity(subject string) string { return i.name + ":" + printable(subject) }

// grant adds to an identity what this entry lets a verified token do. The token's own claims can only narrow that.
func (i *issuer) grant(id *Identity, claims jwt.MapClaims) {
	g := grant{actions: i.actions, namespaces: [][]pattern{i.namespaces}}
	lacks := ""
	if name := unmet(i.require, claims); name != "" {
		lacks = "its claim " + name + " is not what the access file requires"
	}
	if i.claim != "" {
		namespace, _ := claims[i.claim].(string)
		if namespace == "" {
			lacks = "its claim " + i.claim + " names no namespace"
		}
		g.namespaces = append(g.namespaces, []pattern{{text: namespace}}) // exactly this one, were it "*"
	}
	if scope, there := claims["scope"]; there { // RFC 8693, section 4.2
		names, _ := scope.(string)
		var scoped Action
		for name := range strings.FieldsSeq(names) {
			action, _ := ParseAction(name)
			scoped |= action
		}
		if g.actions &= scoped; g.actions == 0 {
			lacks = "its claim scope names nothing that the access file allows"
		}
	}
	if namespaces, there := claims["namespaces"]; there {
		list, err := claimedPatterns(namespaces)
		if err != nil {
			lacks = "its claim namespaces is no list of namespaces"
		}
		g.namespaces = append(g.namespaces, list)
		if len(list) == 0 && lacks == "" {
			lacks = "its claim namespaces is empty"
		}
	}
	if id.Name == "" || lacks == "" && len(id.grants) == 0 {
		subject, _ := claims["sub"].(string)
		id.Name, id.Lacks = i.identity(subject), lacks
	}
	if lacks == "" {
		id.grants = append(id.grants, g)
	}
}

func claimedPatterns(value any) (patterns []pattern, err error) {
	list, ok := value.([]any)
	if !ok {
		return nil, errors.New("no list")
	}
	for _, v := range list {
		text, _ := v.(string)
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}

// unmet is the first required claim that is missing or has another value; "" when all are as they must be.
func unmet(require, claims map[string]any) string {
	for _, name := range slices.Sorted(maps.Keys(require)) {
		if value, there := claims[name]; !there || !meets(require[name], value) {
			return name
		}
	}
	return ""
}

// meets compares a claim with what the access file asks for: the same text, truth or number; one of a list; or an object in
// which the named claims are as asked.
func meets(want, have any) bool {
	switch w := want.(type) {
	case string:
		return have == w
	case bool:
		return have == w
	case int64:
		return have == json.Number(fmt.Sprint(w))
	case []any:
		return slices.ContainsFunc(w, func(one any) bool { return meets(one, have) })
	case map[string]any:
		object, ok := have.(map[string]any)
		return ok && unmet(w, object) == ""
	}
	return false
}

// printable makes a claim fit for a log line and an answer.
func printable(text string) string {
	const longest = 200
	if len(text) > longest {
		text = text[:longest] + "..."
	}
	return strings.Map(func(c rune) rune {
		if c <= ' ' || c > '~' {
			return '?'
		}
		return c
	}, text)
}
