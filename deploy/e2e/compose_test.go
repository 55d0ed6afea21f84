package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"depot/handlers/contract"
	"depot/store/s3test"
)

// fixture is a compose project, driven as another project's test suite would.
type fixture struct {
	t    *testing.T
	name string
	env  []string
}

func newFixture(t *testing.T, env ...string) *fixture {
	f := &fixture{t: t, name: "depot-e2e-" + strings.ToLower(rand.Text()[:8]), env: append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "FIXTURE_IMAGE=" + testImage}, env...)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", f.output("--profile", "s3", "logs", "--tail", "4"))
		}
		f.output("--profile", "s3", "--profile", "monitoring", "down", "-v", "-t", "40")
	})
	return f
}

func (f *fixture) output(args ...string) string {
	command := []string{"docker-compose"}
	if _, err := exec.LookPath(command[0]); err != nil {
		command = []string{"docker", "compose"} // version 2
	}
	command = append(append(command, "-p", f.name, "-f", "../compose.yaml"), args...)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = f.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.t.Errorf("docker-compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// container is the id of a service's container.
func (f *fixture) container(service string) string {
	f.t.Helper()
	return mustDocker(f.t, "ps", "-aq", "--filter", "label=com.docker.compose.project="+f.name, "--filter", "label=com.docker.compose.service="+service)
}

// awaitHealth waits until a service's container is in this state of health.
func (f *fixture) awaitHealth(service, want string) {
	f.t.Helper()
	for limit := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		got := mustDocker(f.t, "inspect", "--format", "{{.State.Health.Status}}", f.container(service))
		if got == want {
			return
		}
		if time.Now().After(limit) {
			f.t.Fatalf("%s is %s, not %s\n%s", service, got, want, mustDocker(f.t, "logs", "--tail", "30", f.container(service)))
		}
	}
}

const testImage = "depot:e2e"

func freePort(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// buildImage builds deploy/Dockerfile as it stands.
func buildImage(t *testing.T) {
	t.Helper()
	have(t, "golang:1.26-bookworm", func() image { return goImage(t) })
	proxy, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker", "build", "-q", "-f", "deploy/Dockerfile", "--build-arg", "GOPROXY="+strings.TrimSpace(string(proxy)), "-t", testImage, ".")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v\n%s", err, out)
	}
	t.Cleanup(func() { _, _ = docker(t, "rmi", "-f", testImage) })
}

// The image, and the compose file: a fixture on a disk; and two replicas on a bucket behind nginx, one of which is killed under
// load, and whose bucket is cut off and given back.
func TestCompose(t *testing.T) {
	needs(t, "docker")
	if _, err := docker(t, "compose", "version"); err != nil {
		needs(t, "docker-compose")
	}
	buildImage(t)
	t.Run("image", testImageItself)
	t.Run("disk", testDiskFixture)
	have(t, "nginx:1.28", func() image {
		return image{programs: map[string]string{found(t, "nginx"): "/usr/sbin/nginx"}, changes: []string{`ENTRYPOINT ["/usr/sbin/nginx"]`, `CMD ["-g", "daemon off;"]`}}
	})
	have(t, "versity/versitygw:v1.8.0", func() image {
		return image{programs: map[string]string{s3test.Versitygw.Binary(t): "/usr/bin/versitygw"}, changes: []string{`ENTRYPOINT ["/usr/bin/versitygw"]`}}
	})
	t.Run("bucket", testBucketFixture)
	needs(t, "prometheus")
	have(t, "prom/prometheus:v3.5.0", func() image {
		return image{programs: map[string]string{found(t, "prometheus"): "/bin/prometheus"}, changes: []string{`ENTRYPOINT ["/bin/prometheus"]`, `CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/tmp/data"]`}}
	})
	t.Run("monitoring", testMonitoringFixture)
}

