package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"depot/handlers/contract"
)

// secretDir is a directory that changes the way Kubernetes changes a mounted secret: files are links through ..data, and
// another directory takes its place at once.
type secretDir struct {
	path  string
	swaps int
}

func (d *secretDir) write(t *testing.T, files map[string]string) {
	t.Helper()
	d.swaps++
	version := fmt.Sprintf("..%d", d.swaps)
	if err := os.MkdirAll(filepath.Join(d.path, version), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(d.path, version, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(d.path, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	fresh := filepath.Join(d.path, "..data_tmp")
	if err := os.Symlink(version, fresh); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, filepath.Join(d.path, "..data")); err != nil {
		t.Fatal(err)
	}
}

// load sends uploads with a token, one after the other, and notes what it is answered whenever that changes.
type load struct {
	mu      sync.Mutex
	answers []string
	more    chan struct{}
}

func (l *load) history() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.answers)
}

func (l *load) note(answer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.answers); n == 0 || l.answers[n-1] != answer {
		l.answers = append(l.answers, answer)
		select {
		case l.more <- struct{}{}:
		default:
		}
	}
}

// await waits until the last answer is this.
func (l *load) await(t *testing.T, p *process, answer string) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		if h := l.history(); len(h) > 0 && h[len(h)-1] == answer {
			return
		}
		select {
		case <-l.more:
		case <-limit:
			t.Fatalf("answers were %v, and %s does not come:\n%s", l.history(), answer, p.stderr)
		}
	}
}

// loads runs one load for each token until the test ends or stop is called.
func loads(t *testing.T, p *process, client *http.Client, tokens ...string) (map[string]*load, func()) {
	t.Helper()
	all, done := map[string]*load{}, make(chan struct{})
	var running sync.WaitGroup
	for _, token := range tokens {
		l := &load{more: make(chan struct{}, 1)}
		all[token] = l
		key := fmt.Sprintf("/team-a/load/%x.zip", sha256.Sum256([]byte(token)))[:60] + ".zip"
		running.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(5 * time.Millisecond): // a process's log is read as a whole, again and again
				}
				r, err := http.NewRequest("PUT", p.url+key, strings.NewReader("hello"))
				if err != nil {
					panic(err)
				}
				r.Header.Set("Authorization", "Bearer "+token)
				response, err := client.Do(r)
				if err != nil {
					l.note(err.Error())
					continue
				}
				_ = response.Body.Close()
				if answer := fmt.Sprint(response.StatusCode); answer == "201" {
					l.note("200") // the first of them
				} else {
					l.note(answer)
				}
			}
		})
	}
	stop := sync.OnceFunc(func() {
		close(done)
		running.Wait()
	})
	t.Cleanup(stop)
	return all, stop
}

func tokenEntry(name string) string {
	return fmt.Sprintf("[[token]]\nname = %q\nsha256 = \"%x\"\nallow = [\"upload\"]\nnamespaces = [\"team-*\"]\n", name, sha256.Sum256([]byte("secret-"+name)))
}

