// Package auth says who is asking and what they may do.
//
// It is the first room a request reaches behind the route: handlers → auth → store. It knows no routes and no store:
// package handlers hands it the credentials as they came and the action they are for, and gets an [Identity] back.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
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

// Mode says how a kind of request is authenticated.
type Mode string

// The modes, named as AgentVerse names its download_auth types. A bearer header is accepted wherever a token is wanted.
const (
	None         Mode = "none"          // uploads, downloads: open to everyone
	Bearer       Mode = "bearer"        // uploads: Authorization: Bearer <token>
	QueryParam   Mode = "query_param"   // downloads: ?<param>=<token>
	BearerHeader Mode = "bearer_header" // downloads: Authorization: Bearer <token>
)

// Config is what an Authenticator needs.
type Config struct {
	UploadAuth    Mode     // Bearer or None
	UploadToken   []string // any of them grants upload and delete everywhere
	DownloadAuth  Mode     // QueryParam, BearerHeader or None
	DownloadParam string   // name of the query parameter under QueryParam
	DownloadToken []string // any of them grants download everywhere, and nothing else
	AccessFile    string   // path of a file with more tokens, each with rights of its own; "" for none
}

// Complete fills in the tokens that are wanted and not there, with what token returns for the name of each, and reports
// whether there were any. With an access file none is wanted.
func (cfg *Config) Complete(token func(name string) (string, error)) (missing bool, err error) {
	if cfg.AccessFile != "" {
		return false, nil
	}
	if cfg.UploadAuth != None && len(cfg.UploadToken) == 0 {
		upload, uploadErr := token(UploadName)
		missing, cfg.UploadToken, err = true, []string{upload}, uploadErr
	}
	if cfg.DownloadAuth != None && len(cfg.DownloadToken) == 0 {
		download, downloadErr := token(DownloadName)
		missing, cfg.DownloadToken, err = true, []string{download}, errors.Join(err, downloadErr)
	}
	return missing, err
}

// The names of the identities that the configured tokens stand for; with several tokens, a number follows.
const (
	UploadName   = "upload-token"
	DownloadName = "download-token"
)

// Identity is who a request comes from. The zero Identity may do nothing.
type Identity struct {
	Name   string // for the log; never secret
	grants []grant
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
	Missing bool // nothing was offered at all (RFC 6750, section 3.1: no error code then)
	detail  string
}

func (e *Error) Error() string { return e.detail }

// Authenticator knows the tokens, as digests only. It is immutable, so any number of goroutines may use it.
type Authenticator struct {
	open   Action // actions that need no credentials
	param  string // "" when no query token is accepted
	tokens []token
}

type token struct {
	digest   [sha256.Size]byte
	identity Identity
	expires  time.Time // zero: never
}

// New validates a Config; the error names everything that is wrong with it.
func New(cfg Config) (*Authenticator, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	a := &Authenticator{}
	if cfg.UploadAuth == None {
		a.open |= Upload | Delete
	}
	if cfg.DownloadAuth == None {
		a.open |= Download
	}
	if cfg.DownloadAuth == QueryParam {
		a.param = cfg.DownloadParam
	}
	a.add(UploadName, cfg.UploadToken, Upload|Delete)
	a.add(DownloadName, cfg.DownloadToken, Download)
	if cfg.AccessFile != "" {
		named, err := readAccess(cfg.AccessFile, time.Now())
		if err != nil {
			return nil, errors.New("Config.AccessFile: " + strings.ReplaceAll(err.Error(), "\n", "\nConfig.AccessFile: "))
		}
		for _, n := range named {
			for _, t := range a.tokens {
				if t.digest == n.digest {
					return nil, fmt.Errorf("Config.AccessFile: %s: the token %s is also one of the settings' tokens: use different ones", cfg.AccessFile, n.identity.Name)
				}
			}
		}
		a.tokens = append(a.tokens, named...)
	}
	return a, nil
}

func (a *Authenticator) add(name string, secrets []string, actions Action) {
	for i, secret := range secrets {
		id := Identity{Name: name, grants: []grant{{actions, everywhere}}}
		if len(secrets) > 1 {
			id.Name = fmt.Sprintf("%s-%d", name, i+1)
		}
		a.tokens = append(a.tokens, token{digest: digestOf(secret), identity: id})
	}
}

// Open reports whether everyone may do this, without credentials.
func (a *Authenticator) Open(action Action) bool { return a.open&action != 0 }

// QueryParam is the name of the query parameter a download token may come in; "" when none is accepted.
func (a *Authenticator) QueryParam() string { return a.param }

