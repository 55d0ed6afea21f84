package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var given = []string{"DEPOT_UPLOAD_TOKEN=up", "DEPOT_DOWNLOAD_TOKEN=down"}

// slowUpload begins an upload and returns its connection once the server has asked for the body.
func slowUpload(t *testing.T, p *process, key string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, "PUT /"+key+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer up\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
	want := "HTTP/1.1 100 Continue\r\n\r\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("the upload is answered %q, %v", got, err)
	}
	_, _ = io.WriteString(conn, "hello")
	return conn
}

func TestDrain(t *testing.T) {
	p := serve(t, t.TempDir(), given)
	upload := slowUpload(t, p, "in/flight/1.zip")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await(t, "draining: no new connections, finishing the requests in flight")

	for { // the listener closes right after the line was logged
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	_, _ = io.WriteString(upload, "world")
	if response, err := http.ReadResponse(bufio.NewReader(upload), nil); err != nil || response.StatusCode != 201 {
		t.Errorf("the upload in flight: %v, %v", response, err)
	}
	if status := p.wait(t); status != 0 {
		t.Errorf("exit status %d\n%s", status, p.stderr)
	}
	if got, err := os.ReadFile(filepath.Join(p.dir, "depot-data/in/flight/1.zip")); string(got) != "helloworld" {
		t.Errorf("stored is %q, %v", got, err)
	}
}

func TestDrainTimeout(t *testing.T) {
	p := serve(t, t.TempDir(), given, "--drain-timeout", "200ms")
	slowUpload(t, p, "in/flight/1.zip")
	if status := p.stop(t); status != 1 || !strings.Contains(p.stderr.String(), "cut off") {
		t.Errorf("exit status %d\n%s", status, p.stderr)
	}
	if left := files(t, filepath.Join(p.dir, "depot-data")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSecondSignal(t *testing.T) {
	p := serve(t, t.TempDir(), given)
	slowUpload(t, p, "in/flight/1.zip")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await(t, "draining: no new connections, finishing the requests in flight")
	p.stop(t)
	if status := p.cmd.ProcessState.ExitCode(); status != 128+int(syscall.SIGTERM) {
		t.Errorf("the second signal ended it with exit status %d", status)
	}
	if left := files(t, filepath.Join(p.dir, "depot-data")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A connection that stays idle is closed after 120 s. That takes as long as it says, so only CI waits for it.
func TestIdleTimeout(t *testing.T) {
	if os.Getenv("CI") == "" {
		t.Skip("this waits for two minutes: it is tested in CI")
	}
	t.Parallel()
	p := serve(t, t.TempDir(), given)
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Minute)) // only so that a server that never closes it fails the test
	_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != http.StatusOK || response.Close {
		t.Fatal(response, err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("an idle connection ended with %v", err)
	}
}
