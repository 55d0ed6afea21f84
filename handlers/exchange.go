package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/labstack/echo/v4"

	"depot/store"
)

// exchange is one request on its way through the house: Echo's context, its body and its answer under their deadlines,
// and what the log line will say.
type exchange struct {
	echo.Context
	body requestBody
	w    responseWriter

	id       string
	start    time.Time
	identity string
	key      store.Key
	sha256   store.SHA256
	reason   string // why it was refused, or how it failed
	refusal  string // the same as a word, for metrics
	outcome  string // of an upload that is stored
}

// observe goes around every request: it gives it an id, turns its error into an answer, writes its log line, and hears
// out a client that is still sending.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		x := &exchange{Context: c, id: requestID(), start: time.Now()}
		control := http.NewResponseController(c.Response().Writer)
		x.body = requestBody{r: r.Body, expected: r.ContentLength != 0, control: control, patience: s.cfg.Patience, limit: s.cfg.MaxSize, metrics: s.metrics}
		x.w = responseWriter{ResponseWriter: c.Response().Writer, exchange: x, control: control, patience: s.cfg.Patience, buffers: &s.buffers, copyBuffers: &s.copyBuffers}
		c.Response().Writer = &x.w
		x.w.Header().Set("X-Request-Id", x.id)

		s.metrics.inFlight.Inc()
		abort := s.answer(x, next)
		s.metrics.inFlight.Dec()
		s.metrics.ended(x)
		s.log(x)
		if abort {
			panic(http.ErrAbortHandler) // net/http's way to cut a connection, so that a broken answer has no clean end
		}
		x.linger()
		return nil
	}
}

// requestID is 64 random bits in hexadecimal. Not from crypto/rand: an id must be unlikely to repeat, not hard to guess,
// and this costs no system call.
func requestID() string {
	const digits = "0123456789abcdef"
	var id [16]byte
	for i, n := 0, rand.Uint64(); i < len(id); i, n = i+1, n>>4 {
		id[i] = digits[n&15]
	}
	return string(id[:])
}

// answer lets the handlers answer, or answers for them when they fail. It reports that the answer began and cannot be
// finished.
func (s *Server) answer(x *exchange, next echo.HandlerFunc) (abort bool) {
	defer func() {
		if p := recover(); p != nil {
			abort = s.recovered(x, p)
		}
	}()
	err := next(x)
	if errors.Is(err, echo.ErrNotFound) { // Echo's router knows only paths that begin with a slash; "*" and "" do not
		err = s.serve(x)
	}
	if err == nil {
		return false
	}
	return s.fail(x, err)
}

func (s *Server) fail(x *exchange, err error) (abort bool) {
	p := problemFor(err)
	x.reason, x.refusal = err.Error(), p.reason
	if x.w.status != 0 {
		return true
	}
	if err := p.write(x); err != nil {
		x.reason += "; the answer did not reach the client: " + err.Error()
	}
	return false
}

// recovered turns a panic into a 500. What the panic says is logged only where it cannot hold anything of the request.
func (s *Server) recovered(x *exchange, p any) (abort bool) {
	if p == http.ErrAbortHandler {
		return true
	}
	what := fmt.Sprintf("%T", p)
	if e, ok := p.(runtime.Error); ok {
		what = e.Error()
	}
	s.cfg.Log.Error("panic", "request_id", x.id, "panic", what, "stack", string(debug.Stack()))
	return s.fail(x, errors.New("panic: "+what))
}

// log writes the request's line. Never in it: the query, any header, a path that is no key.
func (s *Server) log(x *exchange) {
	level := slog.LevelInfo
	switch {
	case x.w.status >= 500:
		level = slog.LevelError
	case x.w.status >= 400, x.reason != "":
		level = slog.LevelWarn
	case x.Path() == "/healthz", x.Path() == "/readyz":
		level = slog.LevelDebug // a probe asks every few seconds
	}
	ctx := context.Background()
	if !s.cfg.Log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("request_id", x.id), slog.String("method", knownMethod(x.Request().Method)))
	if x.key != (store.Key{}) {
		attrs = append(attrs, slog.String("key", x.key.String()))
	} else if x.Path() != "/*" && x.Path() != "" {
		attrs = append(attrs, slog.String("path", x.Path()))
	}
	if x.identity != "" {
		attrs = append(attrs, slog.String("identity", x.identity))
	}
	bytes := x.w.bytes
	if x.Request().Method == http.MethodPut {
		bytes = x.body.moved
	}
	attrs = append(attrs, slog.Int("status", x.w.status), slog.Int64("bytes", bytes))
	if x.sha256.Known() {
		attrs = append(attrs, slog.String("sha256", x.sha256.String()))
	}
	attrs = append(attrs, slog.Float64("duration", time.Since(x.start).Seconds()), slog.String("client", x.RealIP()))
	if x.reason != "" {
		attrs = append(attrs, slog.String("reason", x.reason))
	}
	s.cfg.Log.LogAttrs(ctx, level, "request", attrs...)
}

// knownMethod keeps what a client may write freely out of the log.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodPost, http.MethodPatch,
		http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	}
	return "other"
}
