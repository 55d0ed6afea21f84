// Package contract holds the statements an upload endpoint behind AgentVerse's "Custom HTTP Storage" is measured by, and
// checks them over HTTP against any endpoint, in whatever language it is written. The statements with their reasons are in
// README.md beside this file.
//
//	func TestMine(t *testing.T) {
//		contract.Run(t, contract.Endpoint{UploadURL: "http://127.0.0.1:8080/upload", …})
//	}
package contract

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// Endpoint says where an endpoint is and how it is meant to behave. The checks store artifacts under namespaces of their
// own (contract-…, and a few fixed ones) and delete what they stored.
type Endpoint struct {
	UploadURL       string // without a slash at the end; http or https
	DownloadURLBase string

	UploadTokens   []string // every one of them is tried; none where uploads are open
	DownloadAuth   string   // "none", "query_param" or "bearer_header"
	DownloadParam  string   // under query_param
	DownloadTokens []string // every one of them is tried

	Overwrite bool          // whether an upload replaces other bytes
	Patience  time.Duration // in which 64 KiB of a body have to come; 0 or above 5 s: not checked
	MaxSize   int64         // limit in bytes, at least 300,000; 0 or above 64 MiB: the checks at the limit are left out

	// Proxy says that there is a proxy in front. It may refuse by itself, in its own words, what is malformed; and the connection
	// is its own, so what is said of that is not checked.
	Proxy bool

	// Client sends the requests, but for those that no client would; nil means one that follows no redirects.
	Client *http.Client
}

// statement is one thing an endpoint promises.
type statement struct {
	text  string
	check func(*check)
	when  func(Endpoint) bool // nil: always applies
}

// Statements are the texts, in the order of their numbers: the first is number 1.
func Statements() []string {
	var texts []string
	for _, s := range statements() {
		texts = append(texts, s.text)
	}
	return texts
}

func statements() []statement {
	var all []statement
	for _, part := range [][]statement{uploads(), downloads(), deletions(), keys(), access(), answers()} {
		all = append(all, part...)
	}
	return all
}

// Run checks every statement that applies to the endpoint, each as a subtest called by its number and text. It logs how
// many held and returns their numbers.
func Run(t *testing.T, e Endpoint) (held []int) {
	t.Helper()
	if e.Client == nil {
		transport := &http.Transport{DisableCompression: true}
		defer transport.CloseIdleConnections()
		e.Client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	failed, other := 0, 0
	for i, s := range statements() {
		if s.when != nil && !s.when(e) {
			other++
			continue
		}
		ok := t.Run(fmt.Sprintf("%02d %s", i+1, s.text), func(t *testing.T) {
			c := &check{T: t, e: e}
			defer c.cleanUp()
			s.check(c)
		})
		if ok {
			held = append(held, i+1)
		} else {
			failed++
		}
	}
	t.Logf("contract: %d statements held, %d failed, %d are about endpoints configured otherwise", len(held), failed, other)
	return held
}

func direct(e Endpoint) bool       { return !e.Proxy }
func overwriteOff(e Endpoint) bool { return !e.Overwrite }
func overwriteOn(e Endpoint) bool  { return e.Overwrite }
func limited(e Endpoint) bool      { return e.MaxSize > 0 && e.MaxSize <= 64<<20 }
func impatient(e Endpoint) bool    { return e.Patience > 0 && e.Patience <= 5*time.Second }
func uploadAuth(e Endpoint) bool   { return len(e.UploadTokens) > 0 }
func downloadAuth(e Endpoint) bool { return e.DownloadAuth != "none" }
func queryParam(e Endpoint) bool   { return e.DownloadAuth == "query_param" }
func noQuery(e Endpoint) bool      { return e.DownloadAuth == "bearer_header" }
func openDownload(e Endpoint) bool { return e.DownloadAuth == "none" }
func prefixed(e Endpoint) bool     { return pathOf(e.UploadURL) != pathOf(e.DownloadURLBase) }
