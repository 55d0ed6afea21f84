// Package e2e tests depot as its users meet it: the built binary, started with flags and environment, driven over real
// connections, and stopped with signals.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var binary string // built once, by TestMain

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "depot-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "depot")
		build := exec.Command("go", "build", "-o", binary, "depot")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build depot:", err)
			return 1
		}
		return m.Run()
	}())
}

// needs skips a test where a program is missing, and fails it in CI, which installs all of them.
func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing, and CI must have it", program)
		}
		t.Skipf("%s is missing: this part is tested in CI", program)
	}
}

// command prepares a run of the binary in a directory with nothing in its environment but what is given.
func command(ctx context.Context, dir string, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	return cmd
}

// run runs a command to its end.
func run(t *testing.T, dir string, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := command(ctx, dir, env, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// process is a server that runs.
type process struct {
	cmd            *exec.Cmd
	dir            string
	stdout, stderr *output
	url            string // http://host:port
	ended          chan struct{}
}

// output collects what a process writes, for reading while it still writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newOutput() *output { return &output{more: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// serve starts a server in a directory, on a port the system chooses, and waits until it listens.
func serve(t testing.TB, dir string, env []string, args ...string) *process {
	t.Helper()
	if !strings.Contains(strings.Join(append(env, args...), " "), "LISTEN=") {
		env = append(env, "DEPOT_LISTEN=127.0.0.1:0")
	}
	p := &process{cmd: command(context.Background(), dir, env, args...), dir: dir, stdout: newOutput(), stderr: newOutput(), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit status is read from ProcessState
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	p.url = "http://" + p.await(t, "listening")["address"].(string)
	return p
}

// await waits for a log line with this message and returns it.
func (p *process) await(t testing.TB, message string) (entry map[string]any) {
	t.Helper()
	p.awaitOutput(t, p.stderr, func(text string) bool {
		for line := range strings.Lines(text) {
			entry = nil
			if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
				return true
			}
		}
		return false
	})
	return entry
}

// awaitOutput waits until what the process wrote is enough.
func (p *process) awaitOutput(t testing.TB, o *output, enough func(text string) bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for !enough(o.String()) {
		select {
		case <-o.more:
		case <-p.ended:
			if enough(o.String()) {
				return
			}
			t.Fatalf("depot ended before it wrote what was awaited:\n%s", p.stderr)
		case <-limit:
			t.Fatalf("depot does not write what is awaited:\n%s", p.stderr)
		}
	}
}

// stop sends SIGTERM and waits for the end.
func (p *process) stop(t *testing.T) (status int) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return p.wait(t)
}

func (p *process) wait(t *testing.T) (status int) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		t.Fatalf("depot does not end:\n%s", p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

// do sends a request and reads the answer.
func do(t *testing.T, method, url string, body io.Reader, headers ...string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, text
}

// files are the paths of all files below a directory, relative to it.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			found = append(found, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
