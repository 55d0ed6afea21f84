package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// depot access checks the file, prints who may do what, and answers for one token; it never prints one.
func TestAccessCommand(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := write("secret", "canary-5Ws0\n")
	file := write("access.toml", "[[token]]\nname = \"ci\"\nsecret_file = \"secret\"\nallow = [\"upload\"]\nnamespaces = [\"team-a\"]\n")
	ask := func(action, key string) []string {
		return []string{"access", file, "--token-file", secret, "--action=" + action, "--key", key}
	}
	for _, test := range []struct {
		env, args []string
		status    int
		want      string
	}{
		{nil, []string{"access", file}, 0, "ci     upload   team-a\n"},
		{[]string{"DEPOT_ACCESS_FILE=" + file, "DEPOT_UPLOAD_TOKEN=x"}, []string{"access"}, 0, "upload-token   upload, delete   *\nci             upload           team-a"},
		{nil, []string{"access"}, 0, "download-token   download         *"},
		{nil, ask("upload", "team-a/x/1.zip"), 0, "yes: ci may upload in team-a"},
		{nil, ask("upload", "team-ab/x/1.zip"), 1, "no: ci may not upload in team-ab"},
		{nil, ask("delete", "team-a/x/1.zip"), 1, "no: ci may not delete in team-a"},
		{nil, ask("write", "team-a/x/1.zip"), 2, "--action: choose one of upload, delete, download, list"},
		{nil, ask("upload", "team-a/x"), 2, "--key: invalid key"},
		{nil, []string{"access", file, "--action=upload", "--key=a/b/1.zip"}, 2, "--token-file: name a readable file"},
		{nil, []string{"access", "nowhere.toml"}, 2, "DEPOT_ACCESS_FILE: nowhere.toml: no such file"},
		{nil, []string{"access", file, "--token=canary-5Ws0"}, 2, "argument 2 is no flag"},
		{nil, []string{"access", "../../deploy/access.example.toml"}, 2, "no such file"},
	} {
		stdout, stderr, status := run(t, dir, test.env, test.args...)
		if status != test.status || !strings.Contains(stdout+stderr, test.want) || strings.Contains(stdout+stderr, "canary") {
			t.Errorf("%v: %d\n%s%s\nwant %d, %q", test.args, status, stdout, stderr, test.status, test.want)
		}
	}
	example, err := filepath.Abs("../access.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, status := run(t, dir, nil, "access", example); status != 0 || !strings.Contains(stdout, "auditor        download         *\ngithub:<sub>   upload           the one in repository_owner, of octo-org   its exp, 1h0m0s at most") {
		t.Errorf("the example: %d\n%s%s", status, stdout, stderr)
	}
}

// depot token prints a token, and beside it the entry that makes it valid.
func TestToken(t *testing.T) {
	dir := t.TempDir()
	token, entry, status := run(t, dir, nil, "token", "new", "--name", "team-a")
	if status != 0 || len(token) != 44 || !strings.Contains(entry, `name = "team-a"`) || strings.Contains(entry, strings.TrimSpace(token)) {
		t.Fatalf("%d, %q, %q", status, token, entry)
	}
	for name, text := range map[string]string{"access.toml": entry, "token": token} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if stdout, stderr, status := run(t, dir, nil, "access", "access.toml", "--token-file=token", "--action=upload", "--key=x/y/1.zip"); status != 0 {
		t.Errorf("%d %s%s", status, stdout, stderr)
	}
}

// What the file grants is what can be done, and nothing else: 401 for a token it does not know, 403 for one that may not.
func TestAccessFile(t *testing.T) {
	dir := t.TempDir()
	text := ""
	for name, grants := range map[string]string{
		"publisher": `allow = ["upload"]` + "\nnamespaces = [\"team-a\", \"lib*\"]",
		"reader":    `allow = ["download"]` + "\nnamespaces = [\"team-a\"]",
		"admin":     `allow = ["upload", "delete", "download"]` + "\nnamespaces = [\"*\"]",
	} {
		text += fmt.Sprintf("[[token]]\nname = %q\nsha256 = \"%x\"\n%s\n", name, sha256.Sum256([]byte("secret-of-"+name)), grants)
	}
	if err := os.WriteFile(filepath.Join(dir, "access.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serve(t, dir, []string{"DEPOT_ACCESS_FILE=access.toml"})
	if p.stdout.String() != "" {
		t.Errorf("with an access file it prints:\n%s", p.stdout)
	}
	for _, test := range []struct {
		who, method, key string
		status           int
	}{
		{"publisher", "PUT", "team-a/x/1.zip", 201},
		{"publisher", "PUT", "library/x/1.zip", 201},
		{"publisher", "PUT", "team-ab/x/1.zip", 403},
		{"publisher", "PUT", "team/x/1.zip", 403},
		{"publisher", "PUT", "li/x/1.zip", 403},
		{"publisher", "DELETE", "team-a/x/1.zip", 403},
		{"publisher", "GET", "team-a/x/1.zip", 403},
		{"reader", "GET", "team-a/x/1.zip", 200},
		{"reader", "GET", "library/x/1.zip", 403},
		{"reader", "GET", "library/none/1.zip", 403}, // the same whether it is there or not
		{"reader", "PUT", "team-a/y/1.zip", 403},
		{"reader", "DELETE", "team-a/x/1.zip", 403},
		{"nobody", "GET", "team-a/x/1.zip", 401},
		{"nobody", "PUT", "team-a/z/1.zip", 401},
		{"admin", "GET", "library/x/1.zip", 200},
		{"admin", "DELETE", "library/x/1.zip", 204},
	} {
		response, body := do(t, test.method, p.url+"/"+test.key, strings.NewReader("hello"), "Authorization", "Bearer secret-of-"+test.who)
		if response.StatusCode != test.status {
			t.Errorf("%s %s by %s: %s %s, want %d", test.method, test.key, test.who, response.Status, body, test.status)
		}
	}
	if response, _ := do(t, "GET", p.url+"/team-a/x/1.zip?token=secret-of-reader", nil); response.StatusCode != 200 {
		t.Errorf("as a query token: %s", response.Status)
	}
	if log := p.stderr.String(); strings.Contains(log, "secret-of") || !strings.Contains(log, `"identity":"publisher"`) {
		t.Errorf("logged:\n%s", log)
	}
	if left := files(t, filepath.Join(dir, "depot-data")); len(left) != 1 {
		t.Errorf("it left %v: tokens are not generated beside an access file", left)
	}
	if out, stderr, status := run(t, dir, []string{"DEPOT_ACCESS_FILE=access.toml"}, "client-config"); status != 0 || !strings.Contains(out, "<a token of the access file>") {
		t.Errorf("client-config: %d\n%s%s", status, out, stderr)
	}
}