func testImageItself(t *testing.T) {
	var found []struct {
		Size   int64
		Config struct {
			User                  string
			Env, Entrypoint       []string
			Labels                map[string]string
			Volumes, ExposedPorts map[string]struct{}
			Healthcheck           struct{ Test []string }
		}
	}
	if err := json.Unmarshal([]byte(mustDocker(t, "image", "inspect", testImage)), &found); err != nil {
		t.Fatal(err)
	}
	i := found[0]
	t.Logf("image: %.1f MiB", float64(i.Size)/(1<<20))
	if i.Size > 25<<20 || i.Config.User != "65532:65532" || len(i.Config.Entrypoint) != 1 || i.Config.Labels["org.opencontainers.image.licenses"] != "MIT" || len(i.Config.Volumes) != 1 || len(i.Config.Healthcheck.Test) < 2 {
		t.Errorf("the image is %+v", i)
	}
	if out := mustDocker(t, "run", "--rm", testImage, "version"); !strings.HasPrefix(out, "depot ") {
		t.Errorf("version: %s", out)
	}
	// A directory that its user may not write to.
	out, err := docker(t, "run", "--rm", "-v", t.TempDir()+":/data", testImage)
	if err == nil || !strings.Contains(out, "run: chown -R 65532:65532 /data") {
		t.Errorf("a directory of someone else: %v\n%s", err, out)
	}
	// What is in it: the binary, which is the one that the same command makes outside, certificates, and an empty /data.
	id := mustDocker(t, "create", testImage)
	defer mustDocker(t, "rm", "-f", "-v", id)
	dir := t.TempDir()
	mustDocker(t, "cp", id+":/usr/bin/depot", filepath.Join(dir, "inside"))
	mustDocker(t, "cp", id+":/etc/ssl/certs/ca-certificates.crt", filepath.Join(dir, "certificates"))
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=auto", "-ldflags=-s -w", "-o", filepath.Join(dir, "outside"), "depot")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	inside, err := os.ReadFile(filepath.Join(dir, "inside"))
	if err != nil {
		t.Fatal(err)
	}
	outside, err := os.ReadFile(filepath.Join(dir, "outside"))
	if err != nil {
		t.Fatal(err)
	}
	v, _ := exec.Command("go", "version", "-m", filepath.Join(dir, "inside")).Output()
	w, _ := exec.Command("go", "version", "-m", filepath.Join(dir, "outside")).Output()
	_, insideGo, _ := strings.Cut(strings.SplitN(string(v), "\n", 2)[0], ": ")
	_, outsideGo, _ := strings.Cut(strings.SplitN(string(w), "\n", 2)[0], ": ")
	if insideGo != outsideGo {
		t.Logf("image: built with %s, and outside it is %s: not compared", insideGo, outsideGo)
	} else if !bytes.Equal(inside, outside) {
		t.Errorf("the binary in the image is not the one that is built outside:\n%s%s", v, w)
	}
	if content, err := os.ReadFile(filepath.Join(dir, "certificates")); err != nil || !bytes.Contains(content, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("certificates: %v", err)
	}
}

func testDiskFixture(t *testing.T) {
	port := freePort(t)
	f := newFixture(t, "FIXTURE_PORT="+port)
	begin := time.Now()
	f.output("up", "-d", "--no-build")
	for {
		if response, err := http.Get("http://127.0.0.1:" + port + "/readyz"); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == 200 {
				break
			}
		}
		time.Sleep(5 * time.Millisecond) // go test's timeout ends a container that never is
	}
	ready := time.Since(begin)
	f.awaitHealth("depot", "healthy")
	t.Logf("compose: on a disk, ready %.1f s after up, and called healthy %.1f s after", ready.Seconds(), time.Since(begin).Seconds())
	contract.Run(t, f.endpoint(port, false))
	f.output("down", "-v", "-t", "40")
	if left := mustDocker(t, "volume", "ls", "-q", "--filter", "label=com.docker.compose.project="+f.name); left != "" {
		t.Errorf("down -v left the volumes %s", left)
	}

	// A directory of archives, served from the start to its owner's account.
	dir := t.TempDir()
	for _, key := range []string{"team-a/tool/1.0.0.zip", "team-b/tool/2.0.0+x.zip"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(key)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, key), []byte("PK "+key), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f = newFixture(t, "FIXTURE_PORT="+port, "FIXTURE_DATA="+dir, fmt.Sprintf("FIXTURE_USER=%d:%d", os.Getuid(), os.Getgid()), "UPLOAD_TOKEN=mine", "DOWNLOAD_TOKEN=yours")
	f.output("up", "-d", "--no-build")
	f.awaitHealth("depot", "healthy")
	for key, want := range map[string]int{"team-a/tool/1.0.0.zip": 200, "team-b/tool/2.0.0+x.zip": 200, "team-c/tool/1.0.0.zip": 404} {
		response, body := do(t, "GET", "http://127.0.0.1:"+port+"/"+key+"?token=yours", nil)
		if response.StatusCode != want || want == 200 && string(body) != "PK "+key {
			t.Errorf("%s: %s %q", key, response.Status, body)
		}
	}
}

// Prometheus beside it finds the depots that run, and only those. (Grafana's image has no stand-in.)
func testMonitoringFixture(t *testing.T) {
	port := freePort(t)
	f := newFixture(t, "FIXTURE_PORT="+freePort(t), "PROMETHEUS_PORT="+port)
	f.output("--profile", "monitoring", "up", "-d", "--no-build", "depot", "prometheus")
	f.awaitHealth("depot", "healthy")
	for limit := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		response, err := http.Get("http://127.0.0.1:" + port + "/api/v1/query?query=count(up%7Bjob%3D%22depot%22%7D)%3D%3D1%20and%20count(depot_store_up%3D%3D1)%3D%3D1")
		if err == nil {
			body, _ := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if strings.Contains(string(body), `"value":[`) {
				break
			}
			err = fmt.Errorf("%s", body)
		}
		if time.Now().After(limit) {
			t.Fatalf("Prometheus does not see the depot that runs: %v", err)
		}
	}
	rules, err := http.Get("http://127.0.0.1:" + port + "/api/v1/rules")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(rules.Body)
	_ = rules.Body.Close()
	if !strings.Contains(string(body), `"name":"DepotStoreDown"`) {
		t.Errorf("it has no alerts: %s", body)
	}
}

