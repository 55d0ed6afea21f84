package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// agentVerse does what AgentVerse v0.1.8 does with its custom backend, from the settings depot client-config prints.
type agentVerse map[string]string

func newAgentVerse(t *testing.T, p *process, env []string, args ...string) agentVerse {
	t.Helper()
	env = append(env, "DEPOT_LISTEN="+strings.TrimPrefix(p.url, "http://"))
	out, stderr, status := run(t, p.dir, env, append([]string{"client-config"}, args...)...)
	if status != 0 {
		t.Fatal(stderr)
	}
	a := agentVerse{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		a[strings.TrimPrefix(strings.TrimPrefix(name, "OBJECT_STORE_"), "CUSTOM_")] = strings.Trim(value, "'")
	}
	if a["BACKEND"] != "custom" {
		t.Fatalf("client-config printed %q", out)
	}
	return a
}

func (a agentVerse) send(method, url string, body []byte, headers ...string) (int, []byte, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	r, err := http.NewRequest(method, url, reader)
	if err != nil {
		return 0, nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	return response.StatusCode, got, err
}

// publish uploads and returns the URL that AgentVerse records for the artifact.
func (a agentVerse) publish(key string, archive []byte) (string, error) {
	url := strings.TrimRight(a["UPLOAD_URL"], "/") + "/" + key
	headers := []string{"Content-Type", "application/zip"}
	if h := a["UPLOAD_AUTH_HEADER"]; h != "" {
		headers = append(headers, "Authorization", h)
	}
	status, body, err := a.send("PUT", url, archive, headers...)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("upload rejected: %d %s", status, body)
	}
	recorded := strings.TrimRight(a["DOWNLOAD_URL_BASE"], "/") + "/" + key
	if a["DOWNLOAD_AUTH_TYPE"] == "query_param" {
		recorded += "?" + a["DOWNLOAD_AUTH_PARAM"] + "=" + a["DOWNLOAD_AUTH_TOKEN"]
	}
	return recorded, err
}

// install is POST …/install: the recorded URL, and no header.
func (a agentVerse) install(recorded string) (int, []byte, error) {
	return a.send("GET", recorded, nil)
}

// files is GET /files/{key}: the base URL, and the download token only under bearer_header.
func (a agentVerse) files(key string) (int, []byte, error) {
	var headers []string
	if a["DOWNLOAD_AUTH_TYPE"] == "bearer_header" {
		headers = []string{"Authorization", "Bearer " + a["DOWNLOAD_AUTH_TOKEN"]}
	}
	return a.send("GET", strings.TrimRight(a["DOWNLOAD_URL_BASE"], "/")+"/"+key, nil, headers...)
}

func (a agentVerse) remove(key string) (int, error) {
	status, _, err := a.send("DELETE", strings.TrimRight(a["UPLOAD_URL"], "/")+"/"+key, nil, "Authorization", a["UPLOAD_AUTH_HEADER"])
	return status, err
}

// What works with AgentVerse in which mode: the table in README, run.
func TestAgentVerse(t *testing.T) {
	for _, test := range []struct {
		mode           string
		install, files int
	}{
		{"none", 200, 200},
		{"query_param", 200, 401},
		{"bearer_header", 401, 200},
	} {
		t.Run(test.mode, func(t *testing.T) {
			p := serve(t, t.TempDir(), nil, "--download-auth", test.mode)
			a := newAgentVerse(t, p, nil, "--download-auth", test.mode)
			key, archive := "myorg/my-skill/1.0.0+build.5.zip", []byte("PK and so on")
			recorded, err := a.publish(key, archive)
			if err != nil {
				t.Fatal(err)
			}
			status, got, err := a.install(recorded)
			if status != test.install || err != nil || status == 200 && !bytes.Equal(got, archive) {
				t.Errorf("install: %d, %q, %v", status, got, err)
			}
			status, got, err = a.files(key)
			if status != test.files || err != nil || status == 200 && !bytes.Equal(got, archive) {
				t.Errorf("files: %d, %q, %v", status, got, err)
			}
			// The second publish of a version, before AgentVerse notices that it has it.
			if _, err := a.publish(key, []byte("other bytes!")); err == nil || !strings.Contains(err.Error(), "409") {
				t.Errorf("a second publish: %v", err)
			}
			for _, want := range []int{204, 404} {
				if status, err := a.remove(key); status != want || err != nil {
					t.Errorf("remove: %d, %v; want %d", status, err, want)
				}
			}
		})
	}
}

