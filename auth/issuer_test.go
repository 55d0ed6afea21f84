package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"depot/auth"
)

// signers are keys of every kind, and weak ones, made once: RSA takes its time.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	made := map[string]crypto.Signer{}
	for name, bits := range map[string]int{"rsa": 2048, "rsa-2": 2048, "rsa-weak": 2047} {
		made[name], _ = rsa.GenerateKey(rand.Reader, bits)
	}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p256-2": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		made[name], _ = ecdsa.GenerateKey(curve, rand.Reader)
	}
	_, made["ed25519"], _ = ed25519.GenerateKey(rand.Reader)
	return made
})

func publicPEM(names ...string) string {
	text := ""
	for _, name := range names {
		der, err := x509.MarshalPKIXPublicKey(signers()[name].Public())
		if err != nil {
			panic(err)
		}
		text += string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	return text
}

// jwks is a JWK Set of some keys, each with its name as kid.
func jwks(names ...string) string {
	entries := []jwkset.JWKMarshal{}
	for _, name := range names {
		key, err := jwkset.NewJWKFromKey(signers()[name].Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: name}})
		if err != nil {
			panic(err)
		}
		entries = append(entries, key.Marshal())
	}
	text, _ := json.Marshal(map[string]any{"keys": entries})
	return string(text)
}

