package handlers_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"depot/store"
)

// metrics are the server's own, by name and labels, as they are written, but for durations.
func (s *server) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	s.admin.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("/metrics: %d %s", w.Code, w.Body)
	}
	all := map[string]float64{}
	for line := range strings.Lines(w.Body.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if short, ours := strings.CutPrefix(name, "depot_"); ours && !strings.Contains(name, "duration") {
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			all[short] = number
		}
	}
	return all
}

// awaitMetrics waits until the metrics that are not 0 are these; of the bytes sent only where they are among them.
func (s *server) awaitMetrics(t *testing.T, want map[string]float64) {
	t.Helper()
	var got map[string]float64
	for i := 0; ; i++ {
		got = s.metrics(t)
		maps.DeleteFunc(got, func(name string, value float64) bool {
			for _, other := range []string{"build_info", "reload_", "store_up"} {
				if strings.HasPrefix(name, other) {
					return true
				}
			}
			_, wanted := want[name]
			return !wanted && (value == 0 || name == bytesSent)
		})
		if maps.Equal(got, want) {
			return
		}
		if i == 10_000 {
			t.Fatalf("the metrics are\n%v\nwant\n%v\nlogged:\n%s", got, want, s.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

const (
	bytesSent = `bytes_total{direction="sent"}`

	putHead = "PUT /" + key + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + uploadToken + "\r\nContent-Length: 1000000\r\n\r\n"
	getHead = "GET /" + key + "?token=" + downloadToken + " HTTP/1.1\r\nHost: x\r\n\r\n"
)

// However a request ends, it is counted as what it was, and what is under way is nothing in the end.
func TestMetrics(t *testing.T) {
	artifact := func(method, status string) string {
		return `requests_total{method="` + method + `",route="artifact",status="` + status + `"}`
	}
	send := func(t *testing.T, s *server, text string) io.Closer {
		conn := s.dial(t)
		_ = conn.SetReadBuffer(64 << 10)
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	t.Run("panic", func(t *testing.T) {
		s := start(t, withStore(&faulty{panic: "at the disco", check: func(context.Context) error { return nil }}))
		s.put(t, key, "hello")
		s.awaitMetrics(t, map[string]float64{artifact("PUT", "500"): 1, `uploads_total{outcome="failed"}`: 1, `refusals_total{reason="failed"}`: 1,
			`store_errors_total{kind="failed"}`: 1, `bytes_total{direction="received"}`: 5})
	})
	t.Run("stalled and aborted", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, on func(*options)) {
			s := start(t, on, impatience)
			r := bufio.NewReader(send(t, s, putHead+"hello").(io.Reader))
			if response, err := http.ReadResponse(r, nil); err != nil || response.StatusCode != 408 {
				t.Fatal(response, err)
			}
			s.awaitMetrics(t, map[string]float64{artifact("PUT", "408"): 1, `uploads_total{outcome="refused"}`: 1, `refusals_total{reason="stalled"}`: 1,
				`bytes_total{direction="received"}`: 5})

			s = start(t, on)
			conn := send(t, s, putHead+"hello")
			s.awaitMetrics(t, map[string]float64{"requests_in_flight": 1, "staging_uploads": 1, "staging_bytes": 5})
			_ = conn.Close()
			s.awaitMetrics(t, map[string]float64{artifact("PUT", "400"): 1, `uploads_total{outcome="refused"}`: 1, `refusals_total{reason="cut_short"}`: 1,
				`bytes_total{direction="received"}`: 5})
		})
	})
	t.Run("the client leaves", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, on func(*options)) {
			s := start(t, on)
			const size = 24 << 20
			s.put(t, key, strings.Repeat("x", size))
			conn := send(t, s, getHead)
			_, _ = conn.(io.Reader).Read(make([]byte, 1000))
			_ = conn.Close()
			refused := func() (reasons []string) {
				for name, value := range s.metrics(t) {
					if strings.HasPrefix(name, "refusals") && value != 0 {
						reasons = append(reasons, name)
					}
				}
				return reasons
			}
			for len(refused()) == 0 { // go test's timeout ends a server that does not notice
				time.Sleep(5 * time.Millisecond)
			}
			// A bucket's reader may be told first that nobody waits any more. Either way it is no error of the storage.
			if reasons := refused(); len(reasons) != 1 || reasons[0] != `refusals_total{reason="broken_off"}` && reasons[0] != `refusals_total{reason="cut_short"}` {
				t.Errorf("counted: %v\n%s", reasons, s.log)
			}
			if sent := s.metrics(t)[bytesSent]; sent >= size || sent == 0 {
				t.Errorf("%v bytes were sent", sent)
			}
		})
	})
	for kind, err := range map[string]error{"timeout": store.ErrTimeout, "untrusted": store.ErrUntrusted, "failed": errors.New("a broken disk")} {
		t.Run("unreadable "+kind, func(t *testing.T) {
			k, _ := store.ParseKey(key)
			for _, size := range []int{10_000, 200_000} { // see writeSmall
				s := start(t, withStore(&faulty{open: func() (store.Object, error) {
					content := bytes.NewReader(make([]byte, size))
					return store.Object{Info: store.Info{Key: k, Size: int64(size)}, ReadSeekCloser: breaking{content, size / 2, err}}, nil
				}}))
				response, getErr := http.Get(s.url + "/" + key + "?token=" + downloadToken)
				if getErr == nil {
					_, getErr = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
				if getErr == nil {
					t.Error("it ends cleanly")
				}
				reason := "store_" + kind
				if kind == "failed" {
					reason = kind
				}
				s.awaitMetrics(t, map[string]float64{artifact("GET", "200"): 1, `refusals_total{reason="` + reason + `"}`: 1,
					`store_errors_total{kind="` + kind + `"}`: 1, bytesSent: float64(size / 2)})
			}
		})
	}
	t.Run("HEAD", func(t *testing.T) {
		s := start(t)
		s.do(t, "HEAD", s.url+"/"+key, nil)
		s.do(t, "HEAD", s.url+"/healthz", nil)
		s.awaitMetrics(t, map[string]float64{artifact("HEAD", "401"): 1, `requests_total{method="HEAD",route="/healthz",status="200"}`: 1, `refusals_total{reason="no_credentials"}`: 1, bytesSent: 0})
	})
	t.Run("a store that hangs", func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		s := start(t, withStore(&faulty{check: func(context.Context) error { <-release; return nil }}))
		if up, there := s.metrics(t)["store_up"]; !there || up != 0 {
			t.Errorf("store_up is %v, there: %v", up, there)
		}
	})
}

// breaking is an artifact that can be read up to a point.
type breaking struct {
	*bytes.Reader
	readable int
	err      error
}

func (breaking) Close() error { return nil }

func (b breaking) Read(p []byte) (int, error) {
	left := b.readable - (int(b.Size()) - b.Len())
	if left <= 0 {
		return 0, b.err
	}
	return b.Reader.Read(p[:min(len(p), left)])
}
