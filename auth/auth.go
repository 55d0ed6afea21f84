// Package auth says who is asking and what they may do.
//
// It is the first room a request reaches behind the route: handlers → auth → store. It knows no routes and no store:
// package handlers hands it the credentials as they came and the action they are for, and gets an [Identity] back.
//
// A token is looked up among those that are known (policy.go), and else, if it is a JWT, held against the issuers of the
// access file (issuer.go, jwt.go) with their keys (keys.go, jwks.go).
package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// Action is what someone wants to do with an artifact.
type Action uint8

// The actions. They are bits, so that a grant can hold several.
const (
	Upload Action = 1 << iota
	Delete
	Download
	List
)

type namedAction struct {
	action Action
	name   string
}

var actionNames = []namedAction{{Upload, "upload"}, {Delete, "delete"}, {Download, "download"}, {List, "list"}}

// String is the action as a verb, or several with commas between them.
func (a Action) String() string {
	var names []string
	for _, n := range actionNames {
		if a&n.action != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ", ")
}

// ParseAction reads one action.
func ParseAction(name string) (Action, error) {
	for _, n := range actionNames {
		if n.name == name {
			return n.action, nil
		}
	}
	return 0, errors.New("choose one of upload, delete, download, list")
}

// The names of the identities that the configured tokens stand for; with several tokens, a number follows.
const (
	UploadName   = "upload-token"
	DownloadName = "download-token"
)

// Identity is who a request comes from. The zero Identity may do nothing.
type Identity struct {
	Name string // for the log; never secret
	// Lacks says why a valid token has fewer rights than its issuer's entry could give; "" when it has them all.
	Lacks   string
	grants  []grant
	pending *Error // an entry that could give more cannot be judged at the moment
}

// Pending is why it cannot be said at the moment that the identity may not do something; nil when it can.
func (id Identity) Pending() error {
	if id.pending == nil {
		return nil
	}
	return id.pending
}

// Credentials are what a request offered, as it came.
type Credentials struct {
	Authorization []string // the values of all Authorization header fields
	Query         []string // the values of all query parameters called DownloadParam

	QueryUnreadable bool // a part of the query could not be read, so Query may lack something
}

// Error is a refused authentication. Its text is for the one who asked and for the log: it says what to do and never
// repeats what was sent.
type Error struct {
	Missing     bool // nothing was offered at all (RFC 6750, section 3.1: no error code then)
	Unavailable bool // what was offered cannot be judged at the moment: this is no fault of the one who asks
	detail      string
}

func (e *Error) Error() string { return e.detail }

func invalid(detail string) *Error { return &Error{detail: detail} }

// Authenticator knows the tokens, as digests only, and the keys of issuers. Any number of goroutines may use it, also while
// what it knows is replaced by [Authenticator.Reload].
type Authenticator struct {
	policy atomic.Pointer[policy]
	log    *slog.Logger
	client *http.Client // for key sets

	reload  sync.Mutex
	sources map[string]*source // of key sets, by URL: they outlive a reload; under reload
	looked  [sha256.Size]byte  // fingerprint at the last look; under reload
}

