package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// freeAddress is one that nobody listens on, for settings that must name it beforehand.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestWrongSettings(t *testing.T) {
	const secret = "canary-7Yq2"
	for name, test := range map[string]struct {
		env, args []string
		want      []string
	}{
		"everything at once": {
			env: []string{"DEPOT_LISTEN=nowhere", "DEPOT_STORE=ftp://x", "DEPOT_UPLOAD_URL=ftp://x", "DEPOT_DOWNLOAD_URL_BASE=" + secret, "DEPOT_UPLOAD_TOKEN=", "DEPOT_UPLOAD_AUTH=" + secret,
				"DEPOT_DOWNLOAD_AUTH=query", "DEPOT_DOWNLOAD_PARAM=a b", "DEPOT_DOWNLOAD_TOKEN=" + secret + " x", "DEPOT_OVERWRITE=" + secret, "DEPOT_MAX_SIZE=" + secret, "DEPOT_DRAIN_TIMEOUT=" + secret,
				"DEPOT_LOG_FORMAT=" + secret, "DEPOT_LOG_LEVEL=" + secret, "DEPOT_STOR=" + secret},
			want: []string{"DEPOT_LISTEN: give host:port", "DEPOT_STORE: ", "DEPOT_UPLOAD_URL: begin with http", "DEPOT_DOWNLOAD_URL_BASE: begin with http", "DEPOT_UPLOAD_TOKEN: token 1 is empty", "DEPOT_UPLOAD_AUTH: choose",
				"DEPOT_DOWNLOAD_AUTH: choose", "DEPOT_DOWNLOAD_TOKEN: token 1 has a character", "DEPOT_OVERWRITE: give true", "DEPOT_MAX_SIZE: give a size",
				"DEPOT_DRAIN_TIMEOUT: give a duration", "DEPOT_LOG_FORMAT: give", "DEPOT_LOG_LEVEL: give", "DEPOT_STOR: there is no such setting: unset it (did you mean DEPOT_STORE?)"},
		},
		"empty is not absent": {
			env:  []string{"DEPOT_LISTEN=", "DEPOT_STORE= ", "DEPOT_UPLOAD_TOKEN= ", "DEPOT_DOWNLOAD_TOKEN=a,,b", "DEPOT_DOWNLOAD_PARAM="},
			want: []string{"DEPOT_LISTEN: it is set but empty", "DEPOT_STORE: it is set but empty", "DEPOT_UPLOAD_TOKEN: token 1 is empty", "DEPOT_DOWNLOAD_TOKEN: token 2 is empty", "DEPOT_DOWNLOAD_PARAM: it is set but empty"},
		},
		"characters a URL changes": {
			env:  []string{"DEPOT_DOWNLOAD_TOKEN=good," + secret + "+", "DEPOT_DOWNLOAD_PARAM=a&b"},
			want: []string{"DEPOT_DOWNLOAD_TOKEN: token 2 has a character", "DEPOT_DOWNLOAD_PARAM: "},
		},
		"one token for both": {
			env:  []string{"DEPOT_DOWNLOAD_TOKEN=" + secret, "DEPOT_UPLOAD_TOKEN=x," + secret},
			want: []string{"DEPOT_DOWNLOAD_TOKEN: one of its tokens is also in DEPOT_UPLOAD_TOKEN"},
		},
		"flags": {
			args: []string{"serve", "--nonsense", "--upload-token", secret, "--download-token=" + secret, "--max-size", "0", "--overwrite=maybe", "--drain-timeout=-1s"},
			want: []string{"argument 1 is no flag", "argument 2: a secret has no flag: set DEPOT_UPLOAD_TOKEN or DEPOT_UPLOAD_TOKEN_FILE", "argument 3 is no flag", "argument 4: a secret has no flag: set DEPOT_DOWNLOAD_TOKEN", "DEPOT_MAX_SIZE: give a size", "DEPOT_OVERWRITE: give true", "DEPOT_DRAIN_TIMEOUT: give a duration"},
		},
		"missing file":     {env: []string{"DEPOT_UPLOAD_TOKEN_FILE=nowhere"}, want: []string{"DEPOT_UPLOAD_TOKEN: the file that DEPOT_UPLOAD_TOKEN_FILE names: no such file"}},
		"empty file":       {env: []string{"DEPOT_UPLOAD_TOKEN_FILE=/dev/null"}, want: []string{"DEPOT_UPLOAD_TOKEN: the file that DEPOT_UPLOAD_TOKEN_FILE names: this is no regular file"}},
		"token for a path": {env: []string{"DEPOT_UPLOAD_TOKEN_FILE=" + secret}, want: []string{"DEPOT_UPLOAD_TOKEN: the file that DEPOT_UPLOAD_TOKEN_FILE names"}},
		"no flags at all":  {args: []string{"serve", "---x", "--=" + secret, "-" + secret, "-", "--", secret}, want: []string{"argument 1 ", "argument 2 ", "argument 3 ", "argument 4 ", "argument 6 "}},
		"flag's typo":      {args: []string{"--max-sice=1MiB", "--listen"}, want: []string{"argument 1 ", "argument 2 "}},
		"good, then bad":   {args: []string{"--listen=127.0.0.1:0", "---x"}, want: []string{"cannot start:\n  argument 2 "}},
		"bad boolean":      {args: []string{"client-config", "--toml=" + secret}, want: []string{"argument 1 "}},
		"unknown variable": {env: []string{"DEPOT_MAXSIZE=1", "DEPOT_XYZZY=1"}, want: []string{"DEPOT_MAXSIZE: there is no such setting: unset it (did you mean DEPOT_MAX_SIZE?)", "DEPOT_XYZZY: there is no such setting: unset it\n"}},
		"unknown command":  {args: []string{"serv"}, want: []string{"not one of the commands", "(did you mean serve?)"}},
		"port too large":   {args: []string{"--listen", "127.0.0.1:99999"}, want: []string{"DEPOT_LISTEN: give host:port"}},
		"too much":         {args: []string{"token", "x"}, want: []string{"depot token makes new, keygen or jwt"}},
		"too much, again":  {args: []string{"version", "x"}, want: []string{"takes no arguments"}},
		"size too large":   {env: []string{"DEPOT_MAX_SIZE=9000000TiB"}, want: []string{"DEPOT_MAX_SIZE: give a size"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			stdout, stderr, status := run(t, dir, test.env, test.args...)
			if status != 2 || stdout != "" {
				t.Errorf("exit status %d, standard output %q", status, stdout)
			}
			for _, want := range test.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if strings.Contains(stderr, secret) {
				t.Error("it repeats a value")
			}
			if t.Failed() {
				t.Logf("it says:\n%s", stderr)
			}
			if left := files(t, dir); len(left) != 0 {
				t.Errorf("and it made %v", left)
			}
		})
	}
}