// Authenticate says who is asking. Where the action is open, that is anyone, and credentials are not looked at.
// Otherwise an Authorization header, if there is one, alone decides, even an empty one; without it the query token of a
// download does. The error is an [*Error].
func (a *Authenticator) Authenticate(action Action, c Credentials) (Identity, error) {
	switch {
	case a.Open(action):
		return a.anyone(), nil
	case len(c.Authorization) > 1:
		return Identity{}, &Error{detail: "the request has more than one Authorization header: send one"}
	case len(c.Authorization) == 1:
		secret, err := bearer(c.Authorization[0])
		if err != nil {
			return Identity{}, err
		}
		return a.lookup(secret)
	case action == Download && a.param != "" && c.QueryUnreadable:
		return Identity{}, &Error{detail: "the query of the URL cannot be read: it must be ?" + a.param + "=<token>, without semicolons and broken percent escapes"}
	case action == Download && a.param != "" && len(c.Query) > 1:
		return Identity{}, &Error{detail: "the request has more than one query token: send one"}
	case action == Download && a.param != "" && len(c.Query) == 1:
		return a.lookup(c.Query[0])
	case action == Download && a.param != "":
		return Identity{}, &Error{Missing: true, detail: fmt.Sprintf(
			"a download needs a token: append ?%s=<token> to the URL, or send the header Authorization: Bearer <token>", a.param)}
	default:
		return Identity{}, &Error{Missing: true, detail: "this needs a token: send the header Authorization: Bearer <token>"}
	}
}

// anyone is who comes without credentials, where that is enough.
func (a *Authenticator) anyone() Identity {
	return Identity{Name: "anyone", grants: []grant{{a.open, everywhere}}}
}

// bearer reads the token out of a header value (RFC 6750, section 2.1; the scheme is case-insensitive by RFC 9110).
func bearer(header string) (string, error) {
	scheme, secret, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", &Error{detail: "the Authorization header does not begin with the scheme Bearer: send Authorization: Bearer <token> " +
			"(AgentVerse sends its upload_auth_header as it is, so that setting is the whole value, Bearer included)"}
	}
	if secret = strings.Trim(secret, " "); secret == "" {
		return "", &Error{detail: "the Authorization header has the scheme Bearer and no token: send Authorization: Bearer <token>"}
	}
	return secret, nil
}

// lookup compares digests, all of them and each in full, so that the time it takes tells nothing about any token.
func (a *Authenticator) lookup(secret string) (Identity, error) {
	digest := digestOf(secret)
	found := -1
	for i := range a.tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], a.tokens[i].digest[:]), i, found)
	}
	if found < 0 {
		return Identity{}, &Error{detail: "the token is not valid: check that it was copied whole, and that it is still one of the endpoint's tokens"}
	}
	if t := a.tokens[found]; !t.expires.IsZero() && !time.Now().Before(t.expires) {
		return Identity{}, &Error{detail: "the token " + t.identity.Name + " has expired: use a new one"}
	}
	return a.tokens[found].identity, nil
}

// NewToken makes a random token: 32 bytes, base64url without padding, so it fits into a header and a URL as it is.
func NewToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, says crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (cfg Config) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	switch cfg.UploadAuth {
	case None:
	case Bearer:
		if len(cfg.UploadToken) == 0 && cfg.AccessFile == "" {
			fail("Config.UploadToken: uploads need a token and there is none: set one (depot token makes one), or set Config.UploadAuth to none to let everyone upload")
		}
	default:
		fail("Config.UploadAuth: choose bearer or none")
	}
	switch cfg.DownloadAuth {
	case None:
	case QueryParam, BearerHeader:
		if len(cfg.DownloadToken) == 0 && cfg.AccessFile == "" {
			fail("Config.DownloadToken: downloads need a token and there is none: set one (depot token makes one), or set Config.DownloadAuth to none to let everyone download")
		}
	default:
		fail("Config.DownloadAuth: choose query_param, bearer_header or none")
	}
	if cfg.DownloadAuth == QueryParam && (cfg.DownloadParam == "" || !unreserved(cfg.DownloadParam)) {
		fail("Config.DownloadParam: AgentVerse puts it into URLs as it is: use only A-Z a-z 0-9 . _ ~ -")
	}
	checkTokens("Config.UploadToken", cfg.UploadToken, false, fail)
	checkTokens("Config.DownloadToken", cfg.DownloadToken, cfg.DownloadAuth == QueryParam, fail)
	for _, down := range cfg.DownloadToken {
		if down != "" && slices.Contains(cfg.UploadToken, down) {
			fail("Config.DownloadToken: one of its tokens is also in Config.UploadToken; download tokens end up in URLs that many people see: use different ones")
			break
		}
	}
	return errors.Join(errs...)
}

func checkTokens(name string, secrets []string, inURL bool, fail func(string, ...any)) {
	for i, s := range secrets {
		switch {
		case s == "":
			fail("%s: token %d is empty: give it a value (depot token makes one), or unset the setting", name, i+1)
		case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }):
			fail("%s: token %d has a character that does not fit into a header: use printable ASCII without spaces", name, i+1)
		case inURL && !unreserved(s):
			fail("%s: token %d has a character that means something else in a URL, and AgentVerse does not encode it under query_param: use only A-Z a-z 0-9 . _ ~ -", name, i+1)
		}
	}
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// unreserved reports whether a text is the same in a URL with and without percent-encoding (RFC 3986, section 2.3).
func unreserved(s string) bool { return strings.TrimLeft(s, alphanumeric+"._~-") == "" }