const enoughArchives = 100

// Real archives, the zip files of the module cache, through the built binary: PUT, GET by both token places, HEAD, DELETE.
func TestArchives(t *testing.T) {
	archives := moduleArchives(t)
	if len(archives) < enoughArchives && os.Getenv("CI") != "" {
		t.Fatalf("the module cache has %d archives, CI must have %d", len(archives), enoughArchives)
	}
	p := serve(t, t.TempDir(), nil)
	a := newAgentVerse(t, p, nil)
	var mu sync.Mutex
	moved, work, done := int64(0), make(chan string), sync.WaitGroup{}
	for range 4 {
		done.Go(func() {
			for path := range work {
				n, err := a.roundTrip(path)
				mu.Lock()
				moved += n
				mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", filepath.Base(path), err)
				}
			}
		})
	}
	for _, path := range archives {
		work <- path
	}
	close(work)
	done.Wait()
	if left := files(t, filepath.Join(p.dir, "depot-data")); len(left) != 2 {
		t.Errorf("beside the tokens it left %v", left)
	}
	if status := p.stop(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
	t.Logf("archives: %d real archives, %d bytes, uploaded, downloaded twice and deleted, every byte compared", len(archives), moved)
}

// moduleArchives are at most 200 zip files of up to 32 MiB.
func moduleArchives(t *testing.T) []string {
	t.Helper()
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	err = filepath.WalkDir(filepath.Join(strings.TrimSpace(string(cache)), "cache", "download"), func(path string, e os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".zip") {
			if info, err := e.Info(); err == nil && info.Size() < 32<<20 {
				found = append(found, path)
			}
		}
		return err
	})
	if err != nil || len(found) == 0 {
		t.Fatalf("no archives in the module cache: %v", err)
	}
	return found[:min(len(found), 200)]
}

func (a agentVerse) roundTrip(path string) (int64, error) {
	archive, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// …/cache/download/golang.org/x/sys/@v/v0.1.0.zip
	dir, file := filepath.Split(path)
	module := strings.Split(strings.TrimSuffix(filepath.ToSlash(dir), "/@v/"), "/cache/download/")
	name := strings.NewReplacer("/", "~", "!", "_").Replace(module[len(module)-1])
	key := "modules/" + name + "/" + file
	recorded, err := a.publish(key, archive)
	if err != nil {
		return 0, err
	}
	bare, _, _ := strings.Cut(recorded, "?")
	token := []string{"Authorization", "Bearer " + a["DOWNLOAD_AUTH_TOKEN"]}
	for _, get := range []func() (int, []byte, error){
		func() (int, []byte, error) { return a.install(recorded) },
		func() (int, []byte, error) { return a.send("GET", bare, nil, token...) },
	} {
		if status, got, err := get(); status != 200 || err != nil || !bytes.Equal(got, archive) {
			return 0, fmt.Errorf("download: %d, %d of %d bytes are alike, %v", status, len(got), len(archive), err)
		}
	}
	if status, got, err := a.send("HEAD", recorded, nil); status != 200 || len(got) != 0 || err != nil {
		return 0, fmt.Errorf("HEAD: %d, %v", status, err)
	}
	if status, err := a.remove(key); status != 204 || err != nil {
		return 0, fmt.Errorf("remove: %d, %v", status, err)
	}
	if status, _, err := a.install(recorded); status != 404 || err != nil {
		return 0, fmt.Errorf("after the removal: %d, %v", status, err)
	}
	return int64(len(archive)), nil
}