// What Kubernetes injects for a Service called depot is no setting.
func TestKubernetesVariables(t *testing.T) {
	serve(t, t.TempDir(), []string{"DEPOT_PORT=tcp://10.0.0.1:80", "DEPOT_PORT_80_TCP_ADDR=10.0.0.1", "DEPOT_SERVICE_HOST=10.0.0.1", "DEPOT_SERVICE_PORT=80"})
}

// Level and format of the log, and the warning that an endpoint is open.
func TestLog(t *testing.T) {
	open := []string{"DEPOT_UPLOAD_AUTH=none", "DEPOT_DOWNLOAD_AUTH=none"}
	p := serve(t, t.TempDir(), open)
	p.await(t, "everyone who reaches this address may upload and delete: DEPOT_UPLOAD_AUTH is none")
	p = serve(t, t.TempDir(), given)
	if strings.Contains(p.stderr.String(), "everyone") {
		t.Error("a closed endpoint warns that it is open")
	}
	address := freeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := command(ctx, t.TempDir(), append(open, "DEPOT_LISTEN="+address), "--log-level", "warn", "--log-format=text")
	out := newOutput()
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	quiet := &process{cmd: cmd, stderr: out, ended: make(chan struct{})}
	quiet.awaitOutput(t, out, func(text string) bool { return strings.Contains(text, "level=WARN msg=\"everyone who") })
	for { // it listens before it warns, and answers a moment after
		if response, err := http.Get("http://" + address + "/a/b/1.zip"); err == nil {
			_ = response.Body.Close()
			break
		}
	}
	quiet.awaitOutput(t, out, func(text string) bool { return strings.Contains(text, "level=WARN msg=request") })
	cancel()
	_ = cmd.Wait()
	if strings.Contains(out.String(), "level=INFO") {
		t.Errorf("logged:\n%s", out)
	}
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"DEPOT_DOWNLOAD_PARAM=from-environment", "DEPOT_UPLOAD_TOKEN=from-environment", "DEPOT_UPLOAD_TOKEN_FILE=token", "DEPOT_DOWNLOAD_TOKEN_FILE=token"}
	out, stderr, _ := run(t, dir, env, "client-config", "--download-param", "from-flag")
	for _, want := range []string{"AUTH_PARAM=from-flag\n", "UPLOAD_AUTH_HEADER='Bearer from-environment'\n", "AUTH_TOKEN=from-file\n", "UPLOAD_URL=http://127.0.0.1:8080\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("client-config does not print %q:\n%s%s", want, out, stderr)
		}
	}
	if left := files(t, dir); len(left) != 1 {
		t.Errorf("with all tokens given, client-config made %v", left)
	}
}

