package auth_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"depot/auth"
)

// access writes an access file, and a secret beside it.
func access(t *testing.T, text string) auth.Config {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"access.toml": text, "secret": "ci-secret\n", "empty": " \n", "two": "a\nb"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return auth.Config{UploadAuth: auth.Bearer, DownloadAuth: auth.BearerHeader, AccessFile: filepath.Join(dir, "access.toml")}
}

func sum(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// Everything that is wrong with an access file is said, with its line, and what may be a secret is not repeated.
func TestAccessFileErrors(t *testing.T) {
	const canary = "canary-8Tq1"
	good := "[[token]]\nname = \"first\"\nsha256 = \"" + sum("first") + "\"\nallow = [\"upload\"]\nnamespaces = [\"a\"]\n"
	entry := func(lines ...string) string { return "[[token]]\n" + strings.Join(lines, "\n") + "\n" }
	name, secret, allow, ns := `name = "ci"`, `sha256 = "`+sum("x")+`"`, `allow = ["upload"]`, `namespaces = ["a"]`
	for text, want := range map[string][]string{
		"":                                   {"access.toml: it grants nothing"},
		"[[token]\n":                         {"access.toml:1: this is not the TOML"},
		"\n\nsecret = \"" + canary + "\n":    {"access.toml:3: this is not the TOML"},
		"# x\nsecret = \"" + canary + "\"\n": {`access.toml:2: there is no such key as "secret"`},
		entry(name, `secret = "`+canary+`"`): {`access.toml:3: there is no such key as "token.secret"`},
		entry(name, name):                    {"access.toml:3: this is not the TOML"},
		entry(name, secret, allow, `namespaces = "a"`):                              {"access.toml:5: this is not the TOML"},
		entry(secret, allow, ns):                                                    {"access.toml:1: a token needs a name"},
		entry(`name = "a b"`, secret, allow, ns):                                    {"access.toml:2: a token needs a name"},
		entry(`name = "upload-token"`, secret, allow, ns):                           {"access.toml:2: the name upload-token is taken"},
		entry(`name = "anyone"`, secret, allow, ns):                                 {"access.toml:2: the name anyone is taken"},
		entry(`name = "upload-token-1"`, secret, allow, ns):                         {"access.toml:2: the name upload-token-1 is taken"},
		good + entry(`name = "first"`, secret, allow, ns):                           {"access.toml:7: another token has the name first"},
		good + entry(name, `sha256 = "`+sum("first")+`"`, allow, ns):                {"access.toml:8: it is the same token as first"},
		entry(name, allow, ns):                                                      {"access.toml:1: give one of sha256 and secret_file"},
		entry(name, `sha256 = ""`, allow, ns):                                       {"access.toml:3: give one of sha256 and secret_file"},
		entry(name, secret, `secret_file = "secret"`, allow, ns):                    {"access.toml:3: give one of sha256 and secret_file"},
		entry(name, `sha256 = "`+canary+`"`, allow, ns):                             {"access.toml:3: it must be 64 hexadecimal digits"},
		entry(name, `sha256 = "`+sum("")+`"`, allow, ns):                            {"access.toml:3: it is the SHA-256 of nothing"},
		entry(name, `secret_file = "`+canary+`"`, allow, ns):                        {"access.toml:3: this file cannot be read: no such file"},
		entry(name, `secret_file = "empty"`, allow, ns):                             {"access.toml:3: the file is empty"},
		entry(name, `secret_file = "two"`, allow, ns):                               {"access.toml:3: the token has a character"},
		entry(name, secret, ns):                                                     {"access.toml:1: it allows nothing"},
		entry(name, secret, "allow = []", ns):                                       {"access.toml:4: it allows nothing"},
		entry(name, secret, `allow = ["upload", "write"]`, ns):                      {`access.toml:4: there is no action like "write"`},
		entry(name, secret, `allow = ["`+canary+`"]`, ns):                           {`access.toml:4: there is no action like the one here`},
		entry(name, secret, allow, ns, canary+` = 1`):                               {`access.toml:6: there is no such key as the one here`},
		entry(name, secret, allow, ns, `Allow = ["delete"]`):                        {`there is no such key as "token.Allow": keys are written in small letters`},
		"[[Token]]\nname = \"x\"\n":                                                 {`there is no such key as "Token"`},
		entry(name, secret, allow):                                                  {"access.toml:1: it is for no namespace"},
		entry(name, secret, allow, "namespaces = []"):                               {"access.toml:5: it is for no namespace"},
		entry(name, secret, allow, `namespaces = [""]`):                             {"access.toml:5: a namespace is empty"},
		entry(name, secret, allow, `namespaces = ["a*b", ".a", "a.", "a/b"]`):       {`"a*b" can match no`, `".a" can match no`, `"a." can match no`, `"a/b" can match no`},
		entry(name, secret, allow, `namespaces = ["`+strings.Repeat("x", 129)+`"]`): {"can match no namespace"},
		entry(name, secret, allow, ns, "expires = 2020-01-01"):                      {"access.toml:6: it has expired"},
		entry(name, secret, allow, ns, `expires = "2099-01-01"`):                    {"access.toml:6: give a day"},
		entry(name, secret, allow, ns, "expires = 2099-01-01T00:00:00"):             {"access.toml:6: give a day"},
		good + "\n" + entry(secret, "allow = [\"x\"]"):                              {"access.toml:7: a token needs a name", `access.toml:9: there is no action like "x"`, "access.toml:7: it is for no namespace"},
	} {
		_, err := auth.New(access(t, text))
		if err == nil {
			t.Errorf("accepted:\n%s", text)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s\nit says\n%v\nwant %q", text, err, w)
			}
		}
		for line := range strings.Lines(err.Error()) {
			if !strings.HasPrefix(line, "Config.AccessFile: ") {
				t.Errorf("a line does not name the setting: %s", line)
			}
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("it repeats what may be a secret: %v", err)
		}
	}
	if _, err := auth.New(access(t, good)); err != nil {
		t.Errorf("a good file: %v", err)
	}
	cfg := access(t, good)
	cfg.UploadToken = []string{"first"}
	if _, err := auth.New(cfg); err == nil || !strings.Contains(err.Error(), "first is also one of the settings' tokens") {
		t.Errorf("a token of both kinds: %v", err)
	}
	cfg.AccessFile = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(cfg.AccessFile, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.New(cfg); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a FIFO: %v", err)
	}
	cfg.AccessFile = "/dev/zero"
	if _, err := auth.New(cfg); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a device: %v", err)
	}
	if cfg.AccessFile = filepath.Join(t.TempDir(), "large"); os.WriteFile(cfg.AccessFile, nil, 0o600) != nil || os.Truncate(cfg.AccessFile, 1<<40) != nil {
		t.Fatal("cannot make a large file")
	}
	if _, err := auth.New(cfg); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a terabyte: %v", err)
	}
	cfg.AccessFile = "/nowhere"
	if _, err := auth.New(cfg); err == nil || !strings.Contains(err.Error(), "Config.AccessFile: ") {
		t.Errorf("no file: %v", err)
	}
}

