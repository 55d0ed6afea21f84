package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"depot/handlers/contract"
)

// The thirty-second start: nothing set, and the printed lines pasted into a shell.
func TestZeroConfiguration(t *testing.T) {
	needs(t, "curl")
	dir := t.TempDir()
	first := serve(t, dir, nil)
	paste(t, first, "201")
	tokens := readTokens(t, dir)
	for _, token := range tokens {
		if !strings.Contains(first.stdout.String(), token) {
			t.Errorf("the first start does not print a token it made:\n%s", first.stdout)
		}
	}
	config, _, status := run(t, dir, nil, "client-config", "--listen", strings.TrimPrefix(first.url, "http://"))
	if status != 0 || !strings.Contains(first.stdout.String(), config) {
		t.Errorf("client-config prints\n%s\nwhich the first start did not print:\n%s", config, first.stdout)
	}
	if response, _ := do(t, "GET", first.url+"/demo/hello/1.0.0.zip", nil); response.StatusCode != 401 {
		t.Errorf("without a token: %s", response.Status)
	}
	if status := first.stop(t); status != 0 {
		t.Errorf("exit status %d", status)
	}

	// The next start uses the same tokens, and prints them no more; its lines work all the same.
	second := serve(t, dir, nil)
	paste(t, second, "200")
	for _, token := range tokens {
		if strings.Contains(second.stdout.String()+second.stderr.String(), token) {
			t.Error("the second start prints a token")
		}
	}
	if !strings.Contains(second.stdout.String(), "$(cat "+dir+"/") {
		t.Errorf("the second start's lines work only in its own directory:\n%s", second.stdout)
	}
	if got := readTokens(t, dir); !slices.Equal(got, tokens) {
		t.Error("the second start made new tokens")
	}
	want := []string{"depot-data/.depot/download-token", "depot-data/.depot/upload-token", "depot-data/demo/hello/1.0.0.zip", "hello.zip"}
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("it left %v, want %v", got, want)
	}
}

// paste runs the two indented curl lines of a banner, as a reader would.
func paste(t *testing.T, p *process, want string) {
	t.Helper()
	p.awaitOutput(t, p.stdout, func(text string) bool {
		return strings.Contains(text, "AgentVerse's settings") && strings.HasSuffix(text, "\n")
	})
	lines := regexp.MustCompile(`(?m)^  (.*curl .*)$`).FindAllStringSubmatch(p.stdout.String(), -1)
	if len(lines) != 2 {
		t.Fatalf("the banner has %d curl lines:\n%s", len(lines), p.stdout)
	}
	for _, line := range lines {
		sh := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(line[1], "/tmp/hello.zip", p.dir+"/hello.zip", 1))
		sh.Dir = p.dir
		if out, err := sh.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line[1], err, out)
		}
	}
	if line := p.await(t, "request"); !strings.Contains(p.stderr.String(), `"method":"PUT","key":"demo/hello/1.0.0.zip","identity":"upload-token","status":`+want) {
		t.Errorf("the upload was logged as %v", line)
	}
	got, err := os.ReadFile(filepath.Join(p.dir, "hello.zip"))
	if err != nil || !bytes.Equal(got, append([]byte("PK\x05\x06"), make([]byte, 18)...)) {
		t.Errorf("the download gave %q, %v", got, err)
	}
}

func readTokens(t *testing.T, dir string) []string {
	t.Helper()
	var tokens []string
	for _, name := range []string{"upload-token", "download-token"} {
		path := filepath.Join(dir, "depot-data", ".depot", name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
			t.Errorf("%s has mode %v, %v", name, st.Mode(), err)
		}
		token := strings.TrimSpace(string(text))
		if len(token) != 43 {
			t.Errorf("%s is %d characters long", name, len(token))
		}
		tokens = append(tokens, token)
	}
	return tokens
}

// The contract against the built binary, configured in each of the ways settings can come.
func TestContract(t *testing.T) {
	secrets := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(secrets, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name string
		env  []string
		args []string
		end  contract.Endpoint
		up   string // path
		down string
	}{
		{
			name: "documented example, by environment",
			env: []string{"DEPOT_UPLOAD_URL=https://artifacts.internal.example.com/upload", "DEPOT_DOWNLOAD_URL_BASE=HOST", "DEPOT_DOWNLOAD_PARAM=access_token",
				"DEPOT_UPLOAD_TOKEN=eyJhbGciOiJSUzI1NiJ9.x.y", "DEPOT_DOWNLOAD_TOKEN=dl-token-xxxxxxxxxxxxxxxx", "DEPOT_MAX_SIZE=8MiB"},
			end: contract.Endpoint{UploadTokens: []string{"eyJhbGciOiJSUzI1NiJ9.x.y"}, DownloadAuth: "query_param", DownloadParam: "access_token", DownloadTokens: []string{"dl-token-xxxxxxxxxxxxxxxx"}, MaxSize: 8 << 20},
			up:  "/upload",
		},
		{
			name: "several tokens in files, by flags",
			env:  []string{"DEPOT_UPLOAD_TOKEN_FILE=" + file("up", "up-1\nup-2\n\n"), "DEPOT_DOWNLOAD_TOKEN_FILE=" + file("down", "down+1\r\ndown/2\r\n")},
			args: []string{"serve", "--download-auth", "bearer_header", "--max-size=4MiB", "--overwrite", "--upload-url", "http://x/u", "--download-url-base", "HOST/d"},
			end:  contract.Endpoint{UploadTokens: []string{"up-1", "up-2"}, DownloadAuth: "bearer_header", DownloadTokens: []string{"down+1", "down/2"}, MaxSize: 4 << 20, Overwrite: true},
			up:   "/u", down: "/d",
		},
		{
			name: "open",
			env:  []string{"DEPOT_UPLOAD_AUTH=none", "DEPOT_DOWNLOAD_AUTH=none", "DEPOT_MAX_SIZE=1000000"},
			end:  contract.Endpoint{DownloadAuth: "none", MaxSize: 1_000_000},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			address := freeAddress(t)
			env := append([]string{"DEPOT_LISTEN=" + address}, test.env...)
			for _, list := range [][]string{env, test.args} {
				for i := range list {
					list[i] = strings.Replace(list[i], "HOST", "http://"+address, 1)
				}
			}
			dir := t.TempDir()
			p := serve(t, dir, env, test.args...)
			test.end.UploadURL, test.end.DownloadURLBase = p.url+test.up, p.url+test.down
			contract.Run(t, test.end)
			if status := p.stop(t); status != 0 {
				t.Errorf("exit status %d", status)
			}
			if left := files(t, filepath.Join(dir, "depot-data")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if out := p.stdout.String(); out != "" {
				t.Errorf("tokens were given, and yet it printed %q", out)
			}
		})
	}
}
