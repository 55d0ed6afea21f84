package handlers

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// A body, in either direction, has to move leastProgress bytes within the server's patience, again and again. That lets
// an honest transfer take as long as it needs and gives up one that only pretends.
const leastProgress = 64 << 10

// lingering bounds how long the rest of a refused body is read and thrown away.
const lingering = 2 * time.Second

// How a body can fail, apart from what the store says of it.
var (
	errTooLarge = errors.New("the body is larger than this endpoint takes")
	errStalled  = errors.New("the body stalled")
	errCutShort = errors.New("the body ended before it was complete")
)

// requestBody reads a request's body under the size limit and the deadline. Reading begins with the first Read: net/http
// sends 100 Continue then and not before, so nothing is asked for that would be refused.
type requestBody struct {
	r        io.Reader
	control  *http.ResponseController
	patience time.Duration
	limit    int64
	expected bool // the request declares a body
	metrics  *metrics

	moved  int64
	window int64 // bytes until the deadline moves on
	ended  bool
	err    error // why it failed
}

func (b *requestBody) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.window <= 0 {
		b.window = leastProgress
		_ = b.control.SetReadDeadline(time.Now().Add(b.patience)) // fails on a connection that cannot have one: a test's
	}
	n, err = b.r.Read(p)
	b.moved += int64(n)
	b.metrics.received.Add(int64(n))
	b.window -= int64(n)
	switch {
	case b.moved > b.limit:
		b.err = fmt.Errorf("%w: the limit is %d bytes", errTooLarge, b.limit)
		return 0, b.err
	case err == io.EOF:
		b.ended = true
		_ = b.control.SetReadDeadline(time.Time{}) // net/http reads on, to notice a client that leaves
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.err = fmt.Errorf("%w: after %d bytes, fewer than %d came in %v", errStalled, b.moved, leastProgress, b.patience)
		return n, b.err
	case err != nil:
		b.err = fmt.Errorf("%w: after %d bytes: %s", errCutShort, b.moved, cause(err))
		return n, b.err
	}
	return n, err
}

// cause is a read error for the log. Only what the connection says is passed on: the text of a syntax error repeats what
// the client sent.
func cause(err error) string {
	if network := (*net.OpError)(nil); errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err.Error()
	}
	return "it is not what its header announced, or the connection was closed"
}

// unread reports that the client may still be sending.
func (b *requestBody) unread() bool { return b.expected && !b.ended }

// linger ends an exchange whose body was not wanted. The answer, which announced that the connection closes, is sent at
// once; then what still comes is thrown away for a moment, since closing on a client that is sending would reset the
// connection and could take the answer with it. HTTP/2 needs none of this.
func (x *exchange) linger() {
	if !x.body.unread() || x.Request().ProtoMajor != 1 {
		return
	}
	_ = x.w.control.Flush()
	_ = x.w.control.SetReadDeadline(time.Now().Add(lingering))
	_, _ = io.Copy(io.Discard, x.body.r)
}
