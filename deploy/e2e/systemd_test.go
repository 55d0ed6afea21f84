//go:build linux

package e2e

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The unit is one that systemd takes, and finds well locked up; and the system calls it allows are those that depot makes.
func TestSystemdUnit(t *testing.T) {
	needs(t, "systemd-analyze")
	needs(t, "strace")
	dir := t.TempDir()
	for _, name := range []string{"depot.service", "depot.socket"} {
		content, err := os.ReadFile("../" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(string(content), "/usr/local/bin/depot", binary)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", filepath.Join(dir, "depot.service"), filepath.Join(dir, "depot.socket")).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--threshold=20", filepath.Join(dir, "depot.service")).CombinedOutput() // 2.0 of 10
	level := regexp.MustCompile(`Overall exposure level.*`).FindString(string(out))
	if err != nil || !strings.Contains(level, "OK") {
		t.Errorf("systemd-analyze security: %v, %s", err, level)
	}
	t.Log(level)

	members := func(set string) (calls []string) {
		expanded := map[string]bool{}
		var expand func(set string)
		expand = func(set string) {
			if expanded[set] {
				return
			}
			expanded[set] = true
			out, err := exec.Command("systemd-analyze", "syscall-filter", set).Output()
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(out)) {
				switch name := strings.TrimSpace(line); {
				case name == "" || strings.HasPrefix(name, "#") || name == set:
				case strings.HasPrefix(name, "@"):
					expand(name)
				default:
					calls = append(calls, name)
				}
			}
		}
		expand(set)
		return calls
	}
	allowed, refused := members("@system-service"), append(members("@privileged"), members("@resources")...)
	trace := filepath.Join(dir, "trace")
	address := freeAddress(t)
	cmd := exec.Command("strace", "-f", "-qq", "-o", trace, binary)
	cmd.Dir, cmd.Env = dir, append([]string{"PATH=" + os.Getenv("PATH"), "DEPOT_LISTEN=" + address, "DEPOT_ADMIN_LISTEN=127.0.0.1:0"}, given...)
	log := newOutput()
	cmd.Stderr, cmd.SysProcAttr = log, &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, stderr: log, ended: make(chan struct{}), url: "http://" + address}
	go func() { _ = cmd.Wait(); close(p.ended) }()
	p.await(t, "listening")
	for _, size := range []int{10, 100_000, 3_000_000} {
		do(t, "PUT", p.url+"/a/b/1.zip", strings.NewReader(strings.Repeat("x", size)), "Authorization", "Bearer up")
		do(t, "GET", p.url+"/a/b/1.zip?token=down", nil)
		do(t, "GET", p.url+"/a/b/1.zip?token=down", nil, "Range", "bytes=5-")
		do(t, "DELETE", p.url+"/a/b/1.zip", nil, "Authorization", "Bearer up")
	}
	do(t, "GET", p.url+"/readyz", nil)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGHUP)
	time.Sleep(time.Second) // a look at the files
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	p.wait(t)
	content, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^\d+ +(\w+)\(`).FindAllStringSubmatch(string(content), -1) {
		made[match[1]] = true
	}
	if len(made) < 20 || !made["sendfile"] || !made["fsync"] {
		t.Fatalf("the trace has only %v", made)
	}
	for call := range made {
		if !slices.Contains(allowed, call) || slices.Contains(refused, call) {
			t.Errorf("the unit does not allow the system call %s", call)
		}
	}
}

// Under a service manager: it says when it is ready and when it ends, and serves on the socket that it is handed.
func TestServiceManager(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manager.Close() }()
	_ = manager.SetReadDeadline(time.Now().Add(30 * time.Second))
	next := func() string {
		t.Helper()
		b := make([]byte, 100)
		n, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	p := serve(t, t.TempDir(), append([]string{"NOTIFY_SOCKET=" + socket}, given...))
	if got := next(); got != "READY=1" {
		t.Errorf("when it is ready it says %q", got)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "STOPPING=1" {
		t.Errorf("when it ends it says %q", got)
	}
	if status := p.wait(t); status != 0 {
		t.Errorf("exit status %d", status)
	}

	needs(t, "systemd-socket-activate")
	address := freeAddress(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemd-socket-activate", "-l", address, "-E", "DEPOT_UPLOAD_TOKEN=up", "-E", "DEPOT_DOWNLOAD_TOKEN=down", "-E", "DEPOT_LISTEN="+address, binary)
	cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + os.Getenv("PATH")}
	log := newOutput()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	activated := &process{cmd: cmd, stderr: log, ended: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(activated.ended) }()
	activated.awaitOutput(t, log, func(text string) bool { return strings.Contains(text, "Listening on") })
	response, body := do(t, "PUT", "http://"+address+"/a/b/1.zip", strings.NewReader("hello"), "Authorization", "Bearer up") // which starts it
	if response.StatusCode != http.StatusCreated || !strings.Contains(string(body), `"url":"http://`+address+`/a/b/1.zip"`) {
		t.Errorf("%s %s\n%s", response.Status, body, log)
	}
	if status := activated.stop(t); status != 0 {
		t.Errorf("exit status %d\n%s", status, log)
	}
}
