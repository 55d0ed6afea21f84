package handlers_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"depot/auth"
	"depot/handlers"
	"depot/store"
)

// refusals are requests that are refused before their body, with the header fields that make them so. Each is for a key
// that holds "hello".
var refusals = []struct {
	name    string
	status  int
	headers []string
}{
	{"bad credentials", 401, []string{"Authorization", "Bearer wrong"}},
	{"wrong type", 415, []string{"Authorization", "Bearer " + uploadToken, "Content-Type", "multipart/form-data"}},
	{"precondition", 412, []string{"Authorization", "Bearer " + uploadToken, "If-None-Match", "*"}},
	{"too large", 413, []string{"Authorization", "Bearer " + uploadToken}}, // declared, or found out while reading
	{"conflict", 409, []string{"Authorization", "Bearer " + uploadToken}},
}

const hundred = 100 << 20

// Refusals reach every kind of client over HTTP/1.1. A hang fails the test by its deadline.
func TestRefusalsArrive(t *testing.T) { onEachBackend(t, testRefusalsArrive) }

func testRefusalsArrive(t *testing.T, on func(*options)) {
	for _, refusal := range refusals {
		s := start(t, on, func(o *options) { o.handlers.MaxSize = limit(refusal.status) })
		s.put(t, key, "hello")
		for name, client := range map[string]func(t *testing.T, conn net.Conn, send func(fields string)){
			"declares a body and sends nothing": func(_ *testing.T, _ net.Conn, send func(string)) {
				send(fmt.Sprintf("Content-Length: %d\r\n", declared(refusal.status)))
			},
			"sends chunks slowly": func(_ *testing.T, conn net.Conn, send func(string)) {
				send("Transfer-Encoding: chunked\r\n")
				go func() {
					for range 20 {
						if _, err := io.WriteString(conn, "1\r\nx\r\n"); err != nil {
							return // it was refused
						}
						time.Sleep(10 * time.Millisecond)
					}
					if refusal.status == http.StatusRequestEntityTooLarge {
						_, _ = fmt.Fprintf(conn, "%x\r\n%s", 11<<20, make([]byte, 11<<20))
					}
					_, _ = io.WriteString(conn, "0\r\n\r\n")
				}()
			},
			"writes 100 MiB before it reads": func(t *testing.T, conn net.Conn, send func(string)) {
				send(fmt.Sprintf("Content-Length: %d\r\n", hundred))
				if _, err := conn.Write(make([]byte, hundred)); err != nil {
					t.Errorf("the body could not be written: %v", err)
				}
			},
			"expects 100-continue": func(_ *testing.T, _ net.Conn, send func(string)) {
				send(fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n", declared(refusal.status)))
			},
		} {
			t.Run(refusal.name+", "+name, func(t *testing.T) {
				t.Parallel()
				conn := s.dial(t)
				client(t, conn, func(fields string) {
					request := "PUT /" + key + " HTTP/1.1\r\nHost: x\r\n" + fields
					for i := 0; i < len(refusal.headers); i += 2 {
						request += refusal.headers[i] + ": " + refusal.headers[i+1] + "\r\n"
					}
					_, _ = io.WriteString(conn, request+"\r\n")
				})
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || response.StatusCode != refusal.status {
					t.Fatalf("%v, %v; want %d", response, err, refusal.status)
				}
				if body, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(body), `"detail"`) {
					t.Errorf("the body is %q, %v", body, err)
				}
			})
		}
	}
}

// limit is small where it is what refuses.
func limit(status int) int64 {
	if status == http.StatusRequestEntityTooLarge {
		return 10 << 20
	}
	return 2 * hundred
}

// declared is a length that is refused with this status.
func declared(status int) int {
	if status == http.StatusRequestEntityTooLarge {
		return 11 << 20
	}
	return 6
}

// The same over HTTP/2.
func TestRefusalsArriveOverHTTP2(t *testing.T) { onEachBackend(t, testRefusalsArriveOverHTTP2) }

