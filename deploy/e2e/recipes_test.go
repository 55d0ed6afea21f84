package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// The scripts of README's recipes for GitHub Actions and GitLab CI, as they stand there, with the example access file as it
// stands, but for the addresses: the CI service is one of our own, whose tokens have the claims that those document.
func TestRecipes(t *testing.T) {
	needs(t, "jq")
	needs(t, "git")
	needs(t, "curl")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "ci", USE: jwkset.UseSig, ALG: jwkset.AlgES256}})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(claims jwt.MapClaims) string {
		now := time.Now().Unix()
		claims["iat"], claims["nbf"], claims["exp"] = now, now-300, now+300
		token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
		token.Header["kid"] = "ci"
		text, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var service *httptest.Server
	service = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/jwks":
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{jwk.Marshal()}})
		case r.URL.Path == "/token" && r.Header.Get("Authorization") == "Bearer request-token" && r.URL.Query().Get("api-version") == "2.0":
			_ = json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": sign(jwt.MapClaims{"iss": service.URL, "aud": r.URL.Query().Get("audience"), "sub": "repo:octo-org/skills:ref:refs/tags/v1.2.3",
				"repository": "octo-org/skills", "repository_owner": "octo-org", "repository_visibility": "private", "ref": "refs/tags/v1.2.3", "ref_type": "tag"})})
		default:
			http.NotFound(w, r)
		}
	}))
	defer service.Close()

	example, err := os.ReadFile("../access.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	access := strings.NewReplacer(
		"https://token.actions.githubusercontent.com/.well-known/jwks", service.URL+"/jwks", "https://gitlab.example.com/oauth/discovery/keys", service.URL+"/jwks",
		"https://token.actions.githubusercontent.com", service.URL, "https://gitlab.example.com", service.URL).Replace(string(example))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "access.toml"), []byte(access), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serve(t, dir, []string{"DEPOT_ACCESS_FILE=access.toml", "DEPOT_UPLOAD_URL=https://artifacts.internal.example.com/upload"})

	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	part := func(from, to string) string {
		_, rest, found := strings.Cut(string(readme), from)
		text, _, ended := strings.Cut(rest, to)
		if !found || !ended {
			t.Fatalf("README has no %q", from)
		}
		return text
	}
	checkout := filepath.Join(dir, "checkout")
	script := func(script string, env ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "bash", "-e", "-c", script)
		cmd.Dir = checkout
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s\n%s\n%s", err, script, out, p.stderr)
		}
	}
	if err := os.Mkdir(checkout, 0o700); err != nil {
		t.Fatal(err)
	}
	script("git init -q && echo hello > SKILL.md && git add . && git -c user.name=x -c user.email=x@example.com commit -qm x")
	script(part("        run: |\n", "```"), "UPLOAD_URL="+p.url+"/upload", "AUDIENCE="+part("      AUDIENCE: ", "\n"), "GITHUB_REPOSITORY=octo-org/skills", "GITHUB_REF_NAME=v1.2.3",
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN=request-token", "ACTIONS_ID_TOKEN_REQUEST_URL="+service.URL+"/token?api-version=2.0")
	steps := part("  script:\n    - ", "```")
	steps = strings.ReplaceAll(strings.ReplaceAll(steps, "\n    - >\n", "\n"), "UPLOAD_TOKEN\"\n", "UPLOAD_TOKEN\" ") // as YAML folds it
	script(strings.ReplaceAll(steps, "https://artifacts.internal.example.com", p.url), "CI_PROJECT_NAMESPACE=team-a", "CI_PROJECT_NAME=skills", "CI_COMMIT_TAG=v2.0.0",
		"UPLOAD_TOKEN="+sign(jwt.MapClaims{"iss": service.URL, "aud": part("      aud: ", "\n"), "sub": "project_path:team-a/skills:ref_type:tag:ref:v2.0.0", "namespace_path": "team-a", "project_path": "team-a/skills", "ref_type": "tag", "ref_protected": "true"}))
	for _, key := range []string{"octo-org/skills/1.2.3.zip", "team-a/skills/2.0.0.zip"} {
		if content, err := os.ReadFile(filepath.Join(dir, "depot-data", key)); err != nil || !strings.HasPrefix(string(content), "PK") {
			t.Errorf("%s: %v", key, err)
		}
	}
}