func TestClientConfig(t *testing.T) {
	given := []string{"DEPOT_UPLOAD_TOKEN=up,old", "DEPOT_DOWNLOAD_TOKEN=down,old2", "DEPOT_LISTEN=:9000", "DEPOT_UPLOAD_URL=https://a.example/upload/"}
	for args, want := range map[string]string{
		"": "OBJECT_STORE_BACKEND=custom\nOBJECT_STORE_CUSTOM_UPLOAD_URL=https://a.example/upload\nOBJECT_STORE_CUSTOM_DOWNLOAD_URL_BASE=http://localhost:9000\n" +
			"OBJECT_STORE_CUSTOM_UPLOAD_AUTH_HEADER='Bearer up'\nOBJECT_STORE_CUSTOM_DOWNLOAD_AUTH_TYPE=query_param\nOBJECT_STORE_CUSTOM_DOWNLOAD_AUTH_PARAM=token\nOBJECT_STORE_CUSTOM_DOWNLOAD_AUTH_TOKEN=down\n",
		"--toml": "[object_store]\nbackend = \"custom\"\n\n[object_store.custom]\nupload_url = \"https://a.example/upload\"\ndownload_url_base = \"http://localhost:9000\"\nupload_auth_header = \"Bearer up\"\n\n" +
			"[object_store.custom.download_auth]\ntype = \"query_param\"\nparam = \"token\"\ntoken = \"down\"\n",
		"--toml --download-auth=bearer_header": "[object_store]\nbackend = \"custom\"\n\n[object_store.custom]\nupload_url = \"https://a.example/upload\"\ndownload_url_base = \"http://localhost:9000\"\nupload_auth_header = \"Bearer up\"\n\n" +
			"[object_store.custom.download_auth]\ntype = \"bearer_header\"\ntoken = \"down\"\n",
		"--download-auth=none --upload-auth=none": "OBJECT_STORE_BACKEND=custom\nOBJECT_STORE_CUSTOM_UPLOAD_URL=https://a.example/upload\nOBJECT_STORE_CUSTOM_DOWNLOAD_URL_BASE=http://localhost:9000\nOBJECT_STORE_CUSTOM_DOWNLOAD_AUTH_TYPE=none\n",
	} {
		out, stderr, status := run(t, t.TempDir(), given, append([]string{"client-config"}, strings.Fields(args)...)...)
		if out != want || status != 0 {
			t.Errorf("client-config %s: status %d, got\n%s%s\nwant\n%s", args, status, out, stderr, want)
		}
	}
}

