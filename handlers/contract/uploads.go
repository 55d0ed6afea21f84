package contract

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

func uploads() []statement {
	return []statement{
		{text: "a PUT to a new key is 201 with Location, ETag, Repr-Digest and a JSON receipt, the URL without a token", check: newKey},
		{text: "what was uploaded is downloaded, byte for byte", check: roundTrip},
		{text: "the same bytes again are 200 with the same receipt, so a retry is a success", check: sameBytes},
		{text: "other bytes of the same size are 409 naming both sha256, and the stored bytes stay", check: conflictSameSize, when: overwriteOff},
		{text: "other bytes of another size are 409 before the body is sent, naming the stored sha256 and both sizes", check: conflictAtOnce, when: overwriteOff},
		{text: "other bytes replace the stored ones with 200 where overwriting is on", check: replaces, when: overwriteOn},
		{text: "If-None-Match: * is 412 when the key exists, whatever the bytes, and 201 when it does not", check: ifNoneMatch},
		{text: "a condition that an upload cannot have is 400 and not ignored", check: otherConditions},
		{text: "a wrong Repr-Digest, Content-Digest or X-Checksum-Sha256 is 400 and nothing is stored", check: wrongDigest},
		{text: "right digests are accepted, and digests by other algorithms passed by", check: rightDigest},
		{text: "a digest header that cannot be read is 400", check: unreadableDigest},
		{text: "an empty body is 400, declared or chunked, and nothing is stored", check: emptyBody},
		{text: "a PUT with neither a length nor chunks is 411", check: noLength},
		{text: "a chunked upload is stored", check: chunked},
		{text: "an upload of exactly the limit is stored", check: atLimit, when: limited},
		{text: "an upload that declares more than the limit is 413 before the body is sent", check: overLimitDeclared, when: limited},
		{text: "a chunked upload over the limit is 413 and nothing is stored", check: overLimitChunked, when: limited},
		{text: "an upload that is cut short, or broken, stores nothing", check: cutShort},
		{text: "multipart bodies are 415", check: multipart},
		{text: "a Content-Encoding other than identity is 415", check: contentEncoding},
		{text: "a Content-Range is 400", check: contentRange},
		{text: "every other content type, and none, is accepted", check: contentTypes},
		{text: "Expect: 100-continue is answered by 100 for a welcome upload, and only by the refusal for another", check: expectContinue, when: direct},
		{text: "a refusal reaches a client that declared a body and sends nothing", check: refusalWithoutBody, when: direct},
		{text: "a refusal reaches a client that writes its whole body before it reads", check: refusalAfterBody},
		{text: "of many concurrent uploads to one key one wins, and its bytes are served", check: concurrent, when: overwriteOff},
	}
}

func newKey(c *check) {
	key, body := c.key("1.0.0.zip"), random(1000)
	a := c.stored(key, body, header{"Content-Type", "application/zip"})
	url := c.e.DownloadURLBase + "/" + key
	c.has(a, header{"Location", url, "ETag", `"` + sum(body) + `"`, "Repr-Digest", reprDigest(body), "Content-Type", "application/json"})
	var got map[string]any
	if err := json.Unmarshal(a.body, &got); err != nil {
		c.Fatalf("the receipt %q: %v", a.body, err)
	}
	want := map[string]any{"key": key, "size": 1000.0, "sha256": sum(body), "url": url}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		c.Errorf("the receipt is %v, want %v", got, want)
	}
}

func roundTrip(c *check) {
	for _, size := range []int{1, 22, 4096, 65_536, 65_537, 300_000, 5 << 20} {
		key, body := c.key("1.0.0.zip"), random(c.atMost(size))
		c.stored(key, body)
		c.holds(key, body)
	}
}

func sameBytes(c *check) {
	key, body := c.key("1.0.0.zip"), random(2000)
	first := c.stored(key, body)
	for range 2 {
		again := c.is(c.put(key, body), "the same bytes again", http.StatusOK)
		if !bytes.Equal(again.body, first.body) {
			c.Errorf("the receipt was %q and is now %q", first.body, again.body)
		}
		for _, name := range []string{"Location", "ETag", "Repr-Digest"} {
			c.has(again, header{name, first.Header.Get(name)})
		}
	}
	c.holds(key, body)
}