// New validates a Config, with all the files it names; the error names everything that is wrong with it. Key sets are not
// fetched yet: see [Authenticator.Refresh].
func New(cfg Config) (*Authenticator, error) {
	a := &Authenticator{log: cfg.Log, client: keyClient()}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	_, err := a.Reload(cfg, true)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Reload reads a Config and its files again and puts them in force, at once and as a whole: whoever asks is judged by the old
// or the new. It reports whether it did. After an error the old stays in force. What New takes for a mistake, an entry that
// has expired or a file without any, is here a way to revoke.
//
// A file may be half written, and cut in the middle an entry may grant more than it should. So what is new counts when two
// looks in a row have seen the same, or at once where its writer says that it is complete.
func (a *Authenticator) Reload(cfg Config, complete bool) (changed bool, err error) {
	a.reload.Lock()
	defer a.reload.Unlock()
	old := a.policy.Load()
	if old != nil && old.madeFrom(cfg) {
		a.looked = old.fingerprint
		return false, nil
	}
	fresh, sources, err := a.read(cfg)
	if err != nil {
		return false, err
	}
	settled := complete || a.looked == fresh.fingerprint
	if a.looked = fresh.fingerprint; !settled {
		return false, nil
	}
	a.sources = sources
	a.policy.Store(fresh)
	return true, nil
}

// read makes a policy, with the sources of keys that are known already, and new ones for new URLs. Under reload.
func (a *Authenticator) read(cfg Config) (*policy, map[string]*source, error) {
	sources := map[string]*source{}
	p, err := newPolicy(cfg, a.policy.Load() == nil, func(url string) *source {
		if sources[url] == nil {
			sources[url] = a.sources[url]
		}
		if sources[url] == nil {
			sources[url] = &source{url: url, client: a.client, log: a.log}
		}
		return sources[url]
	})
	return p, sources, err
}

// Refresh fetches the key sets that are due, and waits for them until ctx ends. Failures are logged, and the tokens of such
// an issuer are refused as unavailable until its keys could be fetched. Call it at the start, and every few seconds.
func (a *Authenticator) Refresh(ctx context.Context) {
	a.reload.Lock()
	var running []<-chan struct{}
	for _, s := range a.sources {
		running = append(running, s.fetchIfDue())
	}
	a.reload.Unlock()
	for _, done := range running {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// Open reports whether everyone may do this, without credentials.
func (a *Authenticator) Open(action Action) bool { return a.policy.Load().open&action != 0 }

// QueryParam is the name of the query parameter a download token may come in; "" when none is accepted.
func (a *Authenticator) QueryParam() string { return a.policy.Load().param }

// Authenticate says who is asking. Where the action is open, that is anyone, and credentials are not looked at.
// Otherwise an Authorization header, if there is one, alone decides, even an empty one; without it the query token of a
// download does. The error is an [*Error]. It can take a second where a key has to be fetched, less when ctx ends.
func (a *Authenticator) Authenticate(ctx context.Context, action Action, c Credentials) (Identity, error) {
	p := a.policy.Load()
	switch {
	case p.open&action != 0:
		return p.anyone(), nil
	case len(c.Authorization) > 1:
		return Identity{}, invalid("the request has more than one Authorization header: send one")
	case len(c.Authorization) == 1:
		secret, err := bearer(c.Authorization[0])
		if err != nil {
			return Identity{}, err
		}
		return p.identify(ctx, secret)
	case action == Download && p.param != "" && c.QueryUnreadable:
		return Identity{}, invalid("the query of the URL cannot be read: it must be ?" + p.param + "=<token>, without semicolons and broken percent escapes")
	case action == Download && p.param != "" && len(c.Query) > 1:
		return Identity{}, invalid("the request has more than one query token: send one")
	case action == Download && p.param != "" && len(c.Query) == 1:
		return p.identify(ctx, c.Query[0])
	case action == Download && p.param != "":
		return Identity{}, &Error{Missing: true, detail: fmt.Sprintf(
			"a download needs a token: append ?%s=<token> to the URL, or send the header Authorization: Bearer <token>", p.param)}
	default:
		return Identity{}, &Error{Missing: true, detail: "this needs a token: send the header Authorization: Bearer <token>"}
	}
}

// bearer reads the token out of a header value (RFC 6750, section 2.1; the scheme is case-insensitive by RFC 9110).
func bearer(header string) (string, error) {
	scheme, secret, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", invalid("the Authorization header does not begin with the scheme Bearer: send Authorization: Bearer <token> " +
			"(AgentVerse sends its upload_auth_header as it is, so that setting is the whole value, Bearer included)")
	}
	if secret = strings.Trim(secret, " "); secret == "" {
		return "", invalid("the Authorization header has the scheme Bearer and no token: send Authorization: Bearer <token>")
	}
	return secret, nil
}