func (f *fixture) endpoint(port string, proxy bool) contract.Endpoint {
	url := "http://127.0.0.1:" + port
	return contract.Endpoint{UploadURL: url, DownloadURLBase: url, UploadTokens: []string{"fixture-upload-token"}, DownloadAuth: "query_param", DownloadParam: "token", DownloadTokens: []string{"fixture-download-token"}, Proxy: proxy}
}

func testBucketFixture(t *testing.T) {
	port := freePort(t)
	url := "http://127.0.0.1:" + port
	f := newFixture(t, "FIXTURE_PORT="+freePort(t), "BUCKET_PORT="+port)
	f.output("--profile", "s3", "up", "-d", "--no-build")
	f.awaitHealth("depot-1", "healthy")
	f.awaitHealth("depot-2", "healthy")
	contract.Run(t, f.endpoint(port, true))

	// Uploads go on while one replica is killed. Those that were answered 2xx stay.
	client := &http.Client{Timeout: 30 * time.Second}
	put := func(key string, body []byte) int {
		r, err := http.NewRequestWithContext(t.Context(), "PUT", url+"/"+key, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0
		}
		r.Header.Set("Authorization", "Bearer fixture-upload-token")
		response, err := client.Do(r)
		if err != nil {
			return 0
		}
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode
	}
	var mu sync.Mutex
	kept, statuses := map[string][sha256.Size]byte{}, map[int]int{}
	upload := func(key string) int {
		body := make([]byte, 100_000)
		_, _ = rand.Read(body)
		status := put(key, body)
		mu.Lock()
		defer mu.Unlock()
		statuses[status]++
		if status == http.StatusCreated {
			kept[key] = sha256.Sum256(body)
		}
		return status
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for worker := range 4 {
		running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				upload(fmt.Sprintf("load/w%d/%d.zip", worker, n))
			}
		})
	}
	enough := func(n int) {
		t.Helper()
		for limit := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			mu.Lock()
			have := len(kept)
			mu.Unlock()
			if have >= n {
				return
			}
			if time.Now().After(limit) {
				t.Fatalf("only %d uploads of %d", have, n)
			}
		}
	}
	enough(50)
	mustDocker(t, "kill", f.container("depot-1"))
	mu.Lock()
	before := len(kept)
	mu.Unlock()
	enough(before + 100) // by the other one alone
	cancel()
	running.Wait()
	t.Logf("compose: a replica killed among %v", statuses)
	mustDocker(t, "start", f.container("depot-1"))
	f.awaitHealth("depot-1", "healthy")

	// The bucket cut off: 503, and not ready; and given back: ready, without anything being started again.
	bucket, gateway := f.name+"_bucket", f.container("versitygw")
	mustDocker(t, "network", "disconnect", bucket, gateway)
	f.awaitHealth("depot-1", "unhealthy")
	f.awaitHealth("depot-2", "unhealthy")
	for _, service := range []string{"depot-1", "depot-2"} {
		if out, err := docker(t, "exec", f.container(service), "/usr/bin/depot", "healthcheck"); err == nil || !strings.Contains(out, "503") {
			t.Errorf("%s is ready without its bucket: %s", service, out)
		}
	}
	// On a connection that was open, nothing comes any more: 504. Then it cannot be reached: 503.
	last := 0
	for n := 0; last != http.StatusServiceUnavailable && n < 20; n++ {
		if last = put("load/cut/1.zip", []byte("hello")); last != http.StatusServiceUnavailable && last != http.StatusGatewayTimeout {
			t.Fatalf("an upload without the bucket is answered %d", last)
		}
	}
	if last != http.StatusServiceUnavailable {
		t.Errorf("uploads without the bucket are answered %d", last)
	}
	mustDocker(t, "network", "connect", "--alias", "versitygw", bucket, gateway)
	f.awaitHealth("depot-1", "healthy")
	f.awaitHealth("depot-2", "healthy")
	for limit := time.Now().Add(time.Minute); upload("load/after/1.zip") != http.StatusCreated; time.Sleep(time.Second) {
		if time.Now().After(limit) {
			t.Fatal("it does not recover")
		}
	}
	for key, want := range kept {
		response, body := do(t, "GET", url+"/"+key+"?token=fixture-download-token", nil)
		if response.StatusCode != 200 || sha256.Sum256(body) != want {
			t.Errorf("%s was answered 201, and now %s with %d bytes", key, response.Status, len(body))
		}
	}
}
