package handlers_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"depot/auth"
	"depot/handlers"
	"depot/store"
)

// serveForTrace is what the test binary does when a test starts it again under strace: the real server, on either kind
// of staging, logging to standard error.
func serveForTrace(dir string, named bool) error {
	disk, err := store.OpenDisk(store.DiskConfig{Dir: dir, NamedStaging: named})
	if err != nil {
		return err
	}
	a, err := auth.New(auth.Config{UploadAuth: auth.None, DownloadAuth: auth.None})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h, err := handlers.New(handlers.Config{Store: disk, Auth: a, Log: jsonLog(os.Stderr), UploadURL: "http://x", DownloadURLBase: "http://x", MaxSize: 1 << 30, Overwrite: true})
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return h.Serve(context.Background(), listener, time.Second)
}

const traceVariable = "TRACED_DEPOT_STAGING" // unnamed or named; the directory is the first argument

// traced starts the server under strace; stop ends it and returns the trace, a system call a line.
func traced(t *testing.T, dir, staging string) (url string, log *syncBuffer, stop func() (trace []string)) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("strace is missing, and CI must have it")
		}
		t.Skip("strace is missing: this is tested in CI")
	}
	out := filepath.Join(t.TempDir(), "trace")
	calls := "openat,mkdirat,fsync,fdatasync,linkat,link,renameat,renameat2,rename,unlinkat,write,writev,sendfile,read,close,pwrite64,fallocate,accept4"
	cmd := exec.Command("strace", "-f", "-y", "-s", "12", "-o", out, "-e", "trace="+calls, os.Args[0], dir)
	cmd.Env = append(os.Environ(), traceVariable+"="+staging)
	log = &syncBuffer{}
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the server under strace says %q: %v", log.String(), err)
	}
	return "http://" + strings.TrimSpace(address), log, func() []string {
		kill()
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return joinUnfinished(string(text))
	}
}

// joinUnfinished puts a call that strace printed in two halves where it ended, and leaves out the thread.
func joinUnfinished(text string) (calls []string) {
	begun, padding := map[string]string{}, regexp.MustCompile(`\) += `)
	for line := range strings.Lines(text) {
		thread, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		if head, unfinished := strings.CutSuffix(call, "<unfinished ...>"); unfinished {
			begun[thread] = strings.TrimRight(head, " ")
			continue
		}
		if _, tail, resumed := strings.Cut(call, "resumed>"); resumed && strings.HasPrefix(call, "<...") {
			call = begun[thread] + tail
		}
		calls = append(calls, padding.ReplaceAllString(call, ") = "))
	}
	return calls
}

// inOrder fails unless the calls contain matches of all patterns, each after the one before.
func inOrder(t *testing.T, calls []string, patterns ...string) {
	t.Helper()
	i := 0
	for _, pattern := range patterns {
		re := regexp.MustCompile(pattern)
		for i < len(calls) && !re.MatchString(calls[i]) {
			i++
		}
		if i == len(calls) {
			t.Errorf("no %s where it should be in\n%s", pattern, strings.Join(calls, "\n"))
			return
		}
		i++
	}
}

// between are the calls from the first that matches a pattern to the first after it that matches another.
func between(calls []string, from, to string) []string {
	start := -1
	for i, call := range calls {
		if start < 0 && regexp.MustCompile(from).MatchString(call) {
			start = i
		} else if start >= 0 && regexp.MustCompile(to).MatchString(call) {
			return calls[start : i+1]
		}
	}
	return nil
}

