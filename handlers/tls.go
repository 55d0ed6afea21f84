package handlers

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"depot/auth/keyfile"
)

// Certificate is what the server shows to clients over TLS. It can be replaced while the server runs: connections that are
// open keep the old one, new ones get the new one.
type Certificate struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
	fingerprint       [sha256.Size]byte // of the files; Reload is not called concurrently
}

// LoadCertificate reads a certificate with its chain, and its key, from two PEM files. Both names empty mean no TLS: nil.
func LoadCertificate(certFile, keyFile string) (*Certificate, error) {
	switch {
	case certFile == "" && keyFile == "":
		return nil, nil
	case certFile == "":
		return nil, errors.New("Config.TLSCert: there is a key and no certificate: name its file")
	case keyFile == "":
		return nil, errors.New("Config.TLSKey: there is a certificate and no key: name its file")
	}
	c := &Certificate{certFile: certFile, keyFile: keyFile}
	_, err := c.Reload()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the files again, and reports whether they have changed. After an error the old certificate stays in force: the
// two files are written one after the other, and between the two they do not fit together. A nil Certificate has none.
func (c *Certificate) Reload() (changed bool, err error) {
	if c == nil {
		return false, nil
	}
	cert, err := keyfile.Read(c.certFile)
	if err != nil {
		return false, fmt.Errorf("Config.TLSCert: the file it names: %w: make it readable", err)
	}
	key, err := keyfile.Read(c.keyFile)
	if err != nil {
		return false, fmt.Errorf("Config.TLSKey: the file it names: %w: make it readable", err)
	}
	sum := sha256.Sum256([]byte(fmt.Sprintf("%d:%s%s", len(cert), cert, key)))
	if c.current.Load() != nil && sum == c.fingerprint {
		return false, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("Config.TLSCert: %w: it and Config.TLSKey must be PEM files that belong together", err)
	}
	c.current.Store(&pair)
	c.fingerprint = sum
	return true, nil
}

// warning says that the certificate has expired, or will in a week; "" otherwise.
func (c *Certificate) warning() string {
	if c == nil {
		return ""
	}
	switch end := c.current.Load().Leaf.NotAfter; {
	case time.Now().After(end):
		return "the TLS certificate has expired, clients refuse it: renew it"
	case time.Until(end) < 7*24*time.Hour:
		return "the TLS certificate expires on " + end.UTC().Format(time.RFC3339) + ": renew it"
	}
	return ""
}

// warnOfCertificate logs that the certificate has to be renewed, when that becomes true or it is another.
func (s *Server) warnOfCertificate() {
	warning := s.cfg.Certificate.warning()
	if before := s.warned.Swap(&warning); warning != "" && (before == nil || *before != warning) {
		s.cfg.Log.Warn(warning)
	}
}

// config is the server's part of TLS: version 1.2 or later (RFC 9325), and HTTP/2 where the client speaks it.
func (c *Certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}
