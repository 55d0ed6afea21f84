package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// NewToken makes a random token: 32 bytes, base64url without padding, so it fits into a header and a URL as it is.
func NewToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, says crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Maker makes a kind of credential: flags are what it can be told, by the name of each; Make returns what is to be printed, and
// what belongs beside it.
type Maker struct {
	Flags map[string]*string
	Make  func() (text, beside string, err error)
}

// Makers are all kinds, by name.
func Makers() map[string]Maker {
	entry, keys, claims := NewTokenEntry(), NewKeyPair(), NewClaims()
	return map[string]Maker{
		"new":    {map[string]*string{"name": &entry.Name, "allow": &entry.Allow, "namespace": &entry.Namespace}, entry.Write},
		"keygen": {map[string]*string{"alg": &keys.Alg, "out": &keys.Out}, func() (string, string, error) { text, err := keys.Write(); return text, "", err }},
		"jwt": {map[string]*string{"key": &claims.Key, "name": &claims.Name, "allow": &claims.Allow, "namespace": &claims.Namespace, "ttl": &claims.TTL,
			"issuer": &claims.Issuer, "audience": &claims.Audience}, func() (string, string, error) { text, err := claims.Sign(); return text, "", err }},
	}
}

// TokenEntry is the entry of a random token for an access file, as people want it.
type TokenEntry struct {
	Name      string
	Allow     string // actions, with commas between them
	Namespace string // patterns, with commas between them
}

// NewTokenEntry is what is made where nothing else is asked for.
func NewTokenEntry() *TokenEntry { return &TokenEntry{Name: "NAME", Allow: "upload", Namespace: "*"} }

// Write makes a token and returns it with its entry, which holds its digest only.
func (e *TokenEntry) Write() (token, entry string, err error) {
	if e.Name == "" || !printableASCII(e.Name) {
		return "", "", errors.New("--name: use printable ASCII without spaces: the log knows the token by that")
	}
	allow, allowErr := listOf("--allow", e.Allow, func(text string) error { _, err := ParseAction(text); return err })
	namespaces, namespacesErr := listOf("--namespace", e.Namespace, func(text string) error { _, err := parsePattern(text); return err })
	if err := errors.Join(allowErr, namespacesErr); err != nil {
		return "", "", err
	}
	token = NewToken()
	return token, fmt.Sprintf("\n# The token's entry for an access file; where it goes into DEPOT_UPLOAD_TOKEN or DEPOT_DOWNLOAD_TOKEN none is needed.\n[[token]]\nname = %q\nsha256 = \"%x\"\nallow = [\"%s\"]\nnamespaces = [\"%s\"]",
		e.Name, digestOf(token), strings.Join(allow, `", "`), strings.Join(namespaces, `", "`)), nil
}

// listOf reads a list with commas, each of which has to pass.
func listOf(flag, text string, check func(string) error) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	list := strings.Split(text, ",")
	for _, one := range list {
		if err := check(one); err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
	}
	return list, nil
}

// KeyPair is a pair of keys to be made, for signing JWTs.
type KeyPair struct {
	Alg string // RS256 (with 3072 bits), ES256 or EdDSA
	Out string // where it goes: Out.pem, PKCS #8, for its owner only, and Out.pub.pem, PKIX
}

// NewKeyPair is what is made where nothing else is asked for.
func NewKeyPair() *KeyPair { return &KeyPair{Alg: "ES256", Out: "depot-signing"} }