// The order of system calls that makes an acknowledged upload durable: the file, then its name, then the directories,
// then the answer. The file's own fsync comes before it has a name, so no crash can show an artifact without its bytes.
func TestDurableOrder(t *testing.T) {
	for _, staging := range []string{"unnamed", "named"} {
		t.Run(staging, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			url, _, stop := traced(t, dir, staging)
			// A connection each: on one that is kept, net/http may have read the first byte of a request by itself.
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			upload := func(key, body string, want int) {
				r, _ := http.NewRequest(http.MethodPut, url+"/"+key, strings.NewReader(body))
				response, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = response.Body.Close()
				if response.StatusCode != want {
					t.Fatalf("%s: %s", key, response.Status)
				}
			}
			upload("new-ns/name/1.zip", "first", 201)   // both directories are made
			upload("new-ns/name/2.zip", "second", 201)  // none is
			upload("new-ns/other/1.zip", "third", 201)  // one is
			upload("new-ns/name/1.zip", "changed", 200) // replaced
			upload("new-ns/name/1.zip", "changed", 200) // unchanged
			r, _ := http.NewRequest(http.MethodDelete, url+"/new-ns/name/2.zip", nil)
			if response, err := client.Do(r); err != nil || response.StatusCode != http.StatusNoContent {
				t.Fatal(response, err)
			}
			calls := stop()

			q := regexp.QuoteMeta
			ns, name, other := q(dir+"/new-ns>"), q(dir+"/new-ns/name>"), q(dir+"/new-ns/other>")
			file, link := `fsync\(\d+<`+q(dir)+`.*#\d+.*\) = 0`, func(path string) string { return `linkat\(.*/proc/self/fd/.*, \d+<` + q(path) + `.* = 0` }
			replace := `renameat\(\d+<` + q(dir) + `/\.depot/staging>, "depot-upload-[A-Z0-9]+", \d+<` + name + `, "1\.zip"\) = 0`
			if staging == "named" {
				file = `fsync\(\d+<` + q(dir) + `/\.depot/staging/depot-upload-[A-Z0-9]+>\) = 0`
				link = func(path string) string {
					return `linkat\(\d+<` + q(dir) + `/\.depot/staging>, "depot-upload-[A-Z0-9]+", \d+<` + q(path) + `.* = 0`
				}
			}
			fsync := func(dir string) string { return `fsync\(\d+<` + dir + `\) = 0` }
			answer := func(status string) string { return `write\(\d+<(socket|TCP).*"HTTP/1.1 ` + status }
			request := `read\(\d+<(socket|TCP).*"(PUT|DELETE) /new`

			var exchanges [][]string
			for rest := calls; ; {
				one := between(rest, request, `write\(\d+<(socket|TCP)`)
				if one == nil {
					break
				}
				exchanges = append(exchanges, one)
				for i := range rest {
					if &rest[i] == &one[len(one)-1] {
						rest = rest[i+1:]
						break
					}
				}
			}
			if len(exchanges) != 6 {
				t.Fatalf("%d exchanges in\n%s", len(exchanges), strings.Join(calls, "\n"))
			}
			root := q(dir + ">")
			inOrder(t, exchanges[0], file, link(dir+"/new-ns/name>"), fsync(name), fsync(ns), fsync(root), answer("201"))
			inOrder(t, exchanges[1], file, link(dir+"/new-ns/name>"), fsync(name), answer("201"))
			inOrder(t, exchanges[2], file, link(dir+"/new-ns/other>"), fsync(other), fsync(ns), answer("201"))
			inOrder(t, exchanges[3], file, replace, fsync(name), answer("200"))
			inOrder(t, exchanges[4], fsync(q(dir+"/new-ns/name/1.zip>")), fsync(name), answer("200"))
			inOrder(t, exchanges[5], `unlinkat\(\d+<`+name+`, "2.zip"`, fsync(name), answer("204"))
		})
	}
}

// A large download goes by sendfile, with the log's status and count right; an upload is written in whole buffers.
func TestSendfileAndBuffers(t *testing.T) {
	dir := t.TempDir()
	url, log, stop := traced(t, dir, "unnamed")
	const size = 1<<20 + 100
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "PUT /a/b/1.zip HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
	for sent := 0; sent < size; { // in odd pieces, as a network delivers them
		n := min(size-sent, 30_011)
		_, _ = conn.Write(make([]byte, n))
		sent += n
	}
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != http.StatusCreated {
		t.Fatal(response, err)
	}
	response, err := http.Get(url + "/a/b/1.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	n := 0
	for buffer := make([]byte, 100_000); ; {
		k, err := response.Body.Read(buffer)
		if n += k; err != nil {
			break
		}
	}
	if n != size {
		t.Fatalf("got %d bytes", n)
	}
	want := fmt.Sprintf(`"method":"GET","key":"a/b/1.zip","identity":"anyone","status":200,"bytes":%d,`, size)
	for i := 0; !strings.Contains(log.String(), want); i++ { // it is logged after it is sent
		if time.Sleep(10 * time.Millisecond); i > 1000 {
			t.Fatalf("logged:\n%s", log)
		}
	}
	calls := stop()
	inOrder(t, calls, fmt.Sprintf(`^fallocate\(.*, 0, 0, %d\) = 0`, size))
	var writes []int
	sent := 0
	for _, call := range calls {
		if m := regexp.MustCompile(`^write\(\d+<` + regexp.QuoteMeta(dir) + `.* = (\d+)$`).FindStringSubmatch(call); m != nil {
			k, _ := strconv.Atoi(m[1])
			writes = append(writes, k)
		}
		if m := regexp.MustCompile(`^sendfile\(.* = (\d+)$`).FindStringSubmatch(call); m != nil {
			k, _ := strconv.Atoi(m[1])
			sent += k
		}
	}
	if sent != size {
		t.Errorf("sendfile moved %d of %d bytes", sent, size)
	}
	if want := []int{1 << 18, 1 << 18, 1 << 18, 1 << 18, 100}; fmt.Sprint(writes) != fmt.Sprint(want) {
		t.Errorf("the upload was written in pieces of %v, want %v", writes, want)
	}
}
