package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// keySet is the keys of an issuer, under each signing method that they are good for: no key is ever tried with another.
type keySet struct {
	byMethod map[string]jwt.Keyfunc
	until    time.Time   // it is too old from then on; zero: it does not age
	retired  atomic.Bool // a newer one has taken its place
}

func (k *keySet) inForce(now time.Time) bool {
	return k != nil && !k.retired.Load() && (k.until.IsZero() || now.Before(k.until))
}

// publicMethods are the signing methods that keys in public can be for.
var publicMethods = []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"}

// methodsOf are the signing methods (RFC 7518, section 3.1; RFC 8037) that a public or symmetric key may be used with; none
// for a kind of key that depot has no use for. A key that is too weak is an error.
func methodsOf(key any) ([]string, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 { // a larger one costs seconds, of whoever is asked to verify with it
			return nil, fmt.Errorf("an RSA key has %d bits: use 2048 to 8192", bits)
		}
		return []string{"RS256", "PS256"}, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []string{"ES256"}, nil
		case elliptic.P384():
			return []string{"ES384"}, nil
		}
	case ed25519.PublicKey:
		return []string{"EdDSA"}, nil
	case []byte:
		if len(k) < 32 {
			return nil, fmt.Errorf("the secret has %d bytes: use 32 or more (depot token makes one)", len(k))
		}
		return []string{"HS256"}, nil
	}
	return nil, nil
}

// namelessKeys is a set of keys without ids: whatever kid a token names, they are all tried. It is looked up nowhere, so all
// it has to be is a name: anything else is a mistake or an attack.
func namelessKeys(keys ...any) (*keySet, error) {
	byMethod := map[string][]jwt.VerificationKey{}
	for _, key := range keys {
		methods, err := methodsOf(key)
		if err != nil {
			return nil, err
		}
		if methods == nil {
			return nil, errors.New("a key is of a kind that is not used here: use RSA, P-256, P-384 or Ed25519")
		}
		for _, m := range methods {
			byMethod[m] = append(byMethod[m], key)
		}
	}
	set := &keySet{byMethod: map[string]jwt.Keyfunc{}}
	for method, keys := range byMethod {
		set.byMethod[method] = func(t *jwt.Token) (any, error) {
			if kid, _ := t.Header["kid"].(string); strings.Trim(kid, alphanumeric+"._~+=:-") != "" {
				return nil, errKid
			}
			return jwt.VerificationKeySet{Keys: keys}, nil
		}
	}
	return set, nil
}

var errKid = errors.New("kid is no name")

// readPEM reads public keys, in blocks of PKIX or PKCS #1, or certificates (whose dates and names mean nothing here).
func readPEM(content []byte) (*keySet, error) {
	var keys []any
	announced := bytes.Count(content, []byte("-----BEGIN "))
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			break
		}
		var key any
		var err error
		switch block.Type {
		case "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			key, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var certificate *x509.Certificate
			if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
				key = certificate.PublicKey
			}
		default:
			if strings.Contains(block.Type, "PRIVATE") {
				return nil, errors.New("it holds a private key, which belongs to who signs: name a file with the public key")
			}
			return nil, errors.New("it holds a PEM block that is no public key")
		}
		if err != nil {
			return nil, errors.New("it holds a PEM block that cannot be read as a public key")
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 || len(keys) != announced {
		return nil, errors.New("it holds no public key in PEM, or one that is cut short")
	}
	return namelessKeys(keys...)
}

// mostKeys is how many keys a JWK Set may have: a token without a kid is tried with each.
const mostKeys = 50

// readJWKS reads a JWK Set (RFC 7517). Keys for other purposes and of kinds that depot does not know are passed over, as
// section 5 has it; but a set with a weak key, or with one that no public set has, is refused as a whole.
func readJWKS(content []byte) (*keySet, error) {
	var jwks jwkset.JWKSMarshal
	if err := json.Unmarshal(content, &jwks); err != nil {
		return nil, errors.New("it is no JWK Set: a JSON object with a list of keys")
	}
	if len(jwks.Keys) > mostKeys {
		return nil, fmt.Errorf("it has more than %d keys", mostKeys)
	}
	byMethod := map[string]*jwkset.MemoryJWKSet{}
	for n, entry := range jwks.Keys {
		if entry.KTY == jwkset.KtyOct || entry.D != "" || entry.K != "" {
			return nil, fmt.Errorf("key %d is private or symmetric: what a JWK Set publishes must be public keys", n+1)
		}
		if entry.USE == jwkset.UseEnc || len(entry.KEYOPS) > 0 && !slices.Contains(entry.KEYOPS, jwkset.KeyOpsVerify) {
			continue
		}
		if alg := entry.ALG.String(); alg != "" && !slices.Contains(publicMethods, alg) {
			continue
		}
		key, err := jwkset.NewJWKFromMarshal(entry, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{SkipUse: true, SkipKeyOps: true})
		if errors.Is(err, jwkset.ErrUnsupportedKey) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("key %d cannot be read", n+1)
		}
		methods, err := methodsOf(key.Key())
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", n+1, err)
		}
		for _, m := range methods {
			if alg := entry.ALG.String(); alg != "" && alg != m {
				continue
			}
			if byMethod[m] == nil {
				byMethod[m] = jwkset.NewMemoryStorage()
			}
			_ = byMethod[m].KeyWrite(context.Background(), key) // in memory: it does not fail
		}
	}
	if len(byMethod) == 0 {
		return nil, errors.New("it has no key for signatures by " + strings.Join(publicMethods, ", "))
	}
	set := &keySet{byMethod: map[string]jwt.Keyfunc{}}
	for method, storage := range byMethod {
		keys, err := keyfunc.New(keyfunc.Options{Storage: storage})
		if err != nil {
			return nil, err
		}
		set.byMethod[method] = keys.Keyfunc
	}
	return set, nil
}

// errOtherKey is a token that may be signed by a key which the set does not have.
var errOtherKey = errors.New("no such key")

// verify checks a token's signature and the claims that every token has, and returns all its claims.
func (k *keySet) verify(t unverified, i *issuer) (jwt.MapClaims, error) {
	parser := jwt.NewParser(jwt.WithValidMethods(slices.Collect(maps.Keys(k.byMethod))), jwt.WithIssuer(i.url), jwt.WithAudience(i.audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(leeway), jwt.WithStrictDecoding(), jwt.WithJSONNumber())
	claims := jwt.MapClaims{}
	_, err := parser.ParseWithClaims(t.text, claims, func(token *jwt.Token) (any, error) { return k.byMethod[token.Method.Alg()](token) })
	if err == nil {
		return claims, nil
	}
	_, named := t.header["kid"]
	method, _ := t.header["alg"].(string)
	newKind := k.byMethod[method] == nil && slices.Contains(publicMethods, method)
	if errors.Is(err, jwkset.ErrKeyNotFound) || errors.Is(err, jwt.ErrTokenSignatureInvalid) && (!named || newKind) {
		return nil, fmt.Errorf("%w: %w", errOtherKey, err)
	}
	return nil, err
}