func testRefusalsArriveOverHTTP2(t *testing.T, on func(*options)) {
	send := func(t *testing.T, server *httptest.Server, headers []string, length int64, body io.Reader) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+"/"+key, body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = length
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		response, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); response.ProtoMajor != 2 || err != nil || len(body) == 0 {
			t.Errorf("%s, %d bytes, %v", response.Proto, len(body), err)
		}
		return response.StatusCode
	}
	for _, refusal := range refusals {
		server := http2Server(t, on, limit(refusal.status))
		if status := send(t, server, refusals[1].headers[:2], 5, strings.NewReader("hello")); status != http.StatusCreated {
			t.Fatal(status)
		}
		for name, client := range map[string]func() (int64, io.Reader, []string){
			"declares a body and sends nothing": func() (int64, io.Reader, []string) {
				return int64(declared(refusal.status)), blocked(t), nil
			},
			"writes 100 MiB": func() (int64, io.Reader, []string) {
				return hundred, io.LimitReader(zeros{}, hundred), nil
			},
			"sends pieces without a length": func() (int64, io.Reader, []string) {
				size := int64(20)
				if refusal.status == http.StatusRequestEntityTooLarge {
					size = 11 << 20
				}
				return -1, io.LimitReader(zeros{}, size), nil
			},
			"expects 100-continue": func() (int64, io.Reader, []string) {
				return int64(declared(refusal.status)), blocked(t), []string{"Expect", "100-continue"}
			},
		} {
			t.Run(refusal.name+", "+name, func(t *testing.T) {
				length, body, more := client()
				if status := send(t, server, append(more, refusal.headers...), length, body); status != refusal.status {
					t.Errorf("%d, want %d", status, refusal.status)
				}
			})
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func http2Server(t *testing.T, on func(*options), limit int64) *httptest.Server {
	t.Helper()
	var o options
	if on(&o); o.handlers.Store == nil {
		disk, err := store.OpenDisk(store.DiskConfig{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = disk.Close() })
		o.handlers.Store = disk
	}
	a, err := auth.New(auth.Config{UploadAuth: auth.Bearer, UploadToken: []string{uploadToken}, DownloadAuth: auth.None})
	if err != nil {
		t.Fatal(err)
	}
	h, err := handlers.New(handlers.Config{Store: o.handlers.Store, Auth: a, Log: jsonLog(io.Discard), UploadURL: "https://x", DownloadURLBase: "https://x", MaxSize: limit, Patience: 2 * impatient})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// Over TLS there is no sendfile; a slow reader still gets its artifact, and what it gets is right.
func TestTLSDownload(t *testing.T) { onEachBackend(t, testTLSDownload) }

func testTLSDownload(t *testing.T, on func(*options)) {
	server := http2Server(t, on, 32<<20)
	const size = 9<<20 + 7
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+"/"+key, io.LimitReader(zeros{}, size))
	r.ContentLength = size
	r.Header.Set("Authorization", "Bearer "+uploadToken)
	response, err := server.Client().Do(r)
	if err != nil || response.StatusCode != http.StatusCreated {
		t.Fatal(response, err)
	}
	_ = response.Body.Close()
	conf := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.NextProtos = nil // HTTP/1.1
	conn, err := tls.Dial("tcp", server.Listener.Addr().String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /"+key+" HTTP/1.1\r\nHost: x\r\n\r\n")
	if response, err = http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		t.Fatal(err)
	}
	got, buffer := int64(0), make([]byte, 1<<20)
	for err == nil {
		var n int
		n, err = io.ReadFull(response.Body, buffer)
		got += int64(n)
		time.Sleep(impatient / 3)
	}
	if got != size {
		t.Errorf("%d bytes, %v", got, err)
	}
}

// 500 stalled connections of each kind do not disturb an honest client, and those that hold a deadline's worth of
// nothing are freed.
func TestStalledCrowd(t *testing.T) { onEachBackend(t, testStalledCrowd) }

func testStalledCrowd(t *testing.T, on func(*options)) {
	const crowd = 500
	s := start(t, on, func(o *options) { o.handlers.Patience, o.drain = 2*time.Second, time.Minute })
	large := strings.Repeat("x", 8<<20)
	s.put(t, "ns/large/1.zip", large)
	auth := "Authorization: Bearer " + uploadToken + "\r\n"
	kinds := map[string]string{
		"silent":           "",
		"half a header":    "PUT /" + key + " HTTP/1.1\r\nHo",
		"half a body":      "PUT /stalled/body/1.zip HTTP/1.1\r\nHost: x\r\n" + auth + "Content-Length: 100000\r\n\r\nhello",
		"half a chunk":     "PUT /stalled/chunk/1.zip HTTP/1.1\r\nHost: x\r\n" + auth + "Transfer-Encoding: chunked\r\n\r\nff\r\nhello",
		"refused":          "PUT /" + key + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
		"does not read":    "GET /ns/large/1.zip?token=" + downloadToken + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"between requests": "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	}
	open := map[string][]net.Conn{}
	for kind, request := range kinds {
		for range crowd {
			conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
			if kind == "does not read" {
				_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			}
			_, _ = io.WriteString(conn, request)
			open[kind] = append(open[kind], conn)
		}
		for i := range 5 { // the honest client
			k := fmt.Sprintf("honest/client/%s-%d.zip", strings.ReplaceAll(kind, " ", "-"), i)
			if response, body := s.put(t, k, "hello"); response.StatusCode != http.StatusCreated {
				t.Errorf("among %s: %s %s", kind, response.Status, body)
			}
			if response, body := s.get(t, k); response.StatusCode != http.StatusOK || body != "hello" {
				t.Errorf("among %s: %s %s", kind, response.Status, body)
			}
		}
	}
	var done sync.WaitGroup
	for kind, conns := range open {
		if kind == "between requests" || kind == "does not read" {
			continue // the first are welcome for two minutes, the others are seen in the log
		}
		for _, conn := range conns {
			done.Go(func() {
				got, err := io.ReadAll(conn)
				status := map[string]string{"half a body": "408", "half a chunk": "408", "refused": "401"}[kind]
				if status != "" && !strings.HasPrefix(string(got), "HTTP/1.1 "+status) {
					t.Errorf("%s: got %.60q, %v", kind, got, err)
				}
				if err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			})
		}
	}
	done.Wait()
	for strings.Count(s.log.String(), "broke off") < crowd { // the go test timeout ends a server that never gives up
		time.Sleep(100 * time.Millisecond)
	}
	if response, body := s.get(t, "stalled/body/1.zip"); response.StatusCode != http.StatusNotFound {
		t.Errorf("a stalled upload: %s %s", response.Status, body)
	}
}
