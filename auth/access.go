package auth

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"depot/auth/keyfile"
)

// accessFile is the access file as it is written, in TOML. Paths in it are relative to its directory.
type accessFile struct {
	Token  []tokenEntry  `toml:"token"`
	Issuer []issuerEntry `toml:"issuer"`
}

// tokenEntry is one [[token]]:
//
//	name = "ci"                     # for the log
//	sha256 = "…"                    # of the token; or secret_file = "path"
//	allow = ["upload"]              # upload, delete, download, list
//	namespaces = ["team-a", "lib*"] # exact names, or the beginning of names and a star, or "*"
//	expires = 2027-06-01            # from the beginning of this day in UTC on it is not valid; optional; or a time with a zone
type tokenEntry struct {
	Name       string   `toml:"name"`
	SHA256     string   `toml:"sha256"`
	SecretFile string   `toml:"secret_file"`
	Allow      []string `toml:"allow"`
	Namespaces []string `toml:"namespaces"`
	Expires    any      `toml:"expires"`
}

// readAccess reads the access file. The error names every problem with its line, and never a value that may be a secret.
func (r *reader) readAccess() (tokens []token, issuers []*issuer, err error) {
	content, err := r.readFile(r.path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w: make it readable", r.path, err)
	}
	var file accessFile
	decoder := toml.NewDecoder(bytes.NewReader(content)).DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return nil, nil, tomlError(r.path, err)
	}
	if err := exactKeys(content); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", r.path, err)
	}
	if len(file.Token)+len(file.Issuer) == 0 && (r.strict || len(bytes.TrimSpace(content)) == 0) {
		return nil, nil, fmt.Errorf("%s: it grants nothing: add a [[token]] or an [[issuer]] (to revoke all while depot runs, leave a comment in it)", r.path)
	}
	r.find(content)
	for i, entry := range file.Token {
		r.enter("token", i)
		tokens = append(tokens, r.token(entry, tokens))
	}
	for i, entry := range file.Issuer {
		r.enter("issuer", i)
		issuers = append(issuers, r.issuer(entry, tokens, issuers))
	}
	return tokens, issuers, errors.Join(r.errs...)
}

// reader turns the entries of an access file into what they grant, and collects what is wrong with them.
type reader struct {
	path     string
	strict   bool                     // at a start: what grants nothing any more is a mistake, not someone's way to revoke it
	sourceOf func(url string) *source // of a key set

	files   []string         // that were read, in this order
	sum     hash.Hash        // of them
	lines   []string         // of the access file
	headers map[string][]int // the lines where the entries of each kind begin, counted from 0
	first   int              // line of the entry under way
	errs    []error
}

// readFile reads the access file, or one that it names.
func (r *reader) readFile(path string) ([]byte, error) {
	if !filepath.IsAbs(path) && path != r.path {
		path = filepath.Join(filepath.Dir(r.path), path)
	}
	content, err := keyfile.Read(path)
	r.files = append(r.files, path)
	add(r.sum, content)
	return content, err
}

// add adds a content to a sum, so that it cannot be taken for another sequence of contents.
func add(sum hash.Hash, content []byte) {
	_, _ = fmt.Fprintf(sum, "%d:%s", len(content), content) // a hash does not fail
}

// reserved are the names of those that are not in the access file.
var reserved = regexp.MustCompile(`^(anyone|(` + UploadName + `|` + DownloadName + `)(-\d+)?)$`)

func (r *reader) token(entry tokenEntry, before []token) token {
	t := token{identity: Identity{Name: entry.Name}}
	switch {
	case entry.Name == "" || !printableASCII(entry.Name):
		r.fail("name", "a token needs a name, of printable ASCII without spaces: the log knows it by that")
	case reserved.MatchString(entry.Name):
		r.fail("name", "the name %s is taken by a token from the settings", entry.Name)
	case slices.ContainsFunc(before, func(b token) bool { return b.identity.Name == entry.Name }):
		r.fail("name", "another token has the name %s", entry.Name)
	}
	t.digest = r.digest(entry)
	for _, b := range before {
		if t.digest != ([32]byte{}) && b.digest == t.digest {
			r.fail("sha256", "it is the same token as %s", b.identity.Name)
		}
	}
	t.identity.grants = []grant{{r.actions(entry.Allow), [][]pattern{r.patterns(entry.Namespaces)}}}
	t.expires = r.expiry(entry.Expires)
	return t
}

func (r *reader) digest(entry tokenEntry) (digest [32]byte) {
	switch {
	case (entry.SHA256 == "") == (entry.SecretFile == ""):
		r.fail("sha256", "give one of sha256 and secret_file, and not empty (depot token prints a token and its entry)")
	case entry.SHA256 != "":
		sum, err := hex.DecodeString(entry.SHA256)
		if err != nil || len(sum) != len(digest) {
			r.fail("sha256", "it must be 64 hexadecimal digits: the SHA-256 of the token, not the token (depot token prints both)")
			return digest
		}
		copy(digest[:], sum)
		if digest == digestOf("") {
			r.fail("sha256", "it is the SHA-256 of nothing: an empty token would be valid")
		}
	default:
		content, err := r.readFile(entry.SecretFile)
		secret := strings.TrimSpace(string(content))
		switch {
		case err != nil:
			r.fail("secret_file", "%s", r.unreadable(err))
		case secret == "":
			r.fail("secret_file", "the file is empty: put a token into it (depot token makes one)")
		case !printableASCII(secret):
			r.fail("secret_file", "the token has a character that does not fit into a header: use printable ASCII without spaces, one token a file")
		default:
			digest = digestOf(secret)
		}
	}
	return digest
}

// unreadable says why a file that an entry names cannot be read. Its name is not repeated, only where it is looked for: it may
// be a secret that was put into the wrong place.
func (r *reader) unreadable(err error) string {
	return fmt.Sprintf("this file cannot be read: %v (a relative path begins at %s)", err, filepath.Dir(r.path))
}

func printableASCII(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' })
}

func (r *reader) actions(names []string) (actions Action) {
	for _, name := range names {
		at := slices.IndexFunc(actionNames, func(n namedAction) bool { return n.name == name })
		if at < 0 {
			r.fail("allow", "there is no action like %s: choose of upload, delete, download, list", shown(name))
			continue
		}
		actions |= actionNames[at].action
	}
	if len(names) == 0 {
		r.fail("allow", "it allows nothing: name one or more of upload, delete, download, list")
	}
	return actions
}

func (r *reader) patterns(texts []string) (patterns []pattern) {
	for _, text := range texts {
		p, err := parsePattern(text)
		if err != nil {
			r.fail("namespaces", "%v", err)
		}
		patterns = append(patterns, p)
	}
	if len(texts) == 0 {
		r.fail("namespaces", `it is for no namespace: name some, or "*" for all`)
	}
	return patterns
}

func (r *reader) expiry(value any) (expires time.Time) {
	switch v := value.(type) {
	case nil:
		return time.Time{}
	case toml.LocalDate:
		expires = v.AsTime(time.UTC)
	case time.Time:
		expires = v
	default:
		r.fail("expires", "give a day like 2027-06-01, or a time with its zone like 2027-06-01T12:00:00Z, without quotes")
		return time.Time{}
	}
	if r.strict && !expires.After(time.Now()) {
		r.fail("expires", "it has expired: remove the entry, or give a later day")
	}
	return expires
}