// Adding, rotating and revoking, while requests come in: each token's answers change once, and there is no other answer.
func TestReloadUnderLoad(t *testing.T) {
	dir := t.TempDir()
	secrets := &secretDir{path: filepath.Join(dir, "secrets")}
	key := func(name string) (public, token string) {
		t.Helper()
		if _, stderr, status := run(t, dir, nil, "token", "keygen", "--out", name, "--alg", "EdDSA"); status != 0 {
			t.Fatal(stderr)
		}
		content, err := os.ReadFile(filepath.Join(dir, name+".pub.pem"))
		if err != nil {
			t.Fatal(err)
		}
		jwt, stderr, status := run(t, dir, nil, "token", "jwt", "--key", name+".pem", "--name", name, "--ttl", "1h", "--allow", "upload")
		if status != 0 {
			t.Fatal(stderr)
		}
		return string(content), strings.TrimSpace(jwt)
	}
	firstKey, firstJWT := key("first")
	secondKey, secondJWT := key("second")
	issuer := "[[issuer]]\nissuer = \"depot\"\naudience = \"depot\"\nkey_file = \"key.pem\"\nallow = [\"upload\"]\nnamespaces = [\"team-a\"]\n"
	files := map[string]string{"access.toml": tokenEntry("always") + tokenEntry("old") + issuer, "key.pem": firstKey, "upload-token": "setting-1\n"}
	secrets.write(t, files)
	p := serve(t, dir, []string{"DEPOT_ACCESS_FILE=secrets/access.toml", "DEPOT_UPLOAD_TOKEN_FILE=secrets/upload-token"})
	all, stop := loads(t, p, http.DefaultClient, "secret-always", "secret-old", "secret-new", "setting-1", "setting-2", firstJWT, secondJWT)
	await := func(token, answer string) { t.Helper(); all[token].await(t, p, answer) }
	for _, token := range []string{"secret-always", "secret-old", "setting-1", firstJWT} {
		await(token, "200")
	}
	for _, token := range []string{"secret-new", "setting-2", secondJWT} {
		await(token, "401")
	}

	// Added: the new ones beside the old, by the swap of a link.
	files["access.toml"] = tokenEntry("always") + tokenEntry("old") + tokenEntry("new") + issuer
	files["upload-token"] = "setting-1\nsetting-2\n"
	files["key.pem"] = firstKey + secondKey
	secrets.write(t, files)
	for token := range all {
		await(token, "200")
	}
	// A broken file changes nothing, and is said once.
	files["access.toml"] = tokenEntry("always") + "[[token]]\nname = \"old\"\n"
	secrets.write(t, files)
	p.awaitOutput(t, p.stderr, func(log string) bool {
		return strings.Contains(log, "not reloaded: what was in force before stays in force")
	})
	// Revoked: the old ones, at once by SIGHUP.
	files["access.toml"] = tokenEntry("always") + tokenEntry("new") + issuer
	files["upload-token"] = "setting-2\n"
	files["key.pem"] = secondKey
	secrets.write(t, files)
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"secret-old", "setting-1", firstJWT} {
		await(token, "401")
	}
	stop()
	for token, want := range map[string]string{
		"secret-always": "[200]", "secret-old": "[200 401]", "setting-1": "[200 401]", firstJWT: "[200 401]",
		"secret-new": "[401 200]", "setting-2": "[401 200]", secondJWT: "[401 200]",
	} {
		if got := fmt.Sprint(all[token].history()); got != want {
			t.Errorf("%.12s… was answered %s, want %s", token, got, want)
		}
	}
	if n := strings.Count(p.stderr.String(), `"msg":"not reloaded`); n != 1 {
		t.Errorf("it says %d times that a file is broken:\n%s", n, p.stderr)
	}
	if log := p.stderr.String(); !strings.Contains(log, "access.toml:6: give one of sha256 and secret_file") || strings.Contains(log, "secret-") || strings.Contains(log, "setting-") || strings.Contains(log, firstJWT) {
		t.Errorf("the log:\n%s", log)
	}
}