// client-config never makes anything: tokens no server knows would help nobody.
func TestClientConfigWithoutTokens(t *testing.T) {
	dir := t.TempDir()
	if out, stderr, status := run(t, dir, nil, "client-config"); status != 1 || out != "" || !strings.Contains(stderr, "start the server first") {
		t.Errorf("status %d, %q, %q", status, out, stderr)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("it made %v", left)
	}
}

// A start that fails has made nothing.
func TestBusyAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	if _, stderr, status := run(t, dir, nil, "--listen", l.Addr().String()); status != 1 || !strings.Contains(stderr, "DEPOT_LISTEN") {
		t.Errorf("status %d, %q", status, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "depot-data")); err == nil {
		t.Error("it made the store")
	}
}

func TestSmallCommands(t *testing.T) {
	dir := t.TempDir()
	one, _, _ := run(t, dir, nil, "token")
	two, _, _ := run(t, dir, nil, "token")
	if len(one) != 44 || one == two {
		t.Errorf("two tokens are %q and %q", one, two)
	}
	if out, _, status := run(t, dir, nil, "version"); status != 0 || !strings.HasPrefix(out, "depot ") || !strings.Contains(out, " go1.") {
		t.Errorf("version: %d, %q", status, out)
	}
	help, _, status := run(t, dir, nil, "--help")
	for _, args := range [][]string{{"help"}, {"serve", "-h"}, {"client-config", "--help"}, {"--listen", "x", "-help"}} {
		if out, _, again := run(t, dir, nil, args...); out != help || status != 0 || again != 0 {
			t.Errorf("%v prints other help, or status %d", args, again)
		}
	}
	address := freeAddress(t)
	if _, stderr, status := run(t, dir, []string{"DEPOT_LISTEN=" + address}, "healthcheck"); status != 1 || !strings.Contains(stderr, "refused") {
		t.Errorf("healthcheck of nothing: %d, %q", status, stderr)
	}
	p := serve(t, dir, []string{"DEPOT_LISTEN=" + address, "HTTP_PROXY=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1"})
	for _, listen := range []string{address, strings.Replace(address, "127.0.0.1", "", 1)} {
		if _, stderr, status := run(t, dir, []string{"DEPOT_LISTEN=" + listen, "HTTP_PROXY=http://127.0.0.1:1"}, "healthcheck"); status != 0 {
			t.Errorf("healthcheck of %s: %d, %q", listen, status, stderr)
		}
	}
	if err := os.Rename(filepath.Join(dir, "depot-data"), filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	for { // the last check is kept for a second
		if _, stderr, status := run(t, dir, []string{"DEPOT_LISTEN=" + address}, "healthcheck"); status == 1 && strings.Contains(stderr, "503") {
			break
		}
	}
	if out, stderr, status := run(t, dir, []string{"DEPOT_LISTEN=" + address}); status != 1 || !strings.Contains(stderr, "DEPOT_LISTEN") {
		t.Errorf("a second server on one address: %d, %q, %q", status, out, stderr)
	}
	_ = p
}

// --help, README's table and the program know the same settings.
func TestHelpIsReadme(t *testing.T) {
	help, _, _ := run(t, t.TempDir(), nil, "--help")
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, readme, _ := strings.Cut(string(text), "\n## Settings\n")
	rows := regexp.MustCompile(`(?m)^  (?:--[a-z0-9-]+, )?(DEPOT_[A-Z0-9_]+)(?:, DEPOT_[A-Z_]+_FILE)? \(default: (.*)\)\n +(.*)$`).FindAllStringSubmatch(help, -1)
	if len(rows) < 22 {
		t.Fatalf("--help lists %d settings:\n%s", len(rows), help)
	}
	for _, row := range rows {
		if want := fmt.Sprintf("| `%s` | %s | %s |", row[1], row[2], row[3]); !strings.Contains(readme, want) {
			t.Errorf("README.md has no row\n%s", want)
		}
	}
	if n := strings.Count(readme, "\n| `DEPOT_"); n != len(rows) {
		t.Errorf("README.md has %d settings, --help %d", n, len(rows))
	}
}
