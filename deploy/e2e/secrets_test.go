package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Canaries, in every place of a request and in the settings, and then a look at everything the process wrote.
func TestNoSecretIsWritten(t *testing.T) {
	const up, down, query, header = "canary/up+6b1", "canary-down-8c2", "canary-query-9d3", "canary header 0e4"
	p := serve(t, t.TempDir(), []string{"DEPOT_UPLOAD_TOKEN=" + up, "DEPOT_DOWNLOAD_TOKEN=" + down, "DEPOT_LOG_LEVEL=debug", "DEPOT_MAX_SIZE=1MiB"})
	authorizations := []string{"Bearer " + up, "Bearer " + down, up, down, "Basic " + header, "Bearer " + header, header, "Bearer " + up + "," + down, ""}
	paths := []string{"/a/b/1.zip", "/a/b/2.zip", "/a/b", "/", "/a%2Fb/c/1.zip", "/%zz", "*", "/healthz", "/readyz", "http://user:" + down + "@host/a/b/1.zip", "/a/b/1.zip#" + query}
	bodies := []string{"", "Content-Length: 5\r\n", "Content-Length: 6\r\nContent-Type: multipart/form-data; boundary=" + query + "\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 99999999\r\n",
		"Repr-Digest: " + query + "=:x\r\nContent-Length: 5\r\n", "Content-Length: " + query + "\r\n", "Cookie: " + query + "\r\n", query + "\r\n", "X-Request-Id: " + query + "\r\n", "Range: " + query + "\r\n"}
	for _, method := range []string{"PUT", "GET", "HEAD", "DELETE", "POST", "canary-query-9d3", "OPTIONS"} {
		for i, path := range paths {
			for j, auth := range authorizations {
				body := bodies[(i+j)%len(bodies)]
				q := []string{"?token=" + down, "?token=" + query + "&x=" + query, "?" + query, "?token=" + url.QueryEscape(up) + ";" + query, "?%zz=" + query}[(i+2*j)%5]
				if path == "*" || strings.Contains(path, "#") {
					q = ""
				}
				send(t, p, fmt.Sprintf("%s %s%s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nReferer: http://x/?token=%s\r\n%sConnection: close\r\n\r\nhello", method, path, q, auth, down, body))
			}
		}
	}
	send(t, p, query+"\r\n\r\n")
	send(t, p, "GET /"+strings.Repeat(query, 20_000)+" HTTP/1.1\r\n\r\n")
	send(t, p, "\x16\x03\x01"+query)
	if status := p.stop(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
	written := p.stdout.String() + p.stderr.String()
	if n := strings.Count(written, `"msg":"request"`); n < 400 {
		t.Errorf("only %d requests were logged", n)
	}
	if strings.Contains(written, `"status":5`) || strings.Contains(written, "panic") {
		t.Errorf("a request failed:\n%s", written)
	}
	for _, secret := range []string{up, down, query, header} {
		raw := []byte(secret)
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), hex.EncodeToString(raw),
			base64.RawStdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString([]byte("Bearer " + secret))} {
			if i := strings.Index(written, form); i >= 0 {
				t.Errorf("%q was written: %s", form, written[max(0, i-200):min(len(written), i+200)])
			}
		}
	}
}

// send writes bytes, closes its side, and reads whatever comes back.
func send(t *testing.T, p *process, request string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, request)
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn) // the server may well have reset it
}