// SIGHUP reads again at once, also when there is nothing new, and never ends the process, in the drain neither.
func TestHangup(t *testing.T) {
	p := serve(t, t.TempDir(), given)
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.await(t, "reloaded")
	upload := slowUpload(t, p, "in/flight/1.zip")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await(t, "draining: no new connections, finishing the requests in flight")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(upload, "world"); err != nil {
		t.Fatal(err)
	}
	if response, err := http.ReadResponse(bufio.NewReader(upload), nil); err != nil || response.StatusCode != 201 {
		t.Errorf("the upload in flight: %v, %v", response, err)
	}
	if status := p.wait(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// certificate makes one for this machine, with a name of its own.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// Over TLS: a new certificate is shown to new connections, also when its two files come one after the other, and no request fails.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, firstKey := certificate(t, "first")
	second, secondKey := certificate(t, "second")
	write("tls.crt", first)
	write("tls.key", firstKey)
	address := freeAddress(t)
	p := serve(t, dir, []string{"DEPOT_TLS_CERT=tls.crt", "DEPOT_TLS_KEY=tls.key", "DEPOT_UPLOAD_TOKEN=up-canary-9Lp4", "DEPOT_DOWNLOAD_TOKEN=down-canary-9Lp4", "DEPOT_UPLOAD_URL=https://" + address, "DEPOT_DOWNLOAD_URL_BASE=https://" + address, "DEPOT_LISTEN=" + address})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(first + second))
	p.url = strings.Replace(p.url, "http:", "https:", 1)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true} // each request makes a connection
	client := &http.Client{Transport: transport}
	shown := func() string {
		t.Helper()
		conn, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), &tls.Config{RootCAs: roots})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := shown(); got != "first" {
		t.Errorf("at the start it shows %s", got)
	}
	if !strings.Contains(p.stderr.String(), "the TLS certificate expires on") { // in an hour
		t.Errorf("it does not warn:\n%s", p.stderr)
	}
	all, stop := loads(t, p, client, "up-canary-9Lp4")
	all["up-canary-9Lp4"].await(t, p, "200")
	write("tls.crt", second)
	p.awaitOutput(t, p.stderr, func(log string) bool {
		return strings.Contains(log, "not reloaded: what was in force before stays in force")
	})
	if got := shown(); got != "first" {
		t.Errorf("with half of a new pair it shows %s", got)
	}
	write("tls.key", secondKey)
	for limit := time.Now().Add(time.Minute); shown() != "second"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("the new certificate is not shown:\n%s", p.stderr)
		}
	}
	stop()
	if got := fmt.Sprint(all["up-canary-9Lp4"].history()); got != "[200]" {
		t.Errorf("meanwhile requests were answered %s", got)
	}
	if out, stderr, status := run(t, dir, []string{"DEPOT_TLS_CERT=tls.crt", "DEPOT_TLS_KEY=tls.key", "DEPOT_LISTEN=" + strings.TrimPrefix(p.url, "https://")}, "healthcheck"); status != 0 {
		t.Errorf("healthcheck: %d %s%s", status, out, stderr)
	}
	h2 := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer h2.CloseIdleConnections()
	for _, c := range []*http.Client{client, h2} {
		contract.Run(t, contract.Endpoint{UploadURL: p.url, DownloadURLBase: p.url, UploadTokens: []string{"up-canary-9Lp4"}, DownloadAuth: "query_param", DownloadParam: "token", DownloadTokens: []string{"down-canary-9Lp4"}, Client: c})
	}
	if response, err := h2.Get(p.url + "/healthz"); err != nil || response.ProtoMajor != 2 || response.StatusCode != 200 {
		t.Errorf("HTTP/2: %v, %v", response, err)
	} else {
		_ = response.Body.Close()
	}
	if _, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("it speaks TLS 1.1")
	}
	for name, test := range map[string]struct {
		env  []string
		want string
	}{
		"no key":         {[]string{"DEPOT_TLS_CERT=tls.crt"}, "DEPOT_TLS_KEY: there is a certificate and no key"},
		"no certificate": {[]string{"DEPOT_TLS_KEY=tls.key"}, "DEPOT_TLS_CERT: there is a key and no certificate"},
		"missing":        {[]string{"DEPOT_TLS_CERT=nowhere", "DEPOT_TLS_KEY=tls.key"}, "DEPOT_TLS_CERT: the file it names: no such file"},
		"pasted":         {[]string{"DEPOT_TLS_CERT=tls.crt", "DEPOT_TLS_KEY=" + secondKey}, "DEPOT_TLS_KEY: the file it names: "},
		"exchanged":      {[]string{"DEPOT_TLS_CERT=tls.key", "DEPOT_TLS_KEY=tls.crt"}, "DEPOT_TLS_CERT: tls: "},
	} {
		if _, stderr, status := run(t, dir, test.env); status != 2 || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "PRIVATE KEY") {
			t.Errorf("%s: %d %s", name, status, stderr)
		}
	}
	if out, _, _ := run(t, dir, []string{"DEPOT_TLS_CERT=tls.crt", "DEPOT_TLS_KEY=tls.key", "DEPOT_UPLOAD_TOKEN=up", "DEPOT_DOWNLOAD_TOKEN=down"}, "client-config"); !strings.Contains(out, "UPLOAD_URL=https://127.0.0.1:8080\n") {
		t.Errorf("client-config:\n%s", out)
	}
}
