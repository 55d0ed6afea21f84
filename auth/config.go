package auth

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

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
	AccessFile    string   // path of a file with more tokens and issuers of tokens, each with rights of its own; "" for none

	Log *slog.Logger // hears of key sets that cannot be fetched; nil: nobody does
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
		case !printableASCII(s):
			fail("%s: token %d has a character that does not fit into a header: use printable ASCII without spaces", name, i+1)
		case inURL && !unreserved(s):
			fail("%s: token %d has a character that means something else in a URL, and AgentVerse does not encode it under query_param: use only A-Z a-z 0-9 . _ ~ -", name, i+1)
		}
	}
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// unreserved reports whether a text is the same in a URL with and without percent-encoding (RFC 3986, section 2.3).
func unreserved(s string) bool { return strings.TrimLeft(s, alphanumeric+"._~-") == "" }