func conflictSameSize(c *check) {
	key, body, other := c.key("1.0.0.zip"), random(2000), random(2000)
	c.stored(key, body)
	c.says(c.is(c.put(key, other), "other bytes", http.StatusConflict), sum(body), sum(other))
	c.holds(key, body)
}

func conflictAtOnce(c *check) {
	key, body := c.key("1.0.0.zip"), random(2000)
	c.stored(key, body)
	a, _ := c.raw(c.e.UploadURL, c.rawPut(key)+"Content-Length: 2001\r\n\r\n")
	c.says(c.is(a, "another size", http.StatusConflict), sum(body), "2000", "2001")
	c.holds(key, body)
}

func replaces(c *check) {
	key := c.key("1.0.0.zip")
	c.stored(key, random(2000))
	for _, size := range []int{2000, 10, 70_000} {
		body := random(size)
		a := c.is(c.put(key, body), "other bytes", http.StatusOK)
		c.has(a, header{"ETag", `"` + sum(body) + `"`})
		c.says(a, sum(body))
		c.holds(key, body)
	}
}

func ifNoneMatch(c *check) {
	key, body := c.key("1.0.0.zip"), random(2000)
	star := header{"If-None-Match", "*"}
	c.stored(key, body, star)
	c.is(c.put(key, body, star), "the same bytes", http.StatusPreconditionFailed)
	c.is(c.put(key, random(2000), star), "other bytes", http.StatusPreconditionFailed)
	a, _ := c.raw(c.e.UploadURL, c.rawPut(key)+"If-None-Match: *\r\nContent-Length: 5\r\n\r\n")
	c.is(a, "before the body is sent", http.StatusPreconditionFailed)
	c.holds(key, body)
}

func otherConditions(c *check) {
	key, body := c.key("1.0.0.zip"), random(2000)
	c.stored(key, body)
	for _, h := range []header{{"If-None-Match", `"` + sum(body) + `"`}, {"If-Match", "*"}, {"If-Match", `"x"`}, {"If-None-Match", "*", "If-None-Match", "*"},
		{"If-Unmodified-Since", time.Now().UTC().Format(http.TimeFormat)}} {
		c.is(c.put(key, random(2000), h), h[0], http.StatusBadRequest)
	}
	c.holds(key, body)
}

func wrongDigest(c *check) {
	key, body, wrong := c.key("1.0.0.zip"), random(2000), random(2000)
	wrong512 := sha512.Sum512(wrong)
	for _, h := range []header{
		{"Repr-Digest", reprDigest(wrong)},
		{"Content-Digest", reprDigest(wrong)},
		{"Repr-Digest", "sha-512=:" + base64.StdEncoding.EncodeToString(wrong512[:]) + ":"},
		{"X-Checksum-Sha256", sum(wrong)},
		{"Repr-Digest", reprDigest(body), "X-Checksum-Sha256", sum(wrong)},
		{"Repr-Digest", reprDigest(body), "Content-Digest", reprDigest(wrong)},
	} {
		c.is(c.put(key, body, h), h[0], http.StatusBadRequest)
		c.absent(key)
	}
}

func rightDigest(c *check) {
	body := random(2000)
	sum512 := sha512.Sum512(body)
	for _, h := range []header{
		{"Repr-Digest", reprDigest(body)},
		{"Content-Digest", reprDigest(body)},
		{"Repr-Digest", "sha-512=:" + base64.StdEncoding.EncodeToString(sum512[:]) + ":, " + reprDigest(body)},
		{"Repr-Digest", "md5=:AAAAAAAAAAAAAAAAAAAAAA==:, unixsum=:AAA=:"},
		{"X-Checksum-Sha256", strings.ToUpper(sum(body))},
		{"X-Checksum-Sha256", sum(body), "Content-Digest", reprDigest(body)},
	} {
		c.stored(c.key("1.0.0.zip"), body, h)
	}
}

func unreadableDigest(c *check) {
	key := c.key("1.0.0.zip")
	for _, h := range []header{
		{"Repr-Digest", "sha-256=" + sum(nil)}, {"Repr-Digest", "sha-256=:not base64!:"}, {"Repr-Digest", "sha-256=:AAAA:"}, {"Repr-Digest", "sha-256"},
		{"Repr-Digest", "sha-256=(:AAAA:)"}, {"Content-Digest", "=:AAAA:"}, {"Repr-Digest", "sha-256=\"text\""},
		{"X-Checksum-Sha256", "abc"}, {"X-Checksum-Sha256", ""}, {"X-Checksum-Sha256", strings.Repeat("zz", 32)},
	} {
		c.is(c.put(key, random(100), h), fmt.Sprint(h), http.StatusBadRequest)
	}
	c.absent(key)
}

