package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"depot/auth"
	"depot/store"
)

// problem is the body of every error answer (RFC 9457). Detail says what to do; what went wrong inside is for the log.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	RequestID string `json:"request_id"`

	authenticate string // WWW-Authenticate
	reason       string // a word for it, for metrics
}

// refusal is an error that is its own answer.
type refusal struct {
	status       int
	reason       string
	detail       string
	authenticate string
}

func (r *refusal) Error() string { return r.detail }

// refuse is a refusal that metrics count as a request that is not as it should be.
func refuse(status int, detail string) error {
	return &refusal{status: status, reason: "bad_request", detail: detail}
}

func forbidden(id auth.Identity, action auth.Action, namespace string) error {
	return &refusal{http.StatusForbidden, "forbidden", "the token is valid, but " + id.Refusal(action, namespace) + "; use a token that may", `Bearer error="insufficient_scope"`}
}

// answers are the errors that are answered the same whatever they say, each with the reason that metrics count it under.
var answers = []struct {
	err    error
	status int
	reason string
	detail string
}{
	{errTooLarge, http.StatusRequestEntityTooLarge, "too_large", "the archive is larger than this endpoint takes: make it smaller, or have the endpoint's size limit raised"},
	{errStalled, http.StatusRequestTimeout, "stalled", "the upload stalled and was given up, nothing is stored: send it again"},
	{errCutShort, http.StatusBadRequest, "cut_short", "the body ended before it was complete, nothing is stored: send it again, whole"},
	{context.Canceled, http.StatusBadRequest, "cut_short", "the body ended before it was complete, nothing is stored: send it again, whole"},
	{store.ErrNotFound, http.StatusNotFound, "not_found", "nothing is stored under this key: check namespace, name and version"},
	{store.ErrExists, http.StatusPreconditionFailed, "exists", "an artifact is stored under this key, and If-None-Match: * asks that there be none: publish under a new version"},
	{store.ErrFull, http.StatusInsufficientStorage, "store_full", "the endpoint has no space left: have room made on its storage, then send it again"},
	{store.ErrUnavailable, http.StatusServiceUnavailable, "store_unavailable", "the endpoint cannot use its storage: try again (an upload that was stored after all is answered 200), and if that does not help have its log looked at for this request_id"},
	{store.ErrTimeout, http.StatusGatewayTimeout, "store_timeout", "the endpoint's storage did not answer in time, an upload may or may not be stored: send it again, the same bytes are never stored twice"},
	{store.ErrUntrusted, http.StatusBadGateway, "store_untrusted", "the endpoint's storage gave an answer that cannot be trusted: try again, and if that does not help have its log looked at"},
}

// problemFor is the one place where errors become status codes.
func problemFor(err error) problem {
	var refused *refusal
	var unauthenticated *auth.Error
	switch {
	case errors.As(err, &refused):
		return problem{Status: refused.status, reason: refused.reason, Detail: refused.detail, authenticate: refused.authenticate}
	case errors.As(err, &unauthenticated) && unauthenticated.Missing:
		return problem{Status: http.StatusUnauthorized, reason: "no_credentials", Detail: err.Error(), authenticate: "Bearer"}
	case errors.As(err, &unauthenticated) && unauthenticated.Unavailable:
		return problem{Status: http.StatusServiceUnavailable, reason: "no_issuer_keys", Detail: err.Error()}
	case errors.As(err, &unauthenticated):
		return problem{Status: http.StatusUnauthorized, reason: "bad_credentials", Detail: err.Error(), authenticate: `Bearer error="invalid_token"`}
	case errors.Is(err, store.ErrInvalidKey):
		return problem{Status: http.StatusBadRequest, reason: "bad_key", Detail: err.Error()}
	case errors.Is(err, store.ErrConflict):
		return problem{Status: http.StatusConflict, reason: "conflict", Detail: conflictDetail(err)}
	case errors.Is(err, store.ErrMismatch):
		return problem{Status: http.StatusBadRequest, reason: "mismatch", Detail: mismatchDetail(err)}
	}
	for _, a := range answers {
		if errors.Is(err, a.err) {
			return problem{Status: a.status, reason: a.reason, Detail: a.detail}
		}
	}
	return problem{Status: http.StatusInternalServerError, reason: "failed", Detail: "the endpoint failed: have its log looked at for this request_id"}
}

func conflictDetail(err error) string {
	const what = "published versions do not change: publish under a new version"
	if conflict := (*store.ConflictError)(nil); errors.As(err, &conflict) {
		return conflict.Error() + "; " + what
	}
	return store.ErrConflict.Error() + "; " + what
}

// mismatchDetail passes on which declaration the body failed: it speaks only of what the client itself sent.
func mismatchDetail(err error) string {
	detail := store.ErrMismatch.Error()
	for e := err; e != nil; e = errors.Unwrap(e) {
		if next := errors.Unwrap(e); next == store.ErrMismatch {
			detail = e.Error()
		}
	}
	return detail + "; nothing is stored: send it again"
}

func (p problem) write(x *exchange) error {
	p.Type, p.Title, p.RequestID = "about:blank", http.StatusText(p.Status), x.id
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // "<token>" is for people, and this is no HTML
	if err := encoder.Encode(p); err != nil {
		return err
	}
	h := x.w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if p.reason == "no_issuer_keys" {
		h.Set("Retry-After", "60") // no sooner are the keys asked for again
	}
	if p.authenticate != "" {
		h.Set("WWW-Authenticate", p.authenticate)
	}
	if p.Status == http.StatusUnsupportedMediaType {
		h.Set("Accept-Encoding", "identity") // RFC 9110, section 15.5.16
	}
	x.w.WriteHeader(p.Status)
	_, err := x.w.Write(body.Bytes())
	return err
}
