// Package handlers is where HTTP lives, and Echo: routes, headers, status codes, deadlines, the log line of a request.
//
// A request flows one way: route → auth (who is asking) → store.ParseKey → may they? → store → answer. This package
// imports auth and store; neither knows it.
package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"depot/auth"
	"depot/store"
)

// Config is what a Server needs.
type Config struct {
	Store store.Store
	Auth  *auth.Authenticator
	Log   *slog.Logger

	// The two URLs as the client is given them. Uploads and deletes are served below the path of the one, downloads below
	// the path of the other; their hosts are not looked at.
	UploadURL       string
	DownloadURLBase string

	Certificate *Certificate // serve TLS; nil: plain HTTP

	// Whose X-Forwarded-For the log believes, about where a request came from; nothing else does.
	TrustedProxies []netip.Prefix

	Redirect Redirect // answer downloads with a redirect; nil: send the bytes

	Admin   net.Listener // where operators are answered while Serve runs; nil: nowhere
	Version string       // for metrics

	Space func() (free, size uint64, err error) // bytes where uploads are received, for metrics; nil: nobody knows

	Overwrite bool          // let an upload replace other bytes
	MaxSize   int64         // largest artifact, in bytes
	Patience  time.Duration // give up a body that moves fewer than 64 KiB in this time; 0 means 30 s
}

// Server answers the requests that contract/README.md describes. It is an [http.Handler]; [Server.Serve]
// runs it with the deadlines it is meant to have.
type Server struct {
	cfg         Config
	uploads     string // path prefixes, "" or "/x/y"
	downloads   string
	downloadURL string // without a slash at its end
	echo        *echo.Echo
	health      health
	metrics     *metrics
	warned      atomic.Pointer[string] // of the certificate
	buffers     sync.Pool              // of *[]byte, smallFile bytes each
	copyBuffers sync.Pool              // of *[]byte, copySize bytes each
}

// New validates a Config; the error names everything that is wrong with it.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, downloadURL: strings.TrimRight(cfg.DownloadURLBase, "/")}
	var errs [4]error
	s.uploads, errs[0] = prefix("Config.UploadURL", cfg.UploadURL)
	s.downloads, errs[1] = prefix("Config.DownloadURLBase", cfg.DownloadURLBase)
	if cfg.MaxSize < 1 {
		errs[2] = errors.New("Config.MaxSize: must be at least one byte")
	}
	errs[3] = s.checkRedirect()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if s.cfg.Patience == 0 {
		s.cfg.Patience = 30 * time.Second
	}
	s.buffers.New = func() any { b := make([]byte, smallFile); return &b }
	s.copyBuffers.New = func() any { b := make([]byte, copySize); return &b }
	s.health.store = cfg.Store
	s.metrics = newMetrics(s)

	s.echo = echo.New()
	s.echo.IPExtractor = s.clientAddress()
	s.echo.Use(s.observe)
	s.echo.GET("/healthz", s.healthz)
	s.echo.HEAD("/healthz", s.healthz)
	s.echo.GET("/readyz", s.readyz)
	s.echo.HEAD("/readyz", s.readyz)
	// Every other path, every method, also those Echo has no name for: see serve.
	s.echo.RouteNotFound("/*", s.serve)
	return s, nil
}

// clientAddress is how Echo finds out where a request came from: from the last address that no trusted proxy has.
func (s *Server) clientAddress() echo.IPExtractor {
	if len(s.cfg.TrustedProxies) == 0 {
		return echo.ExtractIPDirect()
	}
	trust := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range s.cfg.TrustedProxies {
		p = p.Masked()
		trust = append(trust, echo.TrustIPRange(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}))
	}
	return echo.ExtractIPFromXFFHeader(trust...)
}