// Who may do what, in every combination; and a namespace that only begins like an allowed one, or is its beginning, is another.
func TestNamedTokens(t *testing.T) {
	cfg := access(t, `
[[token]]
name = "everything"
sha256 = "`+sum("s-all")+`"
allow = ["upload", "delete", "download", "list"]
namespaces = ["*"]

[[token]]
name = "ci"
secret_file = "secret"
allow = ["upload"]
namespaces = ["team-a", "lib*"]
expires = 2099-01-01

[[token]]
name = "reader"
sha256 = "`+strings.ToUpper(sum("s-read"))+`"
allow = ["download"]
namespaces = ["team-a"]
`)
	cfg.DownloadToken = []string{"from-settings"}
	a, err := auth.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string]auth.Action{"upload": auth.Upload, "delete": auth.Delete, "download": auth.Download, "list": auth.List}
	for secret, may := range map[string]string{
		"s-all":         "upload:team-a upload:lib delete:team-b download:x list:y upload:lib-x upload:li",
		"ci-secret":     "upload:team-a upload:lib upload:lib-x upload:library",
		"s-read":        "download:team-a",
		"from-settings": "download:team-a download:team-b download:lib download:lib-x download:x download:y download:li download:team download:team-a1 download:library",
		"nonsense":      "",
	} {
		for name, action := range actions {
			for _, namespace := range []string{"team-a", "team-b", "team", "team-a1", "lib", "lib-x", "library", "li", "x", "y"} {
				want := strings.Contains(" "+may+" ", " "+name+":"+namespace+" ") || secret == "s-all"
				got, why := a.Explain(t.Context(), secret, action, namespace)
				if got != want || strings.Contains(why, secret) {
					t.Errorf("%s %s in %s: %v (%s), want %v", secret, name, namespace, got, why, want)
				}
			}
		}
	}
	if _, err := auth.ParseAction("write"); err == nil {
		t.Error("there is an action write")
	}
	const want = `NAME             MAY                              IN             UNTIL
download-token   download                         *
everything       upload, delete, download, list   *
ci               upload                           team-a, lib*   2099-01-01 00:00 UTC
reader           download                         team-a
`
	if got := a.Table(); got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}

// A token is refused from the moment it expires.
func TestExpiry(t *testing.T) {
	expires := time.Now().Add(1500 * time.Millisecond)
	a, err := auth.New(access(t, "[[token]]\nname = \"brief\"\nsha256 = \""+sum("brief")+"\"\nallow = [\"upload\"]\nnamespaces = [\"a\"]\nexpires = "+expires.UTC().Format(time.RFC3339Nano)+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	given := auth.Credentials{Authorization: []string{"Bearer brief"}}
	if id, err := a.Authenticate(t.Context(), auth.Upload, given); err != nil || !id.May(auth.Upload, "a") {
		t.Errorf("before: %v, %v", id, err)
	}
	time.Sleep(time.Until(expires))
	if _, err := a.Authenticate(t.Context(), auth.Upload, given); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after: %v", err)
	}
}
