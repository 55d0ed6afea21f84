package contract

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	mimemultipart "mime/multipart"
	"net/http"
	"strings"
	"time"
)

func downloads() []statement {
	return []statement{
		{text: "GET is 200 with ETag, Last-Modified, Repr-Digest, Accept-Ranges, type, length, nosniff and a file name", check: getHeaders},
		{text: "HEAD is GET without the body", check: head},
		{text: "answers to a token are not cached and send no referrer", check: noStore, when: downloadAuth},
		{text: "ranges are 206: from the start, to the end, in the middle, the last bytes, several", check: ranges},
		{text: "a range beyond the end is 416 with the length", check: unsatisfiable},
		{text: "If-Range gives the range of the named artifact and the whole of another", check: ifRange},
		{text: "If-None-Match and If-Modified-Since are 304 for what the client has", check: notModified},
		{text: "If-Match and If-Unmodified-Since are 412 for another artifact", check: preconditions},
		{text: "what is not stored is 404 for GET and HEAD", check: missing},
		{text: "a download that goes on while others come and go is whole", check: manyDownloads},
	}
}

func deletions() []statement {
	return []statement{
		{text: "DELETE is 204, and then GET and DELETE are 404", check: deleted},
		{text: "after a DELETE the key is free for other bytes", check: deletedAndNew},
		{text: "a condition on DELETE is 400 and not ignored", check: conditionalDelete},
	}
}

func getHeaders(c *check) {
	key, body := c.key("1.2.3+b.zip"), random(100_000)
	c.stored(key, body)
	a := c.holds(key, body)
	name := strings.Split(key, "/")[1]
	c.has(a, header{"ETag", `"` + sum(body) + `"`, "Repr-Digest", reprDigest(body), "Accept-Ranges", "bytes", "Content-Type", "application/zip",
		"Content-Length", "100000", "X-Content-Type-Options", "nosniff", "Content-Disposition", `attachment; filename="` + name + `-1.2.3+b.zip"`})
	modified, err := http.ParseTime(a.Header.Get("Last-Modified"))
	if err != nil || time.Since(modified) > 24*time.Hour || time.Until(modified) > 24*time.Hour {
		c.Errorf("Last-Modified is %q", a.Header.Get("Last-Modified"))
	}
}

func head(c *check) {
	for _, size := range []int{100, 100_000} {
		key := c.key("1.0.0.zip")
		c.stored(key, random(size))
		get := c.download(http.MethodGet, key)
		head := c.is(c.download(http.MethodHead, key), "HEAD", http.StatusOK)
		if len(head.body) != 0 {
			c.Errorf("HEAD has a body of %d bytes", len(head.body))
		}
		get.Header.Del("Date")
		get.Header.Del("X-Request-Id")
		for name := range get.Header {
			c.has(head, header{name, get.Header.Get(name)})
		}
		// HEAD has no ranges (RFC 9110, section 14.2).
		c.is(c.download(http.MethodHead, key, header{"Range", "bytes=0-1"}), "HEAD with a Range", http.StatusOK)
	}
}

func noStore(c *check) {
	key := c.key("1.0.0.zip")
	c.stored(key, random(100))
	for _, h := range []header{nil, {"Range", "bytes=0-1"}} {
		c.has(c.download(http.MethodGet, key, h), header{"Cache-Control", "private, no-store", "Referrer-Policy", "no-referrer"})
	}
}

func ranges(c *check) {
	for _, size := range []int{100_000, c.atMost(6 << 20)} {
		key, body := c.key("1.0.0.zip"), random(size)
		c.stored(key, body)
		for spec, part := range map[string][2]int{"0-0": {0, 1}, "0-99": {0, 100}, "500-69999": {500, 70_000}, fmt.Sprintf("%d-", size-5): {size - 5, size},
			"-7": {size - 7, size}, "90000-999999999": {90_000, size}, "0-": {0, size}} {
			a := c.is(c.download(http.MethodGet, key, header{"Range", "bytes=" + spec}), spec, http.StatusPartialContent)
			if !bytes.Equal(a.body, body[part[0]:part[1]]) {
				c.Errorf("%s gives %d other bytes", spec, len(a.body))
			}
			c.has(a, header{"Content-Range", fmt.Sprintf("bytes %d-%d/%d", part[0], part[1]-1, size), "ETag", `"` + sum(body) + `"`, "Repr-Digest", reprDigest(body)})
		}
		a := c.is(c.download(http.MethodGet, key, header{"Range", "bytes=0-9,20-29"}), "two ranges", http.StatusPartialContent)
		_, params, _ := mime.ParseMediaType(a.Header.Get("Content-Type"))
		parts := mimemultipart.NewReader(bytes.NewReader(a.body), params["boundary"])
		for _, from := range []int{0, 20} {
			part, err := parts.NextPart()
			if err != nil {
				c.Fatalf("two ranges: %v", err)
			}
			if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, body[from:from+10]) {
				c.Errorf("two ranges: %d other bytes, %v", len(got), err)
			}
		}
	}
}

