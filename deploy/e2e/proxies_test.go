package e2e

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"depot/handlers/contract"
	"depot/store/s3test"
)

// proxy is nginx or Caddy with its configuration of deploy/ as it stands there, but for addresses.
type proxy struct {
	name, file string
	args       func(conf, dir string) []string

	dir string
	out *output
}

var proxies = []proxy{
	{name: "nginx", file: "nginx.conf", args: func(conf, dir string) []string {
		return []string{"nginx", "-p", dir, "-c", conf, "-g", "daemon off; pid " + dir + "/pid;"}
	}},
	{name: "caddy", file: "Caddyfile", args: func(conf, dir string) []string {
		return []string{"caddy", "run", "--config", conf, "--adapter", "caddyfile"}
	}},
}

// start runs it on an address, in front of one depot or two, until the test ends.
func (p *proxy) start(t *testing.T, address string, upstreams ...string) {
	t.Helper()
	p.dir, p.out = t.TempDir(), newOutput()
	text, err := os.ReadFile("../" + p.file)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	second := "        server depot-2:8080 max_fails=1 fail_timeout=5s;\n"
	replace := []string{"listen 8080;", "listen 127.0.0.1:" + port + ";", "\n:8080 {", "\nhttp://" + address + " {", "/dev/stdout", p.dir + "/access.log", "/dev/stderr", p.dir + "/error.log"}
	if len(upstreams) == 1 {
		replace = append(replace, second, "", "depot-1:8080 depot-2:8080", upstreams[0], "depot-1:8080", upstreams[0])
	} else {
		replace = append(replace, "depot-1:8080", upstreams[0], "depot-2:8080", upstreams[1])
	}
	conf := filepath.Join(p.dir, p.file)
	if err := os.WriteFile(conf, []byte(strings.NewReplacer(replace...).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	args := p.args(conf, p.dir)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = p.out, p.out, []string{"HOME=" + p.dir, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); <-ended })
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s does not start:\n%s", p.name, p.out)
		}
	}
}

// keepsSecrets fails unless everything it has logged has this path, and none of these texts.
func (p *proxy) keepsSecrets(t *testing.T, path string, secrets ...string) {
	t.Helper()
	access, _ := os.ReadFile(filepath.Join(p.dir, "access.log"))
	errorLog, _ := os.ReadFile(filepath.Join(p.dir, "error.log"))
	all := p.out.String() + string(access) + string(errorLog)
	if !strings.Contains(all, path) {
		t.Errorf("%s's log has no paths: %.2000s", p.name, all)
	}
	for _, secret := range secrets {
		if i := strings.Index(all, secret); i >= 0 {
			t.Errorf("%s's log has %s: %s", p.name, secret, all[max(0, i-500):min(len(all), i+300)])
		}
	}
}

