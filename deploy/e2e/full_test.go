//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mount gives a test a file system of its own. That takes root; CI has it.
func mount(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("mount: %v, and CI must be able to", err)
		}
		t.Skipf("mount: %v: this is tested in CI", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func upload(t *testing.T, p *process, key string, body io.Reader, length int64) (int, string) {
	t.Helper()
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, p.url+"/"+key, body)
	r.ContentLength = length
	r.Header.Set("Authorization", "Bearer up")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}

func remove(t *testing.T, p *process, key string) int {
	t.Helper()
	response, _ := do(t, http.MethodDelete, p.url+"/"+key, nil, "Authorization", "Bearer up")
	return response.StatusCode
}

// Without space uploads are 507 and leave nothing, downloads go on, and with space again uploads do too.
func TestNoSpace(t *testing.T) {
	dir := mount(t, "size=8m")
	p := serve(t, t.TempDir(), append([]string{"DEPOT_STORE=" + dir}, given...))
	if status, text := upload(t, p, "a/b/1.zip", bytes.NewReader(make([]byte, 5<<20)), 5<<20); status != http.StatusCreated {
		t.Fatal(status, text)
	}
	before := files(t, dir)
	for _, length := range []int64{6 << 20, -1} {
		status, text := upload(t, p, "a/b/2.zip", io.LimitReader(endless(1), 6<<20), length)
		if status != http.StatusInsufficientStorage || !strings.Contains(text, "have room made") {
			t.Errorf("length %d: %d %s", length, status, text)
		}
	}
	if after := files(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("refused uploads left %v", after)
	}
	if status, got := fetch(t, p, "a/b/1.zip"); status != http.StatusOK || len(got) != 5<<20 {
		t.Errorf("a download: %d, %d bytes", status, len(got))
	}
	if response, _ := do(t, http.MethodGet, p.url+"/readyz", nil); response.StatusCode != http.StatusOK {
		t.Errorf("readyz: %s: downloads go on, so requests should come", response.Status)
	}
	if status := remove(t, p, "a/b/1.zip"); status != http.StatusNoContent {
		t.Errorf("a delete: %d", status)
	}
	if status, text := upload(t, p, "a/b/2.zip", bytes.NewReader(make([]byte, 6<<20)), 6<<20); status != http.StatusCreated {
		t.Errorf("with room again: %d %s", status, text)
	}
	if log := p.stderr.String(); !strings.Contains(log, "no space left on device") {
		t.Errorf("logged:\n%s", log)
	}
}

// The same without inodes.
func TestNoInodes(t *testing.T) {
	dir := mount(t, "nr_inodes=24")
	p := serve(t, t.TempDir(), append([]string{"DEPOT_STORE=" + dir}, given...))
	last := -1
	for i := range 40 {
		status, text := upload(t, p, fmt.Sprintf("a/b/%d.zip", i), strings.NewReader("hello"), 5)
		if status == http.StatusInsufficientStorage {
			break
		}
		if status != http.StatusCreated {
			t.Fatal(status, text)
		}
		last = i
	}
	if last < 3 || last > 30 {
		t.Fatalf("%d uploads went in", last+1)
	}
	if status, text := upload(t, p, "new/dir/1.zip", strings.NewReader("hello"), 5); status != http.StatusInsufficientStorage {
		t.Errorf("a new directory: %d %s", status, text)
	}
	if status, _ := fetch(t, p, "a/b/0.zip"); status != http.StatusOK {
		t.Errorf("a download: %d", status)
	}
	if status := remove(t, p, "a/b/0.zip"); status != http.StatusNoContent {
		t.Errorf("a delete: %d", status)
	}
	if status, text := upload(t, p, "a/b/new.zip", strings.NewReader("hello"), 5); status != http.StatusCreated {
		t.Errorf("with an inode again: %d %s", status, text)
	}
}