func emptyBody(c *check) {
	key := c.key("1.0.0.zip")
	for _, rest := range []string{"Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"} {
		a, _ := c.raw(c.e.UploadURL, c.rawPut(key)+rest)
		c.is(a, "an empty body", http.StatusBadRequest)
		c.absent(key)
	}
}

func noLength(c *check) {
	key := c.key("1.0.0.zip")
	a, _ := c.raw(c.e.UploadURL, c.rawPut(key)+"\r\n")
	c.is(a, "no length", c.unlessProxy(http.StatusLengthRequired, http.StatusBadRequest)...)
	c.absent(key)
}

func chunked(c *check) {
	key, body := c.key("1.0.0.zip"), random(100_000)
	a := c.do(http.MethodPut, c.e.UploadURL+"/"+key, struct{ io.Reader }{bytes.NewReader(body)}, c.uploadHeader())
	c.is(a, "a chunked body", http.StatusCreated)
	c.holds(key, body)
	c.is(c.do(http.MethodPut, c.e.UploadURL+"/"+key, struct{ io.Reader }{bytes.NewReader(body)}, c.uploadHeader()), "again", http.StatusOK)
}

func atLimit(c *check) {
	key, body := c.key("1.0.0.zip"), random(int(c.e.MaxSize))
	c.stored(key, body)
	c.holds(key, body)
}

func overLimitDeclared(c *check) {
	key := c.key("1.0.0.zip")
	a, _ := c.raw(c.e.UploadURL, c.rawPut(key)+fmt.Sprintf("Content-Length: %d\r\n\r\n", c.e.MaxSize+1))
	c.is(a, "too large", http.StatusRequestEntityTooLarge)
	c.absent(key)
}

func overLimitChunked(c *check) {
	key := c.key("1.0.0.zip")
	a := c.do(http.MethodPut, c.e.UploadURL+"/"+key, struct{ io.Reader }{bytes.NewReader(random(int(c.e.MaxSize) + 1))}, c.uploadHeader())
	c.is(a, "too large", http.StatusRequestEntityTooLarge)
	c.absent(key)
}

func cutShort(c *check) {
	for _, rest := range []string{
		"Content-Length: 1000\r\n\r\nonly this",
		"Content-Length: 1000000\r\n\r\n" + string(random(500_000)),
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
		"Transfer-Encoding: chunked\r\n\r\nff\r\nhello",
	} {
		key := c.key("1.0.0.zip")
		conn := c.dial(c.e.UploadURL)
		_, _ = io.WriteString(conn, c.rawPut(key)+rest)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // there is no more, but an answer would be read
		}
		if c.e.Proxy {
			_, _ = io.Copy(io.Discard, conn) // a proxy may answer a client that has closed its side, or hang up
		} else if a := c.readRaw(conn, "PUT "); a.StatusCode < 400 {
			c.Errorf("an upload that was cut short is answered %s", a.Status)
		}
		c.absent(key)

		gone := c.dial(c.e.UploadURL)
		_, _ = io.WriteString(gone, c.rawPut(key)+rest)
		if tcp, ok := gone.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset instead of an end
		}
		_ = gone.Close()
		c.absent(key)
	}
}

func concurrent(c *check) {
	key := c.key("1.0.0.zip")
	bodies, statuses := make([][]byte, 20), make([]int, 20)
	var done sync.WaitGroup
	for i := range bodies {
		bodies[i] = random(30_000)
		done.Go(func() { statuses[i] = c.put(key, bodies[i]).StatusCode })
	}
	done.Wait()
	winner := -1
	for i, status := range statuses {
		switch {
		case status == http.StatusCreated && winner < 0:
			winner = i
		case status != http.StatusConflict:
			c.Errorf("one of many was answered %d", status)
		}
	}
	if winner < 0 {
		c.Fatal("no upload won")
	}
	c.holds(key, bodies[winner])
}
