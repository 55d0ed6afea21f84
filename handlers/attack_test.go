package handlers_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"depot/auth"
)

// authority is someone who issues tokens, with an RSA and an EC key.
type authority struct {
	issuer string
	rsa    *rsa.PrivateKey
	ec     *ecdsa.PrivateKey
	kid    string // of both keys, with -rsa and -ec behind it
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	a := authority{issuer: "https://" + name + ".test", kid: name}
	var err error
	if a.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if a.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a authority) jwks(t *testing.T) string {
	t.Helper()
	var keys []jwkset.JWKMarshal
	for kind, key := range map[string]any{"-rsa": a.rsa.Public(), "-ec": a.ec.Public()} {
		jwk, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: a.kid + kind}})
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, jwk.Marshal())
	}
	text, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (a authority) pem(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(a.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// raw puts a token together from its texts, as only an attacker has to.
func raw(t *testing.T, key crypto.Signer, header, claims string) string {
	t.Helper()
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(header)) + "." + encode([]byte(claims))
	method := jwt.SigningMethod(jwt.SigningMethodRS256)
	if _, ec := key.(*ecdsa.PrivateKey); ec {
		method = jwt.SigningMethodES256
	}
	signature, err := method.Sign(text, key)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(signature)
}

func hs256(text string, key []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Attacks with tokens, by someone who has read the source, has valid tokens of others, and can have an issuer sign what they
// like where that says so. Each has its exact answer, and no request ever leaves for a place that a token names.
func TestTokenAttacks(t *testing.T) {
	a, b := newAuthority(t, "a"), newAuthority(t, "b")
	var fetches, strays atomic.Int32
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a":
			fetches.Add(1)
			_, _ = io.WriteString(w, a.jwks(t))
		case "/b":
			_, _ = io.WriteString(w, b.jwks(t))
		default:
			strays.Add(1)
			_, _ = io.WriteString(w, b.jwks(t))
		}
	}))
	defer keys.Close()

	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()

	dir := t.TempDir()
	const secret = "a secret of HS256 with 32 bytes!"
	entry := func(name, issuer, keys, allow string) string {
		return fmt.Sprintf("[[issuer]]\nname = %q\nissuer = %q\naudience = \"depot\"\n%s\nallow = [%s]\nnamespaces = [\"ns\", \"team-*\"]\n", name, issuer, keys, allow)
	}
	for name, content := range map[string]string{
		"access.toml": entry("a", a.issuer, `jwks_url = "`+keys.URL+`/a"`, `"upload", "download"`) + entry("b", b.issuer, `jwks_url = "`+keys.URL+`/b"`, `"upload"`) +
			entry("pem", "https://pem.test", `key_file = "a.pem"`, `"upload"`) + entry("hmac", "https://hmac.test", `secret_file = "secret"`, `"upload"`) + entry("gone", "https://gone.test", `jwks_url = "`+gone.URL+`"`, `"upload"`) +
			"[[token]]\nname = \"reader\"\nsha256 = \"" + fmt.Sprintf("%x", sha256.Sum256([]byte("reads"))) + "\"\nallow = [\"download\"]\nnamespaces = [\"*\"]\n" +
			"[[token]]\nname = \"writer\"\nsha256 = \"" + fmt.Sprintf("%x", sha256.Sum256([]byte("writes"))) + "\"\nallow = [\"upload\"]\nnamespaces = [\"*\"]\n",
		"a.pem": string(a.pem(t)), "secret": secret + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, func(o *options) {
		o.auth = auth.Config{UploadAuth: auth.Bearer, DownloadAuth: auth.QueryParam, DownloadParam: "token", AccessFile: filepath.Join(dir, "access.toml")}
	})

	exp := time.Now().Add(time.Hour).Unix()
	good := func(issuer string) string {
		return fmt.Sprintf(`{"iss":%q,"aud":"depot","sub":"x","exp":%d}`, issuer, exp)
	}
	with := func(field string) string { return strings.Replace(good(a.issuer), `{`, `{`+field+`,`, 1) }
	without := func(issuer, aud, exp string) string { return "{" + strings.Trim(issuer+","+aud+","+exp, ",") + "}" }
	iss, aud, expires := `"iss":"`+a.issuer+`"`, `"aud":"depot"`, fmt.Sprintf(`"exp":%d`, exp)
	const rs = `{"alg":"RS256","kid":"a-rsa"}`
	valid := raw(t, a.rsa, rs, good(a.issuer))
	parts := strings.Split(valid, ".")
	encode := base64.RawURLEncoding.EncodeToString
	header := func(text string) string { return raw(t, a.rsa, text, good(a.issuer)) }
	claims := func(text string) string { return raw(t, a.rsa, rs, text) }
	pkix, err := x509.MarshalPKIXPublicKey(a.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	confused := func(issuer string, key []byte) string {
		return hs256(encode([]byte(`{"alg":"HS256"}`))+"."+encode([]byte(good(issuer))), key)
	}
	last := valid[len(valid)-1]
	tail := func(c byte) string { return valid[:len(valid)-1] + string(c) }

	type attack struct {
		name, token string
		status      int
	}
	attacks := []attack{
		{"valid, RS256", valid, 201},
		{"valid, ES256", raw(t, a.ec, `{"alg":"ES256","kid":"a-ec"}`, good(a.issuer)), 201},
		{"valid, header of alg alone", header(`{"alg":"RS256"}`), 201},
		{"valid, typ and x5t", header(`{"typ":"JWT","alg":"RS256","x5t":"AA","kid":"a-rsa"}`), 201},
		{"valid, by PEM", raw(t, a.rsa, `{"alg":"RS256"}`, good("https://pem.test")), 201},
		{"valid, by PEM with a kid", raw(t, a.rsa, rs, good("https://pem.test")), 201},
		{"valid, HS256", confused("https://hmac.test", []byte(secret)), 201},
		{"aud among others", claims(strings.Replace(good(a.issuer), `"depot"`, `["x","depot"]`, 1)), 201},

		{"HS256 with the public key in PEM", confused("https://pem.test", a.pem(t)), 401},
		{"HS256 with the public key in PEM, for a set", confused(a.issuer, a.pem(t)), 401},
		{"HS256 with the public key's DER", confused("https://pem.test", pkix), 401},
		{"HS256 with the modulus", confused(a.issuer, a.rsa.N.Bytes()), 401},
		{"HS256 with an empty key", confused("https://hmac.test", nil), 401},
		{"HS256 with an empty key, for a set", confused(a.issuer, nil), 401},
		{"HS256 with the secret and its line break", confused("https://hmac.test", []byte(secret+"\n")), 401},
		{"no exp", claims(without(iss, aud, "")), 401},
		{"past exp", claims(without(iss, aud, fmt.Sprintf(`"exp":%d`, time.Now().Add(-time.Minute).Unix()))), 401},
		{"future nbf", claims(with(fmt.Sprintf(`"nbf":%d`, exp))), 401},
		{"future iat", claims(with(fmt.Sprintf(`"iat":%d`, exp))), 401},
		{"no iss", claims(without("", aud, expires)), 401},
		{"iss of nobody", claims(good("https://nobody.test")), 401},
		{"iss with a slash more", claims(good(a.issuer + "/")), 401},
		{"iss in another case", claims(good(strings.ToUpper(a.issuer))), 401},
		{"iss in a list", claims(strings.Replace(good(a.issuer), `"`+a.issuer+`"`, `["`+a.issuer+`"]`, 1)), 401},
		{"no aud", claims(without(iss, "", expires)), 401},
		{"another aud", claims(without(iss, `"aud":"other"`, expires)), 401},
		{"an aud that begins like ours", claims(without(iss, `"aud":"depot2"`, expires)), 401},
		{"aud without ours", claims(without(iss, `"aud":["x","y"]`, expires)), 401},
		{"no aud in the list", claims(without(iss, `"aud":[]`, expires)), 401},
		{"empty aud", claims(without(iss, `"aud":""`, expires)), 401},
		{"aud with a number in it", claims(without(iss, `"aud":["depot",1]`, expires)), 401},
		{"aud that is an object", claims(without(iss, `"aud":{"depot":true}`, expires)), 401},
		{"iss twice", claims(with(`"iss":"https://b.test"`)), 401},
		{"exp twice", claims(with(`"exp":1`)), 401},
		{"exp twice, spelled differently", claims(with(`"\u0065xp":1`)), 401},
		{"a claim twice, further in", claims(with(`"x":[{"y":{"z":1,"z":2}}]`)), 401},
		{"alg twice", header(`{"alg":"none","alg":"RS256"}`), 401},
		{"kid twice", header(`{"alg":"RS256","kid":"x","kid":"a-rsa"}`), 401},
		{"crit", header(`{"alg":"RS256","kid":"a-rsa","crit":["x"],"x":1}`), 401},
		{"crit of nothing", header(`{"alg":"RS256","kid":"a-rsa","crit":[]}`), 401},
		{"unencoded payload", header(`{"alg":"RS256","kid":"a-rsa","b64":false,"crit":["b64"]}`), 401},
		{"jku", raw(t, b.rsa, `{"alg":"RS256","kid":"b-rsa","jku":"`+keys.URL+`/jku"}`, good(a.issuer)), 401},
		{"jwk in a good token", header(`{"alg":"RS256","kid":"a-rsa","jwk":{"kty":"RSA"}}`), 401},
		{"x5u in a good token", header(`{"alg":"RS256","kid":"a-rsa","x5u":"` + keys.URL + `/x5u"}`), 401},
		{"x5c in a good token", header(`{"alg":"RS256","kid":"a-rsa","x5c":["AA"]}`), 401},
		{"a kid that is a number, by PEM", raw(t, a.rsa, `{"alg":"RS256","kid":1}`, good("https://pem.test")), 401},
		{"a kid that is an object, by PEM", raw(t, a.rsa, `{"alg":"RS256","kid":{"a":1}}`, good("https://pem.test")), 401},
		{"a kid of 257 bytes, by PEM", raw(t, a.rsa, `{"alg":"RS256","kid":"`+strings.Repeat("k", 257)+`"}`, good("https://pem.test")), 401},
		{"an issuer whose keys cannot be had", raw(t, a.rsa, rs, good("https://gone.test")), 503},
		{"jku in a good token", header(`{"alg":"RS256","kid":"a-rsa","jku":"` + keys.URL + `/jku"}`), 401},
		{"jwk", raw(t, b.rsa, `{"alg":"RS256","jwk":`+`{"kty":"RSA","e":"AQAB","n":"`+encode(b.rsa.N.Bytes())+`"}}`, good(a.issuer)), 401},
		{"x5u", raw(t, b.rsa, `{"alg":"RS256","x5u":"`+keys.URL+`/x5u"}`, good(a.issuer)), 401},
		{"x5c", raw(t, b.rsa, `{"alg":"RS256","x5c":["`+base64.StdEncoding.EncodeToString(pkix)+`"]}`, good(a.issuer)), 401},
		{"a kid that is a path", header(`{"alg":"RS256","kid":"../../../../dev/null"}`), 401},
		{"a kid that is a path, by PEM", raw(t, a.rsa, `{"alg":"RS256","kid":"../../dev/null"}`, good("https://pem.test")), 401},
		{"a kid that is a path, with its content as the key", hs256(encode([]byte(`{"alg":"HS256","kid":"../../../../dev/null"}`))+"."+encode([]byte(good("https://hmac.test"))), nil), 401},
		{"a kid that is a URL", header(`{"alg":"RS256","kid":"` + keys.URL + `/kid"}`), 401},
		{"a kid that is a URL, by PEM", raw(t, a.rsa, `{"alg":"RS256","kid":"`+keys.URL+`/kid"}`, good("https://pem.test")), 401},
		{"a kid that is SQL", header(`{"alg":"RS256","kid":"x' UNION SELECT 'key"}`), 401},
		{"a kid that is SQL, by PEM", raw(t, a.rsa, `{"alg":"RS256","kid":"x' UNION SELECT 'key"}`, good("https://pem.test")), 401},
		{"a kid with a NUL", header(`{"alg":"RS256","kid":"a-rsa\u0000"}`), 401},
		{"a kid of 10 KiB", header(`{"alg":"RS256","kid":"` + strings.Repeat("k", 10<<10) + `"}`), 401},
		{"a kid of 10 KiB, by PEM", raw(t, a.rsa, `{"alg":"RS256","kid":"`+strings.Repeat("k", 10<<10)+`"}`, good("https://pem.test")), 401},
		{"a kid that is a number", header(`{"alg":"RS256","kid":1}`), 401},
		{"a kid that is a list", header(`{"alg":"RS256","kid":["a-rsa"]}`), 401},
		{"a kid that is null", header(`{"alg":"RS256","kid":null}`), 401},
		{"an empty kid", header(`{"alg":"RS256","kid":""}`), 401},
		{"a kid of the other issuer", header(`{"alg":"RS256","kid":"b-rsa"}`), 401},
		{"issuer A, signed by B, with B's kid", raw(t, b.rsa, `{"alg":"RS256","kid":"b-rsa"}`, good(a.issuer)), 401},
		{"issuer A, signed by B, with A's kid", raw(t, b.rsa, rs, good(a.issuer)), 401},
		{"issuer A, signed by B, without kid", raw(t, b.rsa, `{"alg":"RS256"}`, good(a.issuer)), 401},
		{"the kid of a key of another kind", header(`{"alg":"RS256","kid":"a-ec"}`), 401},
		{"RS256 that says PS256", header(`{"alg":"PS256","kid":"a-rsa"}`), 401},
		{"RS256 that says RS512", header(`{"alg":"RS512","kid":"a-rsa"}`), 401},
		{"no alg", header(`{"kid":"a-rsa"}`), 401},
		{"alg that is a number", header(`{"alg":256}`), 401},
		{"64 KiB", claims(with(`"x":"` + strings.Repeat("x", 64<<10*3/4) + `"`)), 401},
		{"dots", strings.Repeat(".", 5000), 401},
		{"dots behind it", valid + strings.Repeat(".", 5000), 401},
		{"dots between", strings.Repeat(valid+".", 20), 401},
		{"two dots", "..", 401},
		{"no signature", parts[0] + "." + parts[1] + ".", 401},
		{"two parts", parts[0] + "." + parts[1], 401},
		{"signature of another token", parts[0] + "." + parts[1] + "." + strings.Split(header(`{"alg":"RS256"}`), ".")[2], 401},
		{"claims of another token", parts[0] + "." + encode([]byte(with(`"x":1`))) + "." + parts[2], 401},
		{"padding", valid + "==", 401},
		{"standard alphabet", strings.NewReplacer("-", "+", "_", "/").Replace(valid) + "+", 401},
		{"header that is a list", header(`["RS256"]`), 401},
		{"header that is null", header(`null`), 401},
		{"claims that are a list", claims(`[]`), 401},
		{"claims that are null", claims(`null`), 401},
		{"claims and more", claims(good(a.issuer) + `{}`), 401},
		{"valid, and deep", claims(`{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,` + good(a.issuer)[1:]), 201},
		{"bytes that are no text", claims(with("\"x\":\"\xff\"")), 401},
		{"encrypted", "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.AA.AA.AA.AA", 401},
	}
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "noNe", ""} {
		attacks = append(attacks,
			attack{"alg " + alg, encode([]byte(`{"alg":"`+alg+`"}`)) + "." + parts[1] + ".", 401},
			attack{"alg " + alg + " with a signature", encode([]byte(`{"alg":"`+alg+`"}`)) + "." + parts[1] + "." + parts[2], 401})
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		if c != last {
			attacks = append(attacks, attack{fmt.Sprintf("another tail %d", i), tail(c), 401})
		}
	}
	for i, attack := range attacks {
		response, _ := s.do(t, "PUT", s.url+fmt.Sprintf("/ns/attack/%d.zip", i), strings.NewReader("PK"), "Authorization", "Bearer "+attack.token)
		if response.StatusCode != attack.status {
			t.Errorf("%s: %s, want %d", attack.name, response.Status, attack.status)
		}
		if attack.status == 401 && response.Header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
			t.Errorf("%s: WWW-Authenticate: %q", attack.name, response.Header.Get("WWW-Authenticate"))
		}
	}
	for i := range 1000 {
		if response, _ := s.do(t, "PUT", s.url+"/ns/random/1.zip", strings.NewReader("PK"), "Authorization", "Bearer "+header(fmt.Sprintf(`{"alg":"RS256","kid":"%d"}`, i))); response.StatusCode != 401 {
			t.Fatalf("a random kid: %s", response.Status)
		}
	}
	if n := fetches.Load(); n != 1 { // the first; the minute in which another may follow does not begin to pass
		t.Errorf("%d fetches", n)
	}
	if strays.Load() != 0 {
		t.Errorf("%d requests to places that a token named", strays.Load())
	}

	// As a query token there is no header to keep line breaks out.
	for name, query := range map[string]string{"plain": valid, "newline": valid + "%0A", "newline inside": valid[:20] + "%0A" + valid[20:], "return": valid + "%0D%0A", "NUL": valid + "%00", "space": valid + "%20"} {
		want := map[bool]int{true: 404, false: 401}[name == "plain"]
		if response, _ := s.do(t, "GET", s.url+"/ns/none/1.zip?token="+query, nil); response.StatusCode != want {
			t.Errorf("in the query, %s: %s, want %d", name, response.Status, want)
		}
	}

	// Good tokens that may not do this.
	for _, test := range []struct {
		name, token, method, path string
		status                    int
	}{
		{"download only, PUT", "reads", "PUT", "/ns/x/1.zip", 403},
		{"download only, DELETE", "reads", "DELETE", "/ns/x/1.zip", 403},
		{"download only, GET", "reads", "GET", "/ns/x/1.zip", 404},
		{"upload only, DELETE", "writes", "DELETE", "/ns/x/1.zip", 403},
		{"upload only, GET", "writes", "GET", "/ns/x/1.zip", 403},
		{"JWT, DELETE", valid, "DELETE", "/ns/x/1.zip", 403},
		{"JWT narrowed to download, PUT", claims(with(`"scope":"download"`)), "PUT", "/ns/x/1.zip", 403},
		{"JWT narrowed to download, DELETE", claims(with(`"scope":"download"`)), "DELETE", "/ns/x/1.zip", 403},
		{"JWT that asks for more, DELETE", claims(with(`"scope":"upload delete"`)), "DELETE", "/ns/x/1.zip", 403},
		{"another namespace", valid, "PUT", "/other/x/1.zip", 403},
		{"a namespace that is the beginning of an allowed one", valid, "PUT", "/n/x/1.zip", 403},
		{"a namespace that begins like an allowed one", valid, "PUT", "/ns2/x/1.zip", 403},
		{"the beginning of a pattern", valid, "PUT", "/team/x/1.zip", 403},
		{"what the pattern allows", valid, "PUT", "/team-x/x/1.zip", 201},
		{"the namespace in another case", valid, "PUT", "/NS/x/1.zip", 403},
		{"JWT that asks for every namespace", claims(with(`"namespaces":["*"]`)), "PUT", "/other/x/1.zip", 403},
		{"JWT of A that names B's rights", claims(with(`"roles":["admin"]`)), "DELETE", "/ns/x/1.zip", 403},
	} {
		if response, _ := s.do(t, test.method, s.url+test.path, strings.NewReader("PK"), "Authorization", "Bearer "+test.token); response.StatusCode != test.status {
			t.Errorf("%s: %s, want %d", test.name, response.Status, test.status)
		}
	}
	if log := s.log.String(); strings.Contains(log, parts[2]) || strings.Contains(log, parts[1]) || !strings.Contains(log, `"identity":"a:x"`) {
		t.Error("the log has a token in it, or not the identity")
	}
}
