// Package s3test starts real S3 servers for tests, on loopback, over a temporary directory. They are built from the Go
// module proxy when a test first needs them, which takes a minute or two, and kept in the user's cache directory.
package s3test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Software is an S3 server that can be built and started.
type Software struct {
	Name    string
	module  string // as go install takes it
	command func(address, dir string) (args, env []string)
}

// The servers: a gateway to a POSIX file system, and an object store.
var (
	Versitygw = Software{"versitygw", "github.com/versity/versitygw/cmd/versitygw@v1.8.0", func(address, dir string) (args, env []string) {
		return []string{"--port", address, "--keep-alive", "--quiet", "posix", dir}, []string{"ROOT_ACCESS_KEY=" + AccessKey, "ROOT_SECRET_KEY=" + SecretKey}
	}}
	// VersitygwVirtual also knows buckets by host name: bucket.s3.test.
	VersitygwVirtual = Software{"versitygw", Versitygw.module, func(address, dir string) (args, env []string) {
		args, env = Versitygw.command(address, dir)
		return append([]string{"--virtual-domain", "s3.test"}, args...), env
	}}
	MinIO = Software{"minio", "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c", func(address, dir string) (args, env []string) {
		return []string{"server", "--quiet", "--address", address, dir}, []string{"MINIO_ROOT_USER=" + AccessKey, "MINIO_ROOT_PASSWORD=" + SecretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off", "HOME=" + dir}
	}}
)

// The credentials of every server.
const (
	AccessKey = "depottest"
	SecretKey = "depottestsecret"
)

// Environment is what a process needs to use a server: credentials, and no search for others.
func Environment() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey, "AWS_EC2_METADATA_DISABLED=true"}
}

// Setenv is Environment for this process, for as long as it lives.
func Setenv() {
	for _, e := range Environment() {
		name, value, _ := strings.Cut(e, "=")
		_ = os.Setenv(name, value)
	}
}

// Server is a server that runs until its test ends.
type Server struct {
	Endpoint string // http://host:port
	Dir      string // what it keeps its data in
	PID      int
	stop     func()
}

// Start starts a server and waits until it answers.
func (s Software) Start(t testing.TB) *Server {
	t.Helper()
	binary := s.Binary(t)
	dir := t.TempDir()
	for range 5 { // the port may be taken between our look and its start
		if server := s.try(t, binary, dir, freeAddress(t)); server != nil {
			return server
		}
	}
	t.Fatalf("%s does not start", s.Name)
	return nil
}

// Restart starts a server again that was stopped, at the same address and with the same data.
func (s Software) Restart(t testing.TB, stopped *Server) *Server {
	t.Helper()
	server := s.try(t, s.Binary(t), stopped.Dir, strings.TrimPrefix(stopped.Endpoint, "http://"))
	if server == nil {
		t.Fatalf("%s does not start again", s.Name)
	}
	return server
}

// Stop kills the server.
func (s *Server) Stop() { s.stop() }

var buckets atomic.Int64

// Bucket is the name of a bucket that nobody else uses. It is for the caller to make.
func (s *Server) Bucket() string { return fmt.Sprintf("bucket-%d-%d", os.Getpid(), buckets.Add(1)) }

func (s Software) try(t testing.TB, binary, dir, address string) *Server {
	t.Helper()
	args, env := s.command(address, dir)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir}, env...)
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	stop := func() { cancel(); <-ended }
	t.Cleanup(stop)
	for limit := time.Now().Add(30 * time.Second); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			return nil
		default:
		}
		if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address); err == nil {
			_ = conn.Close()
			return &Server{Endpoint: "http://" + address, Dir: dir, PID: cmd.Process.Pid, stop: stop}
		}
	}
	return nil
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// build returns the path of the server's binary. A test whose server cannot be had is skipped; in CI it fails.
func (s Software) Binary(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	_, version, _ := strings.Cut(s.module, "@")
	dir := filepath.Join(cache, "depot-tests", s.Name+"-"+version+"-"+runtime.Version())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, s.Name)
	lock, err := os.Create(filepath.Join(dir, "lock")) // packages are tested in parallel
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	fmt.Fprintf(os.Stderr, "building %s into %s, once; it takes a minute or two\n", s.module, dir)
	install := exec.CommandContext(t.Context(), "go", "install", s.module)
	install.Dir = dir // outside of any module
	install.Env = append(os.Environ(), "GOBIN="+filepath.Join(dir, "new"), "GOFLAGS=", "CGO_ENABLED=0")
	output, err := install.CombinedOutput()
	if err == nil {
		err = os.Rename(filepath.Join(dir, "new", s.Name), binary)
	}
	if err == nil {
		return binary
	}
	text := fmt.Sprintf("%s cannot be built (is there a network?): %v\n%s", s.module, err, output)
	if os.Getenv("CI") != "" {
		t.Fatal(text)
	}
	t.Skip(text)
	return ""
}