func unsatisfiable(c *check) {
	key, body := c.key("1.0.0.zip"), random(100)
	c.stored(key, body)
	for _, spec := range []string{"bytes=100-", "bytes=500-600"} {
		a := c.is(c.download(http.MethodGet, key, header{"Range", spec}), spec, http.StatusRequestedRangeNotSatisfiable)
		c.has(a, header{"Content-Range", "bytes */100", "ETag", `"` + sum(body) + `"`})
	}
}

func ifRange(c *check) {
	key, body := c.key("1.0.0.zip"), random(1000)
	c.stored(key, body)
	c.is(c.download(http.MethodGet, key, header{"Range", "bytes=0-9", "If-Range", `"` + sum(body) + `"`}), "its own ETag", http.StatusPartialContent)
	c.is(c.download(http.MethodGet, key, header{"Range", "bytes=0-9", "If-Range", `"` + sum(nil) + `"`}), "another's ETag", http.StatusOK)
}

func notModified(c *check) {
	key, body := c.key("1.0.0.zip"), random(1000)
	c.stored(key, body)
	etag, modified := `"`+sum(body)+`"`, c.download(http.MethodHead, key).Header.Get("Last-Modified")
	for _, h := range []header{{"If-None-Match", etag}, {"If-None-Match", `"x", ` + etag}, {"If-None-Match", "*"}, {"If-Modified-Since", modified}} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := c.is(c.download(method, key, h), fmt.Sprint(method, h), http.StatusNotModified)
			c.has(a, header{"ETag", etag})
		}
	}
	c.is(c.download(http.MethodGet, key, header{"If-None-Match", `"x"`}), "another ETag", http.StatusOK)
}

func preconditions(c *check) {
	key, body := c.key("1.0.0.zip"), random(1000)
	c.stored(key, body)
	c.is(c.download(http.MethodGet, key, header{"If-Match", `"x"`}), "If-Match", http.StatusPreconditionFailed)
	c.is(c.download(http.MethodGet, key, header{"If-Unmodified-Since", "Mon, 02 Jan 2006 15:04:05 GMT"}), "If-Unmodified-Since", http.StatusPreconditionFailed)
	c.is(c.download(http.MethodGet, key, header{"If-Match", `"` + sum(body) + `"`}), "the right If-Match", http.StatusOK)
}

func missing(c *check) {
	key := c.key("1.0.0.zip")
	c.is(c.download(http.MethodGet, key), "GET", http.StatusNotFound)
	c.is(c.download(http.MethodHead, key), "HEAD", http.StatusNotFound)
	c.stored(key, random(10))
	c.is(c.download(http.MethodGet, strings.Replace(key, "1.0.0", "1.0.1", 1)), "another version", http.StatusNotFound)
}

func manyDownloads(c *check) {
	key, body := c.key("1.0.0.zip"), random(c.atMost(3<<20))
	c.stored(key, body)
	results := make(chan error, 10)
	for range 10 {
		go func() {
			u, auth := c.downloadURL(key)
			r, _ := http.NewRequestWithContext(c.Context(), http.MethodGet, u, nil)
			for i := 0; i < len(auth); i += 2 {
				r.Header.Set(auth[i], auth[i+1])
			}
			response, err := c.e.Client.Do(r)
			if err != nil {
				results <- err
				return
			}
			defer response.Body.Close()
			got, err := io.ReadAll(response.Body)
			if err == nil && !bytes.Equal(got, body) {
				err = fmt.Errorf("%d other bytes", len(got))
			}
			results <- err
		}()
	}
	for range 10 {
		if err := <-results; err != nil {
			c.Error(err)
		}
	}
}

func deleted(c *check) {
	key := c.key("1.0.0.zip")
	c.stored(key, random(1000))
	a := c.is(c.delete(key), "DELETE", http.StatusNoContent)
	if len(a.body) != 0 {
		c.Errorf("204 with a body: %q", a.body)
	}
	c.absent(key)
	c.is(c.delete(key), "DELETE again", http.StatusNotFound)
}

func deletedAndNew(c *check) {
	key, body := c.key("1.0.0.zip"), random(500)
	c.stored(key, random(1000))
	c.is(c.delete(key), "DELETE", http.StatusNoContent)
	c.stored(key, body)
	c.holds(key, body)
}

func conditionalDelete(c *check) {
	key, body := c.key("1.0.0.zip"), random(500)
	c.stored(key, body)
	for _, h := range []header{{"If-Match", `"x"`}, {"If-None-Match", "*"}, {"If-Unmodified-Since", "Mon, 02 Jan 2006 15:04:05 GMT"}} {
		c.is(c.delete(key, h), h[0], http.StatusBadRequest)
	}
	c.holds(key, body)
}
