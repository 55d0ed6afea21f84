package contract

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

func multipart(c *check) {
	key := c.key("1.0.0.zip")
	for _, t := range []string{"multipart/form-data; boundary=x", "Multipart/Mixed", " multipart/form-data"} {
		c.is(c.put(key, random(100), header{"Content-Type", t}), t, http.StatusUnsupportedMediaType)
	}
	c.absent(key)
}

func contentEncoding(c *check) {
	key := c.key("1.0.0.zip")
	for _, coding := range []string{"gzip", "GZIP", "br", "aws-chunked", "identity, gzip"} {
		c.is(c.put(key, random(100), header{"Content-Encoding", coding}), coding, http.StatusUnsupportedMediaType)
	}
	c.absent(key)
	c.stored(key, random(100), header{"Content-Encoding", "identity"})
}

func contentRange(c *check) {
	key := c.key("1.0.0.zip")
	c.is(c.put(key, random(100), header{"Content-Range", "bytes 0-99/200"}), "Content-Range", http.StatusBadRequest)
	c.absent(key)
}

func contentTypes(c *check) {
	for _, h := range []header{nil, {"Content-Type", "application/octet-stream"}, {"Content-Type", "text/plain"}, {"Content-Type", "application/x-www-form-urlencoded"},
		{"Content-Type", ""}, {"Content-Type", "nonsense"}} {
		key, body := c.key("1.0.0.zip"), random(100)
		c.stored(key, body, h)
		c.has(c.holds(key, body), header{"Content-Type", "application/zip"})
	}
}

func expectContinue(c *check) {
	key, body := c.key("1.0.0.zip"), random(100)
	request := "Expect: 100-continue\r\nContent-Length: 100\r\n"
	conn := c.dial(c.e.UploadURL)
	_, _ = io.WriteString(conn, c.rawPut(key)+request+"\r\n")
	line := make([]byte, len("HTTP/1.1 100"))
	if _, err := io.ReadFull(conn, line); err != nil || string(line) != "HTTP/1.1 100" {
		c.Fatalf("a welcome upload that expects 100 is answered %q, %v", line, err)
	}
	for end := []byte{}; !bytes.HasSuffix(end, []byte("\r\n\r\n")); {
		b := make([]byte, 1)
		if _, err := io.ReadFull(conn, b); err != nil {
			c.Fatal(err)
		}
		end = append(end, b...)
	}
	_, _ = conn.Write(body)
	c.is(c.readRaw(conn, "PUT "), "a welcome upload", http.StatusCreated)
	c.holds(key, body)

	other := c.key("1.0.0.zip")
	a, conn := c.raw(c.e.UploadURL, c.rawPut(other)+"Content-Type: multipart/form-data\r\n"+request+"\r\n")
	c.is(a, "an unwelcome upload", http.StatusUnsupportedMediaType)
	if rest, _ := io.ReadAll(conn); len(rest) != 0 {
		c.Errorf("after the refusal came %q", rest)
	}
}

func refusalWithoutBody(c *check) {
	open := map[string]net.Conn{}
	for _, length := range []string{"Content-Length: 10\r\n", "Content-Length: 200000\r\n", "Content-Length: 50000000\r\n", "Transfer-Encoding: chunked\r\n"} {
		key := c.key("1.0.0.zip")
		a, conn := c.raw(c.e.UploadURL, c.rawPut(key)+"Content-Type: multipart/form-data\r\n"+length+"\r\n")
		c.is(a, "refused, "+length, http.StatusUnsupportedMediaType)
		if !a.Close {
			c.Errorf("%s: the connection is not announced to close", length)
		}
		open[length] = conn
		c.absent(key)
	}
	for length, conn := range open { // they have been waiting side by side
		if rest, err := io.ReadAll(conn); err != nil || len(rest) != 0 {
			c.Errorf("%s: after the refusal came %q, %v", length, rest, err)
		}
	}
}

func refusalAfterBody(c *check) {
	const size = 20 << 20
	for _, how := range []string{fmt.Sprintf("Content-Length: %d\r\n", size), "Transfer-Encoding: chunked\r\n"} {
		key := c.key("1.0.0.zip")
		body := random(size)
		if strings.HasPrefix(how, "Transfer") {
			body = append(append(fmt.Appendf(nil, "%x\r\n", size), body...), "\r\n0\r\n\r\n"...)
		}
		conn := c.dial(c.e.UploadURL)
		_, _ = io.WriteString(conn, c.rawPut(key)+"Content-Type: multipart/form-data\r\n"+how+"\r\n")
		if _, err := conn.Write(body); err != nil && !c.e.Proxy {
			c.Errorf("%s: the body could not be written: %v", how, err)
		}
		c.is(c.readRaw(conn, "PUT "), "refused, "+how, http.StatusUnsupportedMediaType)
		c.absent(key)
	}
}