// A file system that turns read-only: 503 for what would write, downloads go on, and it recovers by itself.
func TestReadOnly(t *testing.T) {
	dir := mount(t, "size=8m")
	p := serve(t, t.TempDir(), append([]string{"DEPOT_STORE=" + dir}, given...))
	if status, text := upload(t, p, "a/b/1.zip", strings.NewReader("hello"), 5); status != http.StatusCreated {
		t.Fatal(status, text)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if status, text := upload(t, p, "a/b/2.zip", strings.NewReader("hello"), 5); status != http.StatusServiceUnavailable {
		t.Errorf("an upload: %d %s", status, text)
	}
	if status := remove(t, p, "a/b/1.zip"); status != http.StatusServiceUnavailable {
		t.Errorf("a delete: %d", status)
	}
	if status, got := fetch(t, p, "a/b/1.zip"); status != http.StatusOK || string(got) != "hello" {
		t.Errorf("a download: %d %q", status, got)
	}
	_, stderr, status := run(t, t.TempDir(), append([]string{"DEPOT_STORE=" + dir, "DEPOT_LISTEN=127.0.0.1:0"}, given...))
	if status != 0 && (status != 1 || !strings.Contains(stderr, "read-only")) {
		t.Errorf("a start: %d, %s", status, stderr)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if status, text := upload(t, p, "a/b/2.zip", strings.NewReader("hello"), 5); status != http.StatusCreated {
		t.Errorf("writable again: %d %s", status, text)
	}
}

// What the operator has to do is in the error, ready to paste.
func TestStartErrors(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this becomes another user, and CI must be able to")
		}
		t.Skip("this becomes another user: it is tested in CI")
	}
	parent := t.TempDir()
	for dir := parent; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) // so that the other user gets this far
	}
	_ = os.Chmod(filepath.Dir(binary), 0o755)
	rootOwned := filepath.Join(parent, "root-owned")
	unreadable := filepath.Join(parent, "unreadable")
	file := filepath.Join(parent, "file")
	if err := os.Mkdir(rootOwned, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(unreadable, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for store, want := range map[string]string{
		rootOwned:                        "run: chown -R 65534:65534 " + rootOwned,
		unreadable:                       "run: chown -R 65534:65534 " + unreadable,
		filepath.Join(rootOwned, "new"):  "run: install -d -o 65534 -g 65534 " + filepath.Join(rootOwned, "new"),
		filepath.Join(unreadable, "new"): "run: install -d -o 65534 -g 65534 ",
		file:                             "name a directory",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := command(ctx, "/", append([]string{"DEPOT_STORE=" + store, "DEPOT_LISTEN=127.0.0.1:0"}, given...))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "DEPOT_STORE: ") || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %s\nwant something about %s", store, err, out, want)
		}
	}
}

// What is planted where an artifact should be, devices too, is answered at once: never followed, never waited for.
func TestPlanted(t *testing.T) {
	p := serve(t, t.TempDir(), given)
	at := filepath.Join(p.dir, "depot-data", "pla", "nted")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	plant := map[string]func(path string) error{
		"link":      func(path string) error { return os.Symlink("/etc/hostname", path) },
		"loop":      func(path string) error { return os.Symlink(path, path) },
		"fifo":      func(path string) error { return unix.Mkfifo(path, 0o644) },
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
	}
	if os.Getuid() == 0 {
		plant["zero"] = func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) }
		plant["tty"] = func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(5, 0))) }
		plant["block"] = func(path string) error { return unix.Mknod(path, unix.S_IFBLK|0o644, int(unix.Mkdev(7, 200))) }
	}
	for name, make := range plant {
		if err := make(filepath.Join(at, name+".zip")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		key := "pla/nted/" + name + ".zip"
		if status, got := fetch(t, p, key); status != http.StatusNotFound && status != http.StatusInternalServerError {
			t.Errorf("GET %s: %d %.100q", name, status, got)
		}
		if status, text := upload(t, p, key, strings.NewReader("hello"), 5); status != http.StatusInternalServerError {
			t.Errorf("PUT %s: %d %s", name, status, text)
		}
		if status := remove(t, p, key); status != http.StatusNotFound && status != http.StatusInternalServerError {
			t.Errorf("DELETE %s: %d", name, status)
		}
		if _, err := os.Lstat(filepath.Join(at, name+".zip")); err != nil {
			t.Errorf("%s has gone: %v", name, err)
		}
	}
}