// The contract through each proxy, a large upload, a range, a refusal that reaches a client in the middle of its upload, and no
// token in the log of any of them.
func TestProxies(t *testing.T) {
	for _, proxy := range proxies {
		t.Run(proxy.name, func(t *testing.T) {
			needs(t, proxy.name)
			t.Parallel()
			address := freeAddress(t)
			url := "http://" + address
			p := serve(t, t.TempDir(), []string{"DEPOT_UPLOAD_TOKEN=up-canary-5Kd2", "DEPOT_DOWNLOAD_TOKEN=down-canary-3Rf8", "DEPOT_UPLOAD_URL=" + url, "DEPOT_DOWNLOAD_URL_BASE=" + url, "DEPOT_TRUSTED_PROXIES=127.0.0.1", "DEPOT_MAX_SIZE=400MiB"})
			proxy.start(t, address, strings.TrimPrefix(p.url, "http://"))
			slow := trickle(t, address)
			contract.Run(t, contract.Endpoint{UploadURL: url, DownloadURLBase: url, UploadTokens: []string{"up-canary-5Kd2"}, DownloadAuth: "query_param", DownloadParam: "token", DownloadTokens: []string{"down-canary-3Rf8"}, Proxy: true})

			const size = 300 << 20
			hash := sha256.New()
			response, body := do(t, "PUT", url+"/big/one/1.0.0.zip", io.TeeReader(io.LimitReader(rand.Reader, size), hash), "Authorization", "Bearer up-canary-5Kd2")
			if response.StatusCode != 201 {
				t.Fatalf("300 MiB: %s %s", response.Status, body)
			}
			response, err := http.Get(url + "/big/one/1.0.0.zip?token=down-canary-3Rf8")
			if err != nil {
				t.Fatal(err)
			}
			got := sha256.New()
			if n, err := io.Copy(got, response.Body); err != nil || n != size || string(got.Sum(nil)) != string(hash.Sum(nil)) {
				t.Errorf("300 MiB back: %d bytes, %v", n, err)
			}
			_ = response.Body.Close()
			response, body = do(t, "GET", url+"/big/one/1.0.0.zip?token=down-canary-3Rf8", nil, "Range", "bytes=100000000-100000099")
			if response.StatusCode != 206 || len(body) != 100 {
				t.Errorf("a range: %s, %d bytes", response.Status, len(body))
			}
			// Refused by its length, its credentials, its type: while the client sends.
			for want, headers := range map[int][]string{413: {"Authorization", "Bearer up-canary-5Kd2"}, 401: {"Authorization", "Bearer no"}, 415: {"Authorization", "Bearer up-canary-5Kd2", "Content-Type", "multipart/form-data"}} {
				length := int64(size)
				if want == 413 {
					length = 401 << 20
				}
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				head := fmt.Sprintf("PUT /big/two/1.0.0.zip HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", address, length)
				for i := 0; i < len(headers); i += 2 {
					head += headers[i] + ": " + headers[i+1] + "\r\n"
				}
				written := make(chan struct{})
				go func() { // as AgentVerse does, which reads meanwhile
					defer close(written)
					_, _ = io.Copy(conn, io.MultiReader(strings.NewReader(head+"\r\n"), io.LimitReader(rand.Reader, length)))
				}()
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatalf("a refused upload, %d: %v", want, err)
				}
				_ = response.Body.Close()
				if response.StatusCode != want {
					t.Errorf("a refused upload: %s, want %d", response.Status, want)
				}
				_ = conn.Close()
				<-written
			}
			if got := <-slow; got != "" && !strings.HasPrefix(got, "HTTP/1.1 201 ") {
				t.Errorf("an upload that takes longer than a minute is answered %.200q", got)
			}
			// The client's address, past the proxy: it comes from another one of this machine.
			from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
			if response, err = (&http.Client{Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}).Get(url + "/who/is/1.zip?token=down-canary-3Rf8"); err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			p.awaitOutput(t, p.stderr, func(text string) bool { return strings.Contains(text, `"key":"who/is/1.zip"`) })
			for line := range strings.Lines(p.stderr.String()) {
				if strings.Contains(line, `"key":"who/is/1.zip"`) && !strings.Contains(line, `"client":"127.0.0.2"`) {
					t.Errorf("the client of a request through the proxy: %s", line)
				}
			}
			proxy.keepsSecrets(t, "/big/one/1.0.0.zip", "canary", "Authorization")
		})
	}
}

// Two replicas behind each proxy, one of which is killed: the other one has it all then. The addresses in the bucket
// that clients are sent to stay out of the logs.
func TestProxyReplicas(t *testing.T) {
	for _, proxy := range proxies {
		t.Run(proxy.name, func(t *testing.T) {
			needs(t, proxy.name)
			server := s3test.Versitygw.Start(t)
			address := freeAddress(t)
			env := append(append(onBucket(t, server), given...), "DEPOT_S3_REDIRECT=true", "DEPOT_UPLOAD_URL=http://"+address, "DEPOT_DOWNLOAD_URL_BASE=http://"+address)
			var replicas []*process
			var upstreams []string
			for range 2 {
				p := serve(t, t.TempDir(), env)
				replicas, upstreams = append(replicas, p), append(upstreams, strings.TrimPrefix(p.url, "http://"))
			}
			proxy.start(t, address, upstreams...)
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			const each = 40
			uploads := func(n int) {
				t.Helper()
				for i := range each {
					url := fmt.Sprintf("http://%s/round/n%d/%d.zip", address, n, i)
					if response, text := do(t, "PUT", url, strings.NewReader("hello"), "Authorization", "Bearer up"); response.StatusCode != 201 {
						t.Errorf("round %d, upload %d: %s %s", n, i, response.Status, text)
					}
				}
			}
			downloads := func(n int) {
				t.Helper()
				for i := range each {
					response, err := client.Get(fmt.Sprintf("http://%s/round/n%d/%d.zip?token=down", address, n, i))
					if err != nil {
						t.Fatal(err)
					}
					_ = response.Body.Close()
					if target := response.Header.Get("Location"); response.StatusCode != 307 || !strings.Contains(target, "X-Amz-Signature=") {
						t.Errorf("round %d, download %d: %s %s", n, i, response.Status, target)
					}
				}
			}
			uploads(1)
			downloads(1)
			for i, p := range replicas {
				if share := strings.Count(p.stderr.String(), `"key":"round/n1/`); share < each/2 {
					t.Errorf("of %d requests replica %d had %d", 2*each, i, share)
				}
			}
			if err := replicas[0].cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-replicas[0].ended
			downloads(1)
			for n, passed := 0, 0; proxy.name == "caddy" && passed < 4; n++ { // see its file
				time.Sleep(100 * time.Millisecond)
				switch response, _ := do(t, "PUT", fmt.Sprintf("http://%s/round/n0/%d.zip", address, n), strings.NewReader("hello"), "Authorization", "Bearer up"); {
				case response.StatusCode == 201:
					passed++
				case response.StatusCode == 502 && n < 100:
					passed = 0
				default:
					t.Fatal(response.Status)
				}
			}
			uploads(2)
			downloads(2)
			proxy.keepsSecrets(t, "/round/n2/", "X-Amz", "token=", "Bearer")
		})
	}
}