// Write makes the keys, in two new files, and returns the entry for an access file that takes tokens signed with them.
func (k *KeyPair) Write() (entry string, err error) {
	var signer crypto.Signer
	switch k.Alg {
	case "RS256":
		signer, err = rsa.GenerateKey(rand.Reader, 3072)
	case "ES256":
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		return "", errors.New("--alg: choose RS256, ES256 or EdDSA")
	}
	if err != nil {
		return "", err
	}
	private, privateErr := x509.MarshalPKCS8PrivateKey(signer)
	public, publicErr := x509.MarshalPKIXPublicKey(signer.Public())
	if err := errors.Join(privateErr, publicErr, writeNew(k.Out+".pem", 0o600, "PRIVATE KEY", private)); err != nil {
		return "", err
	}
	if err := writeNew(k.Out+".pub.pem", 0o644, "PUBLIC KEY", public); err != nil {
		return "", errors.Join(err, os.Remove(k.Out+".pem")) // the one without the other is of no use
	}
	return fmt.Sprintf("\n[[issuer]]                # for tokens made with: depot token jwt --key %s.pem --name NAME\nname = %q\nissuer = %q\naudience = %q\n"+
		"key_file = %q           # keep a copy of this file beside the access file\nallow = [\"upload\", \"delete\"]\nnamespaces = [\"*\"]\nmax_ttl = %q",
		k.Out, filepath.Base(k.Out), defaultIssuer, defaultIssuer, filepath.Base(k.Out)+".pub.pem", defaultTTL), nil
}

// writeNew writes a PEM file that was not there before.
func writeNew(path string, mode os.FileMode, kind string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%w, and keys are not replaced: choose another name, or move that file away", err)
		}
		return fmt.Errorf("--out: %w", err)
	}
	if err = errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: content}), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

const (
	defaultIssuer = "depot" // and audience
	defaultTTL    = "90d"
)

// Claims are what a service token is to say, and what it is signed with, as people give it.
type Claims struct {
	Key              string // PEM file with the private key: PKCS #8, or the older forms for RSA and EC
	Issuer, Audience string // as in the access file
	Name             string // who it is for; the log's identity ends with it
	Allow            string // actions, with commas between them, that it is narrowed to; "": all that the issuer's entry allows
	Namespace        string // the same for namespaces
	TTL              string // from now until it expires, as for [ParseTTL]
}

// NewClaims are those where nothing else is asked for.
func NewClaims() *Claims {
	return &Claims{Issuer: defaultIssuer, Audience: defaultIssuer, TTL: defaultTTL}
}

// Sign makes a service token: a JWT.
func (c *Claims) Sign() (string, error) {
	ttl, err := ParseTTL(c.TTL)
	if err != nil {
		return "", errors.New("--ttl: give a time like 15m, 12h or 90d")
	}
	if c.Name == "" || !printableASCII(c.Name) {
		return "", errors.New("--name: say who the token is for, in printable ASCII without spaces")
	}
	now := time.Now()
	claims := jwt.MapClaims{"iss": c.Issuer, "aud": c.Audience, "sub": c.Name, "iat": now.Unix(), "exp": now.Add(ttl).Unix(), "jti": NewToken()}
	allow, allowErr := listOf("--allow", c.Allow, func(text string) error { _, err := ParseAction(text); return err })
	namespaces, namespacesErr := listOf("--namespace", c.Namespace, func(text string) error { _, err := parsePattern(text); return err })
	if err := errors.Join(allowErr, namespacesErr); err != nil {
		return "", err
	}
	if allow != nil {
		claims["scope"] = strings.Join(allow, " ")
	}
	if namespaces != nil {
		claims["namespaces"] = namespaces
	}
	privateKey, err := os.ReadFile(c.Key)
	if err != nil {
		return "", errors.New("--key: name a readable file with the private key (depot token keygen makes one)")
	}
	block, rest := pem.Decode(privateKey)
	for block != nil && !strings.Contains(block.Type, "PRIVATE KEY") { // EC PARAMETERS, say
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return "", errors.New("--key: the file holds no private key in PEM (depot token keygen makes one)")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	if err != nil {
		key, err = x509.ParseECPrivateKey(block.Bytes)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return "", errors.New("--key: the file holds no private key that can be read: an unencrypted one in PEM, as depot token keygen makes it")
	}
	methods, err := methodsOf(signer.Public())
	if err != nil {
		return "", fmt.Errorf("--key: %w", err)
	}
	if len(methods) == 0 {
		return "", errors.New("--key: use an RSA, P-256, P-384 or Ed25519 key")
	}
	return jwt.NewWithClaims(jwt.GetSigningMethod(methods[0]), claims).SignedString(signer)
}