// prefix takes the path out of one of the two URLs.
func prefix(name, text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil: // its text would repeat the URL, which may hold a password
		return "", fmt.Errorf("%s: not a URL: give one like https://artifacts.example.com/depot", name)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return "", fmt.Errorf("%s: begin with http:// or https:// and a host", name)
	case u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return "", fmt.Errorf("%s: leave out user, query and fragment: AgentVerse appends the key to it", name)
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	for _, segment := range strings.Split(path, "/")[1:] {
		if _, err := store.ParseKey(segment + "/x/1.zip"); err != nil || strings.Contains(segment, "%") {
			return "", fmt.Errorf("%s: its path may have only A-Z a-z 0-9 . _ + - ~ @ between single slashes", name)
		}
	}
	return path, nil
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// Serve answers on ln, and operators on Config.Admin, until ctx ends. Then it reports not ready, stops accepting, and waits for the requests in flight,
// for as long as drain; those that take longer are cut off, which is an error.
func (s *Server) Serve(ctx context.Context, ln net.Listener, drain time.Duration) error {
	server := &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  120 * time.Second, // bodies have deadlines of their own: body.go, writer.go
		MaxHeaderBytes:               128 << 10,
		ErrorLog:                     slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
		DisableGeneralOptionsHandler: true, // OPTIONS * is 405 like every OPTIONS
	}
	failed := make(chan error, 1)
	serve := server.Serve
	if s.cfg.Certificate != nil {
		server.TLSConfig = s.cfg.Certificate.config()
		serve = func(ln net.Listener) error { return server.ServeTLS(ln, "", "") }
	}
	if s.cfg.Admin != nil {
		defer s.serveAdmin()() // also during the drain
	}
	s.warnOfCertificate()
	go func() { failed <- serve(ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.health.draining.Store(true)
	s.cfg.Log.Info("draining: no new connections, finishing the requests in flight", "at_most", drain.String())
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		_ = server.Close()
		return fmt.Errorf("requests were still in flight after %v and were cut off: raise the drain timeout if they should finish", drain)
	}
	return nil
}

// serve takes a request through the decisions that do not depend on its method, in the order the contract gives: method,
// credentials, key, permission.
func (s *Server) serve(c echo.Context) error {
	x := c.(*exchange)
	r := x.Request()
	var action auth.Action
	var below, elsewhere string
	switch r.Method {
	case http.MethodPut:
		action, below, elsewhere = auth.Upload, s.uploads, s.downloads
	case http.MethodDelete:
		action, below, elsewhere = auth.Delete, s.uploads, s.downloads
	case http.MethodGet, http.MethodHead:
		action, below, elsewhere = auth.Download, s.downloads, s.uploads
	default:
		return s.methodNotAllowed(x)
	}
	// Taken from the escaped path: Echo's parameters may be escaped or not.
	path := r.URL.EscapedPath()
	rest, found := strings.CutPrefix(path, below+"/")
	if !found && strings.HasPrefix(path, elsewhere+"/") {
		return s.methodNotAllowed(x)
	}
	key, keyErr := store.ParseKey(rest)
	x.key = key // for the log, also of a request that is refused first
	id, err := s.cfg.Auth.Authenticate(r.Context(), action, s.credentials(r))
	if err != nil {
		return err
	}
	x.identity = id.Name
	if !found {
		return refuse(http.StatusBadRequest, "this path is not below "+below+"/: check upload_url and download_url_base of the client")
	}
	if keyErr != nil {
		return keyErr
	}
	if !id.May(action, key.Namespace()) {
		if err := id.Pending(); err != nil {
			return err
		}
		return forbidden(id, action, key.Namespace())
	}
	switch action {
	case auth.Upload:
		return s.upload(x, key)
	case auth.Delete:
		return s.delete(x, key)
	default:
		return s.download(x, key)
	}
}

// methodNotAllowed says what the path does allow: the method picks the prefix.
func (s *Server) methodNotAllowed(x *exchange) error {
	path := x.Request().URL.EscapedPath()
	var allow []string
	if strings.HasPrefix(path, s.downloads+"/") {
		allow = append(allow, http.MethodGet, http.MethodHead)
	}
	if strings.HasPrefix(path, s.uploads+"/") {
		allow = append(allow, http.MethodPut, http.MethodDelete)
	}
	if allow == nil { // the server as a whole: OPTIONS *
		allow = []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete}
	}
	x.Response().Header().Set("Allow", strings.Join(allow, ", "))
	return refuse(http.StatusMethodNotAllowed, fmt.Sprintf(
		"this endpoint answers PUT and DELETE below %s/, GET and HEAD below %s/: check upload_url and download_url_base of the client",
		s.uploads, s.downloads))
}

// credentials collects what the request offers, without judging it.
func (s *Server) credentials(r *http.Request) auth.Credentials {
	c := auth.Credentials{Authorization: r.Header["Authorization"]}
	if param := s.cfg.Auth.QueryParam(); param != "" && r.URL.RawQuery != "" {
		query, err := url.ParseQuery(r.URL.RawQuery)
		c.Query, c.QueryUnreadable = query[param], err != nil
	}
	return c
}

// delete answers DELETE.
func (s *Server) delete(x *exchange, key store.Key) error {
	h := x.Request().Header
	for _, name := range []string{"If-Match", "If-None-Match", "If-Unmodified-Since"} {
		if _, present := h[name]; present {
			return refuse(http.StatusBadRequest, name+" is not supported on DELETE: send the request without it")
		}
	}
	if err := s.cfg.Store.Delete(x.Request().Context(), key); err != nil {
		return err
	}
	return x.NoContent(http.StatusNoContent)
}
