package handlers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"depot/store"
)

// Redirect is a URL under which anyone can read an artifact for a while, with this Content-Disposition, straight from where
// it is kept. It is asked about artifacts that are there.
type Redirect func(ctx context.Context, key store.Key, disposition string) (string, error)

// redirects reports whether a download is answered with a redirect. Conditions are about our ETag, which the other side
// does not know, so those we decide ourselves.
func (s *Server) redirects(r *http.Request) bool {
	if s.cfg.Redirect == nil || r.Method != http.MethodGet {
		return false
	}
	for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"} {
		if r.Header[name] != nil {
			return false
		}
	}
	return true
}

// redirect answers a download with the address of the bytes.
func (s *Server) redirect(x *exchange, key store.Key) error {
	info, err := s.cfg.Store.Stat(x.Request().Context(), key)
	if err != nil {
		return err
	}
	target, err := s.cfg.Redirect(x.Request().Context(), key, disposition(key))
	if err != nil {
		return err
	}
	x.sha256 = info.SHA256
	h := x.w.Header()
	h.Set("Location", target)
	h.Set("Cache-Control", "private, no-store") // the address is a right to read, for a while
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Length", "0")
	x.w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

// checkRedirect refuses an address on the host and port of our own downloads: a client that follows a redirect there keeps
// its Authorization header, and S3 refuses a request with two kinds of credentials.
func (s *Server) checkRedirect() error {
	if s.cfg.Redirect == nil {
		return nil
	}
	key, _ := store.ParseKey("namespace/name/1.zip")
	target, err := s.cfg.Redirect(context.Background(), key, disposition(key))
	if err != nil {
		return fmt.Errorf("Config.S3Redirect: %w", err)
	}
	there, therePort := hostAndPort(target)
	here, herePort := hostAndPort(s.cfg.DownloadURLBase)
	if there == here && therePort == herePort {
		return errors.New("Config.S3RedirectEndpoint: the redirects would lead to the host and port of Config.DownloadURLBase itself, where clients send their Authorization header again and the bucket refuses it: give the address under which clients reach the bucket, on a host of its own, or turn Config.S3Redirect off")
	}
	if there == here || strings.HasSuffix(there, "."+here) {
		s.cfg.Log.Warn("redirects lead to the host of the downloads or one below it: some clients (Go's) send their Authorization header there too; give the bucket a host of its own as the redirect endpoint", "bucket", there)
	}
	if s.cfg.Auth.QueryParam() != "" {
		s.cfg.Log.Warn("redirects after a query token: some clients (Go's) tell the bucket in a Referer header where they come from, token included; keep its access log closed")
	}
	return nil
}

func hostAndPort(text string) (host, port string) {
	u, err := url.Parse(text)
	if err != nil {
		return "", ""
	}
	if port = u.Port(); port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.ToLower(u.Hostname()), port
}