// trickle uploads for longer than a minute, in CI, and sends what it is answered; "" elsewhere.
func trickle(t *testing.T, address string) <-chan string {
	t.Helper()
	answer := make(chan string, 1)
	if os.Getenv("CI") == "" {
		answer <- ""
		return answer
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
	const pieces, piece = 66, 8 << 10 // one a second
	go func() {
		_, _ = fmt.Fprintf(conn, "PUT /slow/one/1.0.0.zip HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer up-canary-5Kd2\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", address, pieces*piece)
		for range pieces {
			if _, err := conn.Write(make([]byte, piece)); err != nil {
				break // the answer says why
			}
			time.Sleep(time.Second)
		}
		all, err := io.ReadAll(conn)
		if len(all) == 0 {
			all = fmt.Append(nil, "nothing: ", err)
		}
		answer <- string(all)
	}()
	return answer
}

// Without trusted proxies nobody's header says where a request comes from; with some, only what those added.
func TestClientAddress(t *testing.T) {
	for _, test := range []struct {
		trusted string
		header  []string
		want    string
	}{
		{"", []string{"198.51.100.7"}, "127.0.0.1"},
		{"192.0.2.0/24", []string{"198.51.100.7"}, "127.0.0.1"},
		{"127.0.0.0/8", []string{"198.51.100.7"}, "198.51.100.7"},
		{"127.0.0.1, 10.0.0.0/8", []string{"203.0.113.9, 198.51.100.7, 10.1.2.3"}, "198.51.100.7"},
		{"127.0.0.1", []string{"203.0.113.9", "198.51.100.7"}, "198.51.100.7"},
		{"127.0.0.1", []string{"nonsense token=canary"}, "127.0.0.1"},
		{"127.0.0.1", []string{"203.0.113.9, nonsense"}, "127.0.0.1"},
		{"127.0.0.1,2001:db8::/32", []string{"2001:db9::1, 2001:db8::1"}, "2001:db9::1"},
		{"127.0.0.1", nil, "127.0.0.1"},
	} {
		env := append([]string{}, given...)
		if test.trusted != "" {
			env = append(env, "DEPOT_TRUSTED_PROXIES="+test.trusted)
		}
		p := serve(t, t.TempDir(), env)
		var headers []string
		for _, value := range test.header {
			headers = append(headers, "X-Forwarded-For", value)
		}
		do(t, "GET", p.url+"/who/is/1.zip?token=down", nil, headers...)
		p.awaitOutput(t, p.stderr, func(text string) bool { return strings.Contains(text, `"key":"who/is/1.zip"`) })
		if log := p.stderr.String(); !strings.Contains(log, `"client":"`+test.want+`"`) || strings.Contains(log, "canary") {
			t.Errorf("%q, %v: not %s in\n%s", test.trusted, test.header, test.want, log)
		}
	}
	if _, stderr, status := run(t, t.TempDir(), append([]string{"DEPOT_TRUSTED_PROXIES=10.0.0.0/33"}, given...)); status != 2 || !strings.Contains(stderr, "DEPOT_TRUSTED_PROXIES: give addresses or networks") {
		t.Errorf("a network that is none: %d %s", status, stderr)
	}
}
