package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

const (
	longestJWT = 16 << 10         // bytes; those of CI services have about 2 KiB
	leeway     = 30 * time.Second // by which the clock of an issuer may be ahead; exp has none
)

// unverified is a JWT as it was offered: well formed, and not one word of it proven yet.
type unverified struct {
	text    string
	header  map[string]any
	issuer  string    // the claim iss
	subject string    // the claim sub
	expires time.Time // the claim exp
}

// readJWT reads a JWT (RFC 7519, in the compact form of RFC 7515) more strictly than the library that verifies it does: what
// two readers could understand differently, or what asks to be verified by means of its own, is refused before any key is
// looked for. The error is an [*Error].
func readJWT(text string) (t unverified, err error) {
	t.text = text
	if len(text) > longestJWT {
		return t, invalid(fmt.Sprintf("the token is longer than %d bytes: use a smaller one", longestJWT))
	}
	// The decoder passes over line breaks, and the signature would still match.
	if strings.Trim(text, alphanumeric+"-_.") != "" {
		return t, errMalformed
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return t, errMalformed
	}
	if t.header, err = readObject(parts[0]); err != nil {
		return t, err
	}
	claims, err := readObject(parts[1])
	if err != nil {
		return t, err
	}
	for _, name := range []string{"jku", "jwk", "x5u", "x5c"} {
		if _, there := t.header[name]; there {
			return t, invalid("the token brings a key of its own (its header has " + name + "): only the keys in the endpoint's access file count")
		}
	}
	if _, there := t.header["crit"]; there { // RFC 7515, section 4.1.11: we understand no extension
		return t, invalid("the token's header has crit, and this endpoint knows no such extension: have the token issued without")
	}
	if kid, there := t.header["kid"]; there {
		if name, ok := kid.(string); !ok || len(name) > 256 {
			return t, invalid("the token's header has a kid that is no text of at most 256 bytes")
		}
	}
	t.subject, _ = claims["sub"].(string)
	if t.issuer, _ = claims["iss"].(string); t.issuer == "" {
		return t, invalid("the token does not say who issued it: it needs the claim iss")
	}
	for _, name := range []string{"exp", "nbf", "iat"} {
		if _, err := dateOf(claims, name); err != nil {
			return t, err
		}
	}
	if t.expires, err = dateOf(claims, "exp"); t.expires.IsZero() {
		return t, invalid("the token does not expire: it needs the claim exp")
	}
	return t, err
}

var errMalformed = invalid("the token is not a well-formed JWT: check that it was copied whole")

// readObject reads a part of a JWT that is a JSON object. Nothing in it may be there twice: which of the two would count?
func readObject(part string) (object map[string]any, err error) {
	content, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil || !utf8.Valid(content) || !json.Valid(content) { // one value, and nothing behind it
		return nil, errMalformed
	}
	if err := noneTwice(content); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	if err := decoder.Decode(&object); err != nil || object == nil {
		return nil, errMalformed
	}
	return object, nil
}

// noneTwice is an error when an object in this JSON has a name twice.
func noneTwice(content []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	type level struct {
		names map[string]bool // of an object; nil in an array
		value bool            // the next token is a value, not a name
	}
	var levels []level
	for {
		next, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errMalformed
		}
		var inside *level
		if len(levels) > 0 {
			inside = &levels[len(levels)-1]
		}
		switch next {
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
			continue
		}
		if inside != nil && inside.names != nil {
			if inside.value = !inside.value; inside.value {
				name, _ := next.(string)
				if inside.names[name] {
					return invalid("the token says something twice: a name stands two times in one object of its JSON")
				}
				inside.names[name] = true
				continue
			}
		}
		switch next {
		case json.Delim('{'):
			levels = append(levels, level{names: map[string]bool{}})
		case json.Delim('['):
			levels = append(levels, level{})
		}
	}
}

// dateOf reads a NumericDate (RFC 7519, section 2) to the second; the zero time when it is not there. The library would take
// one that does not fit into an integer for some other time.
func dateOf(claims map[string]any, name string) (time.Time, error) {
	value, there := claims[name]
	if !there {
		return time.Time{}, nil
	}
	const latest = 253402300799 // the end of the year 9999
	if number, ok := value.(json.Number); ok {
		if seconds, err := number.Float64(); err == nil && seconds >= 1 && seconds <= latest {
			return time.Unix(int64(math.Floor(seconds)), 0), nil
		}
	}
	return time.Time{}, invalid("the token's claim " + name + " is no date: it must be a number of seconds since 1970")
}

// explain turns the library's error into one for the one who asked. It speaks of claims, and says whose token it is, only
// where the signature was good.
func explain(err error, i *issuer, t unverified) *Error {
	if errors.Is(err, errKid) {
		return invalid("the token's kid is no name of letters, digits and . _ ~ + = : -, and the keys of its issuer " + i.name + " have no ids: if it is genuine, give the endpoint the issuer's JWK Set")
	}
	if !errors.Is(err, jwt.ErrTokenInvalidClaims) && !errors.Is(err, jwt.ErrTokenExpired) {
		return invalid("the token is not signed by a key of its issuer " + i.name + ": check that it was copied whole, and that the endpoint has the issuer's current keys")
	}
	detail := "claims are not as they must be: it needs iss, exp, and aud with " + i.audience
	for _, kind := range []struct {
		is     error
		detail string
	}{
		{jwt.ErrTokenExpired, "time is over, it has expired: have a new one issued"},
		{jwt.ErrTokenNotValidYet, "time has not begun, it is not valid yet (nbf): check the clocks of its issuer and of this endpoint"},
		{jwt.ErrTokenUsedBeforeIssued, "claim iat says it was issued in the future: check the clocks of its issuer and of this endpoint"},
		{jwt.ErrTokenInvalidAudience, "claim aud is not this endpoint: it must have " + i.audience},
	} {
		if errors.Is(err, kind.is) {
			detail = kind.detail
			break
		}
	}
	return invalid("the token of " + i.identity(t.subject) + " is not valid, its " + detail)
}
