package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"depot/store/s3test"
)

// operation is what one client did last to a key of its own, and what it was told.
type operation struct {
	key          string
	before, want []byte // content before and after; nil: absent
	acknowledged bool
}

// Killed at random moments of 300 uploads, replacements and deletes: what was acknowledged is there, unchanged; what was
// not is as it was before or as it would have been after, and nothing in between; the next start leaves no staged file.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	t.Run("disk", func(t *testing.T) { testKill(t, dir, nil, filepath.Join(dir, "depot-data", ".depot")) })
	t.Run("bucket", func(t *testing.T) {
		env := onBucket(t, s3test.Versitygw.Start(t))
		testKill(t, t.TempDir(), env, stagingDir(env))
	})
}

func testKill(t *testing.T, dir string, env []string, staging string) {
	env = append(append([]string{"DEPOT_OVERWRITE=true"}, given...), env...)
	const clients, operations, kills = 8, 300, 20
	state := map[string][]byte{} // what is acknowledged
	var mu sync.Mutex
	done := 0
	for round := 0; done < operations || round < kills; round++ {
		p := serve(t, dir, env)
		check(t, p, state)
		var group sync.WaitGroup
		var last []operation
		for c := range clients {
			group.Go(func() {
				client := &http.Client{Transport: &http.Transport{}}
				defer client.CloseIdleConnections()
				random := rand.New(rand.NewPCG(uint64(round), uint64(c)))
				for {
					op := operation{key: fmt.Sprintf("kill/client-%d/%d.zip", c, random.IntN(6))}
					mu.Lock()
					op.before = state[op.key]
					done++
					mu.Unlock()
					method := http.MethodPut
					if op.before != nil && random.IntN(3) == 0 {
						method = http.MethodDelete
					} else {
						op.want = make([]byte, 1+random.IntN(1<<random.IntN(22)))
						for i := range op.want {
							op.want[i] = byte(random.Uint32())
						}
					}
					r, _ := http.NewRequest(method, p.url+"/"+op.key, bytes.NewReader(op.want))
					r.Header.Set("Authorization", "Bearer up")
					response, err := client.Do(r)
					if err == nil {
						_ = response.Body.Close()
						op.acknowledged = response.StatusCode/100 == 2
						if !op.acknowledged {
							t.Errorf("%s %s: %s", method, op.key, response.Status)
						}
					}
					mu.Lock()
					if op.acknowledged {
						state[op.key] = op.want
					} else {
						last = append(last, op)
					}
					mu.Unlock()
					if !op.acknowledged {
						return // the server is dead
					}
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond) // the moment; nothing is asserted about it
		_ = p.cmd.Process.Kill()
		<-p.ended
		group.Wait()
		time.Sleep(200 * time.Millisecond) // for the bucket to finish what it had received

		// What was in flight at the kill is one or the other: ask the next server which.
		p = serve(t, dir, env)
		if staged := files(t, staging); len(staged) != 0 {
			t.Errorf("after the next start there is %v", staged)
		}
		for _, op := range last {
			status, got := fetch(t, p, op.key)
			switch {
			case status == http.StatusOK && bytes.Equal(got, op.before) && op.before != nil, status == http.StatusNotFound && op.before == nil:
				state[op.key] = op.before
			case status == http.StatusOK && bytes.Equal(got, op.want) && op.want != nil, status == http.StatusNotFound && op.want == nil:
				state[op.key] = op.want
			default:
				t.Errorf("%s was cut off and is now %d with %d bytes; it had %d, and was to have %d", op.key, status, len(got), len(op.before), len(op.want))
			}
		}
		check(t, p, state)
		if status := p.stop(t); status != 0 {
			t.Errorf("exit status %d", status)
		}
	}
	t.Logf("kill: %d operations by %d clients", done, clients)
}

// check compares every key with what was acknowledged.
func check(t *testing.T, p *process, state map[string][]byte) {
	t.Helper()
	for key, want := range state {
		status, got := fetch(t, p, key)
		if want == nil && status != http.StatusNotFound || want != nil && (status != http.StatusOK || !bytes.Equal(got, want)) {
			t.Errorf("%s was acknowledged with %d bytes (%x) and is %d with %d bytes", key, len(want), sha256.Sum256(want), status, len(got))
		}
	}
}

func fetch(t *testing.T, p *process, key string) (int, []byte) {
	t.Helper()
	response, body := do(t, http.MethodGet, p.url+"/"+key+"?token=down", nil)
	return response.StatusCode, body
}

// A thousand uploads that their clients abort at a random byte, by an end or by a reset, leave no file at all.
func TestAborts(t *testing.T) {
	p := serve(t, t.TempDir(), given)
	work, done := make(chan int), sync.WaitGroup{}
	for range 8 {
		done.Go(func() {
			for i := range work {
				abort(t, p, i)
			}
		})
	}
	for i := range 1000 {
		work <- i
	}
	close(work)
	done.Wait()
	if status := p.stop(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if left := files(t, filepath.Join(p.dir, "depot-data")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if log := p.stderr.String(); strings.Contains(log, `"status":5`) || strings.Contains(log, `"status":201`) {
		t.Errorf("logged:\n%.2000s", log)
	}
}

func abort(t *testing.T, p *process, i int) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	const size = 300_000
	request := fmt.Sprintf("PUT /a/bort/%d.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer up\r\nContent-Length: %d\r\n\r\n", i%10, size)
	if i%3 == 0 {
		request = fmt.Sprintf("PUT /a/bort/%d.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer up\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", i%10, size)
	}
	whole := append([]byte(request), make([]byte, size)...)
	if _, err := conn.Write(whole[:rand.IntN(len(whole))]); err != nil {
		t.Error(err)
	}
	if i%2 == 0 {
		_ = conn.(*net.TCPConn).SetLinger(0) // Close resets the connection
		return
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	_, _ = io.Copy(io.Discard, conn)
}

// Memory does not grow with the size of an artifact: 20 uploads and 20 downloads of 256 MiB at once. It reports what
// they cost at each run.
func TestMemory(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no /proc, and CI must have it")
		}
		t.Skip("there is no /proc: this is tested in CI")
	}
	t.Run("disk", func(t *testing.T) { testMemory(t, given) })
	t.Run("bucket", func(t *testing.T) { testMemory(t, append(onBucket(t, s3test.Versitygw.Start(t)), given...)) })
}

func testMemory(t *testing.T, env []string) {
	const size, count, most = 256 << 20, 20, 64 << 10 // most in KiB
	p := serve(t, t.TempDir(), env)
	for _, step := range []struct {
		name string
		run  func(i int) error
	}{
		{"uploads", func(i int) error {
			r, _ := http.NewRequest(http.MethodPut, fmt.Sprintf("%s/mem/ory/%d.zip", p.url, i), io.LimitReader(endless(i), size))
			r.ContentLength = size
			r.Header.Set("Authorization", "Bearer up")
			return expect(r, http.StatusCreated, -1)
		}},
		{"downloads", func(i int) error {
			r, _ := http.NewRequest(http.MethodGet, fmt.Sprintf("%s/mem/ory/%d.zip?token=down", p.url, i), nil)
			return expect(r, http.StatusOK, size)
		}},
	} {
		idle := p.procStatus(t, "VmRSS")
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0); err != nil {
			t.Fatal(err) // resets VmHWM
		}
		before, start := p.cpu(t), time.Now()
		var done sync.WaitGroup
		for i := range count {
			done.Go(func() {
				if err := step.run(i); err != nil {
					t.Errorf("%s: %v", step.name, err)
				}
			})
		}
		done.Wait()
		peak := p.procStatus(t, "VmHWM")
		t.Logf("memory, %s: %d %s of %d MiB at once: %d MiB over %d MiB idle, %.2f CPU s per GB, %.0f MB/s", path.Base(t.Name()), count, step.name, size>>20,
			(peak-idle)>>10, idle>>10, (p.cpu(t)-before)/(count*size/1e9), count*size/1e6/time.Since(start).Seconds())
		if peak-idle > most {
			t.Errorf("%s: %d KiB over idle", step.name, peak-idle)
		}
	}
}

// endless is a stream of bytes, another for each number.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func expect(r *http.Request, status int, size int64) error {
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	if err != nil || response.StatusCode != status || size >= 0 && n != size {
		return fmt.Errorf("%s, %d bytes, %v", response.Status, n, err)
	}
	return nil
}

// procStatus is a value of /proc/<pid>/status, in KiB.
func (p *process) procStatus(t *testing.T, name string) (value int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), name+":")
	if _, err := fmt.Sscan(rest, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// cpu is the processor time the server has used, in seconds.
func (p *process) cpu(t testing.TB) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var user, system float64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return (user + system) / 100 // USER_HZ
}