// claims are those of a good token, changed. A nil value takes a claim away.
func claims(changes ...map[string]any) map[string]any {
	c := map[string]any{"iss": "https://issuer.test", "aud": "depot", "sub": "job", "exp": time.Now().Add(time.Hour).Unix()}
	for _, change := range changes {
		maps.Copy(c, change)
	}
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// sign makes a token of exactly this header.
func sign(t testing.TB, key any, header, claims map[string]any) string {
	t.Helper()
	method := jwt.GetSigningMethod(header["alg"].(string))
	token, err := (&jwt.Token{Method: method, Header: header, Claims: jwt.MapClaims(claims)}).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// issuers writes an access file with files beside it.
func issuers(t testing.TB, text string, files map[string]string) auth.Config {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "access.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return auth.Config{UploadAuth: auth.Bearer, DownloadAuth: auth.BearerHeader, AccessFile: filepath.Join(dir, "access.toml")}
}

func entry(lines ...string) string {
	return "[[issuer]]\nissuer = \"https://issuer.test\"\naudience = \"depot\"\n" + strings.Join(lines, "\n") + "\n"
}

func TestIssuerErrors(t *testing.T) {
	const canary = "canary-4Lw7"
	key, allow, ns := `key_file = "rsa.pem"`, `allow = ["upload"]`, `namespaces = ["*"]`
	files := map[string]string{
		"rsa.pem": publicPEM("rsa"), "weak.pem": publicPEM("rsa-weak"), "p521.pem": publicPEM("p521"), "none.pem": "nothing\n", "cut.pem": publicPEM("rsa") + publicPEM("p256")[:80],
		"private.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte(canary)})), "other.pem": string(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: []byte(canary)})),
		"bad.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(canary)})),
		"short":   strings.Repeat("x", 31) + "\n", "enough": strings.Repeat("x", 32) + "\r\n",
		"weak.json": jwks("rsa", "rsa-weak"), "empty.json": `{"keys":[]}`, "no.json": canary, "p521.json": jwks("p521"),
		"oct.json": `{"keys":[{"kty":"oct","k":"` + canary + `","kid":"x"}]}`, "private.json": strings.Replace(jwks("p256"), `"kty"`, `"d":"`+canary+`","kty"`, 1),
	}
	for text, want := range map[string]string{
		entry(key, ns):                                                   "access.toml:1: it allows nothing",
		entry(key, allow):                                                "access.toml:1: it is for no namespace",
		entry(allow, ns):                                                 "access.toml:1: give one of jwks_url, jwks_file, key_file and secret_file",
		entry(key, `jwks_file = "x"`, allow, ns):                         "access.toml:1: give one of jwks_url",
		entry(`key_file = "`+canary+`"`, allow, ns):                      "access.toml:4: this file cannot be read: no such file",
		entry(`key_file = "weak.pem"`, allow, ns):                        "access.toml:4: an RSA key has 2047 bits",
		entry(`key_file = "p521.pem"`, allow, ns):                        "access.toml:4: a key is of a kind that is not used here",
		entry(`key_file = "none.pem"`, allow, ns):                        "access.toml:4: it holds no public key",
		entry(`key_file = "cut.pem"`, allow, ns):                         "or one that is cut short",
		entry(`key_file = "private.pem"`, allow, ns):                     "access.toml:4: it holds a private key",
		entry(`key_file = "other.pem"`, allow, ns):                       "access.toml:4: it holds a PEM block that is no public key",
		entry(`key_file = "bad.pem"`, allow, ns):                         "access.toml:4: it holds a PEM block that cannot be read",
		entry(`secret_file = "short"`, allow, ns):                        "access.toml:4: the secret has 31 bytes: use 32 or more",
		entry(`secret_file = "none"`, allow, ns):                         "access.toml:4: this file cannot be read",
		entry(`jwks_file = "weak.json"`, allow, ns):                      "access.toml:4: key 2: an RSA key has 2047 bits",
		entry(`jwks_file = "empty.json"`, allow, ns):                     "access.toml:4: it has no key for signatures by RS256",
		entry(`jwks_file = "p521.json"`, allow, ns):                      "access.toml:4: it has no key for signatures by RS256",
		entry(`jwks_file = "no.json"`, allow, ns):                        "access.toml:4: it is no JWK Set",
		entry(`jwks_file = "oct.json"`, allow, ns):                       "access.toml:4: key 1 is private or symmetric",
		entry(`jwks_file = "private.json"`, allow, ns):                   "access.toml:4: key 1 is private or symmetric",
		entry(`jwks_url = "http://keys.test/"`, allow, ns):               "access.toml:4: it must begin with https://",
		entry(`jwks_url = "https://u:`+canary+`@keys.test/"`, allow, ns): "access.toml:4: it must begin with https://",
		entry(`jwks_url = "file:///etc/passwd"`, allow, ns):              "access.toml:4: it must begin with https://",
		entry(key, allow, ns, `namespace_claim = ""`):                    "access.toml:7: it is empty",
		entry(key, allow, "namespaces = []", `namespace_claim = "x"`):    "access.toml:6: it is for no namespace",
		entry(key, allow, ns, `require = { x = "" }`):                    `access.toml:7: what "x" must be is empty`,
		entry(key, allow, ns, `require = { x = [] }`):                    `access.toml:7: what "x" must be is empty`,
		entry(key, allow, ns, `require = { x = { y = [""] } }`):          `access.toml:7: what "x" must be is empty`,
		entry(key, allow, ns, `require = { ref = "refs/tags/*" }`):       `access.toml:7: what "ref" must be ends with a star`,
		entry(key, allow, ns, `require = { x = 1.5 }`):                   `access.toml:7: what "x" must be is empty or of no use`,
		entry(key, allow, ns, `require = {}`):                            `access.toml:7: it requires nothing`,
		entry(key, allow, ns, `max_ttl = "110000d"`):                     "access.toml:7: give a time like",
		entry(key, allow, ns, `max_ttl = "213504d"`):                     "access.toml:7: give a time like",
		entry(key, allow, ns, `max_ttl = "0d"`):                          "access.toml:7: give a time like",
		entry(key, allow, ns, `max_ttl = "0s"`):                          "access.toml:7: give a time like",
		entry(key, allow, ns, `max_ttl = "soon"`):                        "access.toml:7: give a time like",
		entry(key, allow, ns, `max_ttl = 5`):                             "access.toml:7: this is not the TOML",
		entry(key, allow, ns, `jku = "`+canary+`"`):                      `access.toml:7: there is no such key as "issuer.jku"`,
		entry(key, allow, ns) + entry(key, allow, ns):                    "access.toml:7: another issuer has the name issuer.test",
		entry(key, allow, ns, `name = "a b"`):                            "access.toml:7: a name has printable ASCII",
		"[[token]]\nname = \"x\"\nsha256 = \"" + sum("x") + "\"\n" + allow + "\n" + ns + "\n" + entry(key, allow, ns, `name = "x"`): "access.toml:12: a token has the name x",
		"[[issuer]]\n" + strings.Join([]string{`audience = "depot"`, key, allow, ns}, "\n"):                                         "access.toml:1: it needs an issuer",
		"[[issuer]]\n" + strings.Join([]string{`issuer = "x"`, key, allow, ns}, "\n"):                                               "access.toml:1: it needs an audience",
		"[[issuer]]\n" + strings.Join([]string{`issuer = "x"`, `audience = ""`, key, allow, ns}, "\n"):                              "access.toml:3: it needs an audience",
	} {
		_, err := auth.New(issuers(t, text, files))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nit says\n%v\nwant %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("it repeats what may be a secret: %v", err)
		}
	}
	a, err := auth.New(issuers(t, entry(`secret_file = "enough"`, allow, ns), files))
	if err != nil {
		t.Fatal(err)
	}
	if ok, why := a.Explain(t.Context(), sign(t, []byte(strings.Repeat("x", 32)), map[string]any{"alg": "HS256"}, claims()), auth.Upload, "x"); !ok {
		t.Errorf("a secret with a line break behind it: %s", why)
	}
}

// Each signing method, with keys from each place, with a header of nothing but alg, with one key and with several.
func TestSigningMethods(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	for alg, name := range map[string]string{"RS256": "rsa", "PS256": "rsa", "ES256": "p256", "ES384": "p384", "EdDSA": "ed25519", "HS256": ""} {
		all := []string{"rsa-2", "p256-2", "rsa", "p256", "p384", "ed25519"}
		places := map[string]map[string]string{
			"key_file: one": {"keys": ""}, "key_file: several": {"keys": publicPEM(all...)},
			"jwks_file: one": {"keys": ""}, "jwks_file: several": {"keys": jwks(all...)},
		}
		var key any = signers()[name]
		if name != "" {
			places["key_file: one"]["keys"] = publicPEM(name)
			places["jwks_file: one"]["keys"] = jwks(name)
		} else {
			key = []byte(secret)
			places = map[string]map[string]string{"secret_file": {"keys": secret + "\n"}}
		}
		for place, files := range places {
			kind, _, _ := strings.Cut(place, ":")
			a, err := auth.New(issuers(t, entry(kind+` = "keys"`, `allow = ["upload"]`, `namespaces = ["*"]`), files))
			if err != nil {
				t.Fatal(err)
			}
			for _, header := range []map[string]any{{"alg": alg}, {"alg": alg, "typ": "JWT"}, {"alg": alg, "typ": "JWT", "kid": name}} {
				if ok, why := a.Explain(t.Context(), sign(t, key, header, claims()), auth.Upload, "x"); !ok {
					t.Errorf("%s, %s, %v: %s", alg, place, header, why)
				}
			}
			if name != "" {
				stranger := map[string]crypto.Signer{"rsa": otherRSA(), "p256": otherEC(elliptic.P256()), "p384": otherEC(elliptic.P384()), "ed25519": otherEd()}[name]
				if ok, why := a.Explain(t.Context(), sign(t, stranger, map[string]any{"alg": alg}, claims()), auth.Upload, "x"); ok || !strings.Contains(why, "not signed by a key of its issuer") {
					t.Errorf("%s, %s, by a stranger: %v %s", alg, place, ok, why)
				}
			}
		}
	}
}

var otherRSA = sync.OnceValue(func() crypto.Signer { k, _ := rsa.GenerateKey(rand.Reader, 2048); return k })

func otherEC(curve elliptic.Curve) crypto.Signer {
	k, _ := ecdsa.GenerateKey(curve, rand.Reader)
	return k
}

func otherEd() crypto.Signer {
	_, k, _ := ed25519.GenerateKey(rand.Reader)
	return k
}

// A key is used with the methods it is for and with no other, and keys for other purposes are not used at all.
func TestKeysAreForOneThing(t *testing.T) {
	file := func(set string) *auth.Authenticator {
		t.Helper()
		a, err := auth.New(issuers(t, entry(`jwks_file = "keys"`, `allow = ["upload"]`, `namespaces = ["*"]`), map[string]string{"keys": set}))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	with := func(field string) string { return strings.Replace(jwks("rsa"), `"kty"`, field+`,"kty"`, 1) }
	good := jwks("p256")
	both := func(set string) string { return good[:len(good)-2] + "," + strings.TrimPrefix(set, `{"keys":[`) }
	ps, rs := sign(t, signers()["rsa"], map[string]any{"alg": "PS256"}, claims()), sign(t, signers()["rsa"], map[string]any{"alg": "RS256"}, claims())
	for _, test := range []struct {
		name, set, token string
		want             bool
	}{
		{"for all", with(`"use":"sig"`), rs, true},
		{"verify", with(`"key_ops":["verify"]`), rs, true},
		{"bound to RS256", with(`"alg":"RS256"`), rs, true},
		{"bound to RS256, PS256 used", with(`"alg":"RS256"`), ps, false},
		{"bound to PS256, RS256 used", both(with(`"alg":"PS256"`)), rs, false},
		{"for encryption", both(with(`"use":"enc"`)), rs, false},
		{"for wrapping keys", both(with(`"key_ops":["wrapKey"]`)), rs, false},
		{"beside a kind that nobody knows", strings.Replace(jwks("rsa"), `[{`, `[{"kty":"new","kid":"y"},{`, 1), rs, true},
		{"beside a curve that nobody knows", strings.Replace(jwks("rsa"), `[{`, `[{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"},{`, 1), rs, true},
	} {
		if ok, why := file(test.set).Explain(t.Context(), test.token, auth.Upload, "x"); ok != test.want {
			t.Errorf("%s: %v %s", test.name, ok, why)
		}
	}
	// ES384 with a P-256 key would verify in the library.
	text, err := jwt.NewWithClaims(jwt.SigningMethodES384, jwt.MapClaims(claims())).SigningString()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha512.Sum384([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, signers()["p256"].(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 48)), s.FillBytes(make([]byte, 48))...)
	if ok, why := file(jwks("p256")).Explain(t.Context(), text+"."+base64.RawURLEncoding.EncodeToString(signature), auth.Upload, "x"); ok {
		t.Errorf("ES384 with a P-256 key: %s", why)
	}
	// A weak key that could only encrypt does not spoil the set.
	if ok, why := file(both(strings.Replace(jwks("rsa-weak"), `"kty"`, `"alg":"RSA-OAEP","kty"`, 1))).Explain(t.Context(), es256(t, "p256", nil), auth.Upload, "x"); !ok {
		t.Errorf("beside a weak key for encryption: %s", why)
	}
}

// What a token may do: the entry's rights, narrowed by the token's own claims, and never widened.
func TestRights(t *testing.T) {
	const (
		github = "https://token.actions.githubusercontent.com"
		gitlab = "https://gitlab.example.com"
		k8s    = "https://kubernetes.default.svc"
		brief  = "https://brief.test"
	)
	text := entry(`name = "main"`, `key_file = "rsa.pem"`, `allow = ["upload", "delete"]`, `namespaces = ["team-*", "shared"]`) +
		entry(`name = "more"`, `key_file = "rsa.pem"`, `allow = ["download"]`, `namespaces = ["*"]`, `require = { groups = { readers = true }, level = [3, 4] }`) + `
[[issuer]]
name = "github"
issuer = "` + github + `"
audience = "https://artifacts.example.com"
key_file = "rsa.pem"
allow = ["upload"]
namespace_claim = "repository_owner"
require = { repository_visibility = "private" }
[[issuer]]
issuer = "` + gitlab + `"
audience = "https://artifacts.example.com"
key_file = "rsa.pem"
allow = ["upload"]
namespace_claim = "namespace_path"
namespaces = ["team-*"]
[issuer.require]
ref_protected = "true"
ref_type = ["branch", "tag"]
[[issuer]]
issuer = "` + brief + `"
audience = "depot"
key_file = "rsa.pem"
allow = ["upload"]
namespaces = ["apps"]
max_ttl = "2h"
[[issuer]]
name = "k8s"
issuer = "` + k8s + `"
audience = "depot"
key_file = "rsa.pem"
allow = ["upload"]
namespaces = ["apps"]
require = { "kubernetes.io" = { namespace = "ci", serviceaccount = { name = "publisher" } } }
`
	a, err := auth.New(issuers(t, text, map[string]string{"rsa.pem": publicPEM("rsa")}))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	iat := map[string]any{"iat": now}
	type m = map[string]any
	// As GitHub and GitLab fill them: https://docs.github.com/actions/reference/openid-connect-reference, https://docs.gitlab.com/ci/secrets/id_token_authentication/
	gh := m{"iss": github, "aud": "https://artifacts.example.com", "sub": "repo:octo-org/skills:ref:refs/heads/main", "iat": now, "nbf": now - 300, "jti": "x", "ref": "refs/heads/main", "repository": "octo-org/skills",
		"repository_owner": "octo-org", "repository_owner_id": "65", "repository_visibility": "private", "run_id": "42", "actor": "octocat", "workflow": "publish", "event_name": "push", "ref_type": "branch", "runner_environment": "github-hosted"}
	gl := m{"iss": gitlab, "aud": []string{"https://artifacts.example.com"}, "sub": "project_path:team-a/skills:ref_type:branch:ref:main", "iat": now, "nbf": now - 5, "namespace_id": "72", "namespace_path": "team-a", "project_path": "team-a/skills",
		"ref": "main", "ref_type": "branch", "ref_protected": "true", "user_login": "sample", "pipeline_source": "push"}
	sa := func(namespace, name string) m {
		return m{"iss": k8s, "sub": "system:serviceaccount:" + namespace + ":" + name, "iat": now, "kubernetes.io": m{"namespace": namespace, "pod": m{"name": "x"}, "serviceaccount": m{"name": name, "uid": "y"}}}
	}
	for _, test := range []struct {
		name   string
		claims map[string]any
		may    string // action:namespace; what else is asked below must be refused
		why    string // in the refusals
	}{
		{"all of the entry", claims(iat), "upload:team-a upload:shared delete:team-a delete:shared", "main:job may not"},
		{"no iat with a bound", claims(m{"iss": brief}), "", "it needs the claim iat"},
		{"too long", claims(iat, m{"iss": brief, "exp": now + 7201}), "", "longer than the 2h0m0s"},
		{"just long enough", claims(iat, m{"iss": brief, "exp": now + 7200}), "upload:apps", ""},
		{"scope", claims(iat, m{"scope": "upload"}), "upload:team-a upload:shared", ""},
		{"scope names more", claims(iat, m{"scope": "openid upload list download"}), "upload:team-a upload:shared", ""},
		{"scope of others", claims(iat, m{"scope": "openid profile"}), "", "its claim scope names nothing"},
		{"empty scope", claims(iat, m{"scope": ""}), "", "its claim scope names nothing"},
		{"scope that is no text", claims(iat, m{"scope": []string{"upload"}}), "", "its claim scope names nothing"},
		{"namespaces", claims(iat, m{"namespaces": []string{"team-a", "other"}}), "upload:team-a delete:team-a", ""},
		{"namespaces wider than the entry", claims(iat, m{"namespaces": []string{"*"}}), "upload:team-a upload:shared delete:team-a delete:shared", ""},
		{"namespaces by pattern", claims(iat, m{"namespaces": []string{"team-*"}}), "upload:team-a delete:team-a", ""},
		{"no namespaces", claims(iat, m{"namespaces": []string{}}), "", "its claim namespaces is empty"},
		{"namespaces that are a text", claims(iat, m{"namespaces": "team-a"}), "", "its claim namespaces is no list"},
		{"namespaces that cannot be", claims(iat, m{"namespaces": []string{"team-a", ""}}), "", "its claim namespaces is no list"},
		{"two entries", claims(iat, m{"groups": m{"readers": true, "x": 1}, "level": 4}), "upload:team-a upload:shared delete:team-a delete:shared download:team-a download:shared download:octo-org download:team download:apps", ""},
		{"the second entry only", claims(m{"groups": m{"readers": true}, "level": 3, "scope": "download"}), "download:team-a download:shared download:octo-org download:team download:apps", "more:job may not"},
		{"second entry: another number", claims(iat, m{"groups": m{"readers": true}, "level": 5}), "upload:team-a upload:shared delete:team-a delete:shared", ""},
		{"second entry: a text for a number", claims(iat, m{"groups": m{"readers": true}, "level": "3"}), "upload:team-a upload:shared delete:team-a delete:shared", ""},
		{"second entry: not true", claims(iat, m{"groups": m{"readers": "true"}, "level": 3}), "upload:team-a upload:shared delete:team-a delete:shared", ""},
		{"github", claims(gh), "upload:octo-org", "github:repo:octo-org/skills:ref:refs/heads/main may not"},
		{"github, of someone else", claims(gh, m{"repository_owner": "evil"}), "", ""},
		{"github, public", claims(gh, m{"repository_visibility": "public"}), "", "its claim repository_visibility is not what"},
		{"github, no owner", claims(gh, m{"repository_owner": nil}), "", "its claim repository_owner names no namespace"},
		{"github, empty owner", claims(gh, m{"repository_owner": ""}), "", "its claim repository_owner names no namespace"},
		{"github, owner is a star", claims(gh, m{"repository_owner": "*"}), "", ""},
		{"github, owner is a pattern", claims(gh, m{"repository_owner": "octo*"}), "", ""},
		{"github, owner is a list", claims(gh, m{"repository_owner": []string{"octo-org"}}), "", "its claim repository_owner names no namespace"},
		{"gitlab", claims(gl), "upload:team-a", "gitlab.example.com:project_path:team-a/skills:ref_type:branch:ref:main may not"},
		{"gitlab, a tag", claims(gl, m{"ref_type": "tag"}), "upload:team-a", ""},
		{"gitlab, unprotected", claims(gl, m{"ref_protected": "false"}), "", "its claim ref_protected is not what"},
		{"gitlab, a group that is not listed", claims(gl, m{"namespace_path": "shared"}), "", ""},
		{"gitlab, a subgroup", claims(gl, m{"namespace_path": "team-a/sub"}), "", ""},
		{"kubernetes", claims(sa("ci", "publisher")), "upload:apps", ""},
		{"kubernetes, another account", claims(sa("ci", "default")), "", "its claim kubernetes.io is not what"},
		{"kubernetes, another namespace", claims(sa("dev", "publisher")), "", ""},
		{"no sub", claims(iat, m{"sub": nil}), "upload:team-a upload:shared delete:team-a delete:shared", "main: may not"},
		{"a sub for the log", claims(iat, m{"sub": "a\nb\x1b[31m" + strings.Repeat("x", 500)}), "upload:team-a upload:shared delete:team-a delete:shared", "main:a?b?[31mxxx"},
	} {
		token := sign(t, signers()["rsa"], m{"alg": "RS256"}, test.claims)
		for range 2 { // the second time it is remembered
			for _, action := range []auth.Action{auth.Upload, auth.Delete, auth.Download, auth.List} {
				for _, namespace := range []string{"team-a", "shared", "octo-org", "team", "apps"} {
					asked := fmt.Sprintf("%v:%s", action, namespace)
					want := strings.Contains(" "+test.may+" ", " "+asked+" ")
					got, why := a.Explain(t.Context(), token, action, namespace)
					if got != want || !got && !strings.Contains(why, test.why) || strings.Contains(why, token) {
						t.Errorf("%s: %s: %v (%s), want %v, %q", test.name, asked, got, why, want, test.why)
					}
				}
			}
		}
	}
	const want = `NAME                       MAY              IN                                     UNTIL                     IF
main:<sub>                 upload, delete   team-*, shared                         its exp                   iss = https://issuer.test, aud = depot
more:<sub>                 download         *                                      its exp                   iss = https://issuer.test, aud = depot, groups = {"readers":true}, level = [3,4]
github:<sub>               upload           the one in repository_owner            its exp                   iss = https://token.actions.githubusercontent.com, aud = https://artifacts.example.com, repository_visibility = "private"
gitlab.example.com:<sub>   upload           the one in namespace_path, of team-*   its exp                   iss = https://gitlab.example.com, aud = https://artifacts.example.com, ref_protected = "true", ref_type = ["branch","tag"]
brief.test:<sub>           upload           apps                                   its exp, 2h0m0s at most   iss = https://brief.test, aud = depot
k8s:<sub>                  upload           apps                                   its exp                   iss = https://kubernetes.default.svc, aud = depot, kubernetes.io = {"namespace":"ci","serviceaccount":{"name":"publisher"}}
`
	if got := a.Table(); got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}
