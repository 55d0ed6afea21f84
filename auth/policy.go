package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"depot/auth/keyfile"
)

// policy is who may do what at one time. It does not change, but for what it remembers of the tokens it has seen.
type policy struct {
	open    Action  // actions that need no credentials
	param   string  // "" when no query token is accepted
	tokens  []token // of the settings, then of the access file
	issuers []*issuer
	seen    cache

	files       []string          // it was made from
	fingerprint [sha256.Size]byte // of the settings and these files
}

type token struct {
	digest   [sha256.Size]byte
	identity Identity
	expires  time.Time // zero: never
}

// newPolicy reads a Config and the files it names; strictly, as [reader] has it. sourceOf returns the source of the key set at a URL.
func newPolicy(cfg Config, strict bool, sourceOf func(url string) *source) (*policy, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p := &policy{}
	if cfg.UploadAuth == None {
		p.open |= Upload | Delete
	}
	if cfg.DownloadAuth == None {
		p.open |= Download
	}
	if cfg.DownloadAuth == QueryParam {
		p.param = cfg.DownloadParam
	}
	p.add(UploadName, cfg.UploadToken, Upload|Delete)
	p.add(DownloadName, cfg.DownloadToken, Download)
	sum := settingsSum(cfg)
	if cfg.AccessFile != "" {
		r := reader{path: cfg.AccessFile, strict: strict, sum: sum, sourceOf: sourceOf}
		tokens, issuers, err := r.readAccess()
		for _, n := range tokens {
			for _, t := range p.tokens {
				if t.digest == n.digest {
					err = errors.Join(err, fmt.Errorf("%s: the token %s is also one of the settings' tokens: use different ones", cfg.AccessFile, n.identity.Name))
				}
			}
		}
		if err != nil {
			return nil, errors.New("Config.AccessFile: " + strings.ReplaceAll(err.Error(), "\n", "\nConfig.AccessFile: "))
		}
		p.tokens, p.issuers, p.files = append(p.tokens, tokens...), issuers, r.files
	}
	p.fingerprint = [sha256.Size]byte(sum.Sum(nil))
	return p, nil
}

// settingsSum begins a fingerprint.
func settingsSum(cfg Config) hash.Hash {
	sum := sha256.New()
	cfg.Log = nil
	settings, _ := json.Marshal(cfg) // of strings: it does not fail
	add(sum, settings)
	return sum
}

// madeFrom reports whether this is the policy that a Config and its files make: so that it need not be made again to find out.
func (p *policy) madeFrom(cfg Config) bool {
	sum := settingsSum(cfg)
	for _, path := range p.files {
		content, err := keyfile.Read(path)
		if err != nil {
			return false
		}
		add(sum, content)
	}
	return p.fingerprint == [sha256.Size]byte(sum.Sum(nil))
}

func (p *policy) add(name string, secrets []string, actions Action) {
	for i, secret := range secrets {
		id := Identity{Name: name, grants: []grant{{actions, [][]pattern{everywhere}}}}
		if len(secrets) > 1 {
			id.Name = fmt.Sprintf("%s-%d", name, i+1)
		}
		p.tokens = append(p.tokens, token{digest: digestOf(secret), identity: id})
	}
}

// anyone is who comes without credentials, where that is enough.
func (p *policy) anyone() Identity {
	return Identity{Name: "anyone", grants: []grant{{p.open, [][]pattern{everywhere}}}}
}

// identify says whose token this is.
func (p *policy) identify(ctx context.Context, secret string) (Identity, error) {
	digest, now := digestOf(secret), time.Now()
	if t := p.lookup(digest); t != nil {
		if !t.expires.IsZero() && !now.Before(t.expires) {
			return Identity{}, invalid("the token " + t.identity.Name + " has expired: use a new one")
		}
		return t.identity, nil
	}
	switch isJWT := strings.HasPrefix(secret, "eyJ") && strings.Count(secret, ".") == 2; {
	case isJWT && len(p.issuers) == 0:
		return Identity{}, invalid("the token is a JWT, and this endpoint takes none: its access file has no [[issuer]]")
	case !isJWT:
		return Identity{}, invalid("the token is not valid: check that it was copied whole, without quotes and without a second Bearer, and that it is still one of the endpoint's tokens")
	}
	if id, found := p.seen.get(digest, now); found {
		return id, nil
	}
	return p.verify(ctx, secret, digest, now)
}

// lookup compares digests, all of them and each in full, so that the time it takes tells nothing about any token.
func (p *policy) lookup(digest [sha256.Size]byte) *token {
	found := -1
	for i := range p.tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], p.tokens[i].digest[:]), i, found)
	}
	if found < 0 {
		return nil
	}
	return &p.tokens[found]
}

// verify holds a JWT against every entry for its issuer: an issuer may have several, and a token has the rights of all those
// whose demands it meets. It is refused only when no entry takes it.
func (p *policy) verify(ctx context.Context, secret string, digest [sha256.Size]byte, now time.Time) (Identity, error) {
	t, err := readJWT(secret)
	if err != nil {
		return Identity{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, keyWait)
	defer cancel()
	refused := invalid("the token is a JWT, and its issuer (the claim iss) is none of the endpoint's: check who issued it")
	var v verdict
	whole, taken := true, false
	checked := map[signature]*outcome{} // entries that differ in nothing but rights are one check
	for _, i := range p.issuers {
		if i.url != t.issuer {
			continue
		}
		s := signature{i.keys, i.audience}
		if checked[s] == nil {
			claims, keys, err := i.verify(ctx, t)
			checked[s] = &outcome{claims, err}
			v.keys = append(v.keys, keys) // also of those who refuse it: with other keys they may not
		}
		err := checked[s].err
		if err == nil {
			err = i.inTime(checked[s].claims, t)
		}
		switch {
		case err == nil:
			taken = true
			i.grant(&v.identity, checked[s].claims)
		case err.Unavailable:
			whole, refused = false, err
		case !refused.Unavailable:
			refused = err
		}
	}
	if !taken {
		return Identity{}, refused
	}
	v.until = t.expires
	if !whole {
		v.identity.pending = refused
		return v.identity, nil
	}
	p.seen.put(digest, v, now)
	return v.identity, nil
}

// signature is what entries are checked by, apart from the rights they give; outcome is what that check has found.
type signature struct {
	keys     *source
	audience string
}

type outcome struct {
	claims jwt.MapClaims
	err    *Error
}
