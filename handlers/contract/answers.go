package contract

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

func answers() []statement {
	return []statement{
		{text: "other methods are 405 with Allow, without credentials too", check: otherMethods},
		{text: "the method picks the prefix: PUT and DELETE only below the upload path, GET and HEAD only below the download path", check: prefixes, when: prefixed},
		{text: "of several refusals the first in order is answered: key, permission, type, length, limit, precondition, conflict", check: orderOfRefusals},
		{text: "every request has an id of its own in X-Request-Id, and none is taken over from the client", check: requestIDs},
		{text: "an answer never repeats a token, a query or an Authorization header", check: noSecrets},
		{text: "healthz and readyz answer without credentials, and nothing else of the kind does", check: health},
		{text: "an upload that stalls is 408 and stores nothing, however it began", check: stalled, when: impatient},
	}
}

func otherMethods(c *check) {
	key := c.key("1.0.0.zip")
	c.stored(key, random(10))
	for _, base := range []string{c.e.UploadURL, c.e.DownloadURLBase} {
		for _, method := range []string{"POST", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "BREW", "get", "LIST"} {
			for _, path := range []string{"/" + key, "/ns", "/"} {
				a := c.is(c.do(method, base+path, nil), method+" "+path, http.StatusMethodNotAllowed)
				allow := a.Header.Get("Allow")
				if a.proxy {
					continue
				}
				if base == c.e.UploadURL && !strings.Contains(allow, "PUT, DELETE") || base == c.e.DownloadURLBase && !strings.Contains(allow, "GET, HEAD") {
					c.Errorf("%s %s: Allow is %q", method, path, allow)
				}
			}
		}
	}
	u, _ := url.Parse(c.e.UploadURL)
	for _, line := range []string{"OPTIONS *", "PATCH " + c.e.UploadURL + "/" + key, "BREW *"} {
		if c.e.Proxy && strings.HasSuffix(line, "*") {
			continue // the server as a whole is the proxy
		}
		a, _ := c.raw(c.e.UploadURL, line+" HTTP/1.1\r\nHost: "+u.Host+"\r\n\r\n")
		c.is(a, line, http.StatusMethodNotAllowed)
	}
}

func prefixes(c *check) {
	up, down := pathOf(c.e.UploadURL), pathOf(c.e.DownloadURLBase)
	stored, body := c.key("1.0.0.zip"), random(10)
	c.stored(stored, body)
	if !strings.HasPrefix(down+"/", up+"/") {
		key := c.key("1.0.0.zip")
		c.is(c.do(http.MethodPut, c.e.DownloadURLBase+"/"+key, bytes.NewReader(body), c.uploadHeader()), "PUT below the download path", http.StatusMethodNotAllowed)
		c.is(c.do(http.MethodDelete, c.e.DownloadURLBase+"/"+stored, nil, c.uploadHeader()), "DELETE below the download path", http.StatusMethodNotAllowed)
		c.absent(key)
	}
	u, auth := c.downloadURL(stored)
	u = c.e.UploadURL + strings.TrimPrefix(u, c.e.DownloadURLBase)
	if strings.HasPrefix(up+"/", down+"/") {
		// The download path contains the upload path, so this is a key with too many parts there.
		c.is(c.do(http.MethodGet, u, nil, auth), "GET below the upload path", http.StatusBadRequest)
	} else {
		c.is(c.do(http.MethodGet, u, nil, auth), "GET below the upload path", http.StatusMethodNotAllowed)
	}
	c.holds(stored, body)
}

