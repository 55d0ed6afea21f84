package auth

import (
	"net/http"

	"github.com/golang-jwt/jwt/v5"
)

// SetTransport puts something else in the place of the network.
func (a *Authenticator) SetTransport(t http.RoundTripper) { a.client.Transport = t }

// OnSignature has f called whenever a signature is about to be checked with a key that is in force.
func (a *Authenticator) OnSignature(f func()) {
	for _, i := range a.policy.Load().issuers {
		for method, keys := range i.keys.set.byMethod {
			i.keys.set.byMethod[method] = func(t *jwt.Token) (any, error) { f(); return keys(t) }
		}
	}
}