func orderOfRefusals(c *check) {
	stored, body := c.key("1.0.0.zip"), random(10)
	c.stored(stored, body)
	fresh := c.key("1.0.0.zip")
	const (
		form      = "Content-Type: multipart/form-data\r\n"
		gzip      = "Content-Encoding: gzip\r\n"
		digest    = "Repr-Digest: sha-256=nonsense\r\n"
		rangeOf   = "Content-Range: bytes 0-1/2\r\n"
		star      = "If-None-Match: *\r\n"
		huge      = "Content-Length: 9000000000000000000\r\n"
		different = "Content-Length: 11\r\n"
	)
	for _, test := range []struct {
		key, rest string
		status    int
	}{
		{"ns/bad", form + gzip + digest + rangeOf + star + huge, 400},
		{stored, form + digest + rangeOf + star + huge, 415},
		{stored, gzip + digest + rangeOf + star + huge, 415},
		{stored, digest + star, 400},
		{stored, digest + star + huge, 400},
		{stored, rangeOf + star + huge, 400},
		{stored, star, 411},
		{stored, star + "Content-Length: 0\r\n", 400},
		{stored, star + huge, 413},
		{stored, star + different, 412},
		{fresh, star + huge, 413},
	} {
		if c.e.Proxy && strings.HasSuffix(test.rest, huge) {
			continue // it may wait for all that was announced
		}
		a, _ := c.raw(c.e.UploadURL, c.rawPut(test.key)+test.rest+"\r\n")
		wanted := []int{test.status}
		if test.status == http.StatusLengthRequired {
			wanted = c.unlessProxy(test.status, http.StatusBadRequest)
		}
		c.is(a, fmt.Sprintf("%q", test.rest), wanted...)
	}
	c.holds(stored, body)
	c.absent(fresh)
}

func requestIDs(c *check) {
	key := c.key("1.0.0.zip")
	seen := map[string]bool{"mine": true}
	for range 20 {
		for _, a := range []*answer{c.put(key, []byte("x"), header{"X-Request-Id", "mine"}), c.download(http.MethodGet, key), c.do("POST", c.e.UploadURL+"/x", nil)} {
			id := a.Header.Get("X-Request-Id")
			if len(id) < 8 || seen[id] {
				c.Fatalf("the request id is %q", id)
			}
			seen[id] = true
		}
	}
}

func noSecrets(c *check) {
	const canary = "canary-4f1d8e0b"
	secrets := append([]string{canary}, c.e.UploadTokens...)
	secrets = append(secrets, c.e.DownloadTokens...)
	key := c.key("1.0.0.zip")
	var got []*answer
	got = append(got, c.put(key, random(10)), c.put(key, random(11)), c.download(http.MethodGet, key), c.download(http.MethodGet, c.key("1.zip")), c.download(http.MethodGet, "x"))
	for _, value := range append(secrets, "Bearer "+canary, "Basic "+canary) {
		for _, method := range []string{http.MethodPut, http.MethodGet, http.MethodDelete, http.MethodPost} {
			base := c.e.UploadURL
			if method == http.MethodGet {
				base = c.e.DownloadURLBase
			}
			got = append(got, c.do(method, base+"/"+key+"?token="+canary+"&"+c.e.DownloadParam+"="+url.QueryEscape(value), bytes.NewReader(random(5)), header{"Authorization", value}),
				c.do(method, base+"/"+key+"?token="+canary, bytes.NewReader(random(5)), header{"Cookie", value}),
				c.do(method, base+"/bad%20key?"+canary, bytes.NewReader(random(5)), header{"Authorization", value}))
		}
	}
	for _, a := range got {
		all := fmt.Sprint(a.Header, string(a.body))
		for _, secret := range secrets {
			for _, form := range []string{secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret))} {
				if strings.Contains(all, form) {
					c.Errorf("%s: the answer repeats what must stay secret", a.Status)
				}
			}
		}
	}
}

func stalled(c *check) {
	open := map[string]net.Conn{}
	for _, begin := range []string{fmt.Sprintf("Content-Length: %d\r\n\r\nhello", c.atMost(1_000_000)), "Content-Length: 5\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
		key := c.key("1.0.0.zip")
		conn := c.dial(c.e.UploadURL)
		_, _ = io.WriteString(conn, c.rawPut(key)+begin)
		open[key] = conn
	}
	for key, conn := range open {
		c.is(c.readRaw(conn, "PUT "), "a stalled upload", http.StatusRequestTimeout)
		c.absent(key)
	}
}

func health(c *check) {
	u, _ := url.Parse(c.e.DownloadURLBase)
	root := u.Scheme + "://" + u.Host
	for _, path := range []string{"/healthz", "/readyz"} {
		c.is(c.do(http.MethodGet, root+path, nil), path, http.StatusOK)
		c.is(c.do(http.MethodHead, root+path, nil), path, http.StatusOK)
		c.is(c.do(http.MethodPost, root+path, nil), path, http.StatusMethodNotAllowed)
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/", "/healthz/", "/index.html"} {
		c.is(c.do(http.MethodGet, root+path, nil), path, http.StatusUnauthorized, http.StatusBadRequest, http.StatusMethodNotAllowed)
	}
}
