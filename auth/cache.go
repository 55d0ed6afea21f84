package auth

import (
	"crypto/sha256"
	"sync"
	"time"
)

// mostSeen is how many tokens a cache holds at the most.
const mostSeen = 1000

// cache remembers JWTs that were verified, by their digest, so that a signature is checked once and not with every request.
// Only who holds valid tokens can fill it. The zero cache is ready.
type cache struct {
	mu       sync.RWMutex
	verdicts map[[sha256.Size]byte]verdict
}

// verdict is what was found out about a token, and for how long that holds.
type verdict struct {
	identity Identity
	until    time.Time // it expires
	keys     []*keySet // it was held against: it ends with the first of them
}

func (c *cache) get(digest [sha256.Size]byte, now time.Time) (Identity, bool) {
	c.mu.RLock()
	v, found := c.verdicts[digest]
	c.mu.RUnlock()
	if !found || !now.Before(v.until) {
		return Identity{}, false
	}
	for _, k := range v.keys {
		if !k.inForce(now) {
			return Identity{}, false
		}
	}
	return v.identity, true
}

func (c *cache) put(digest [sha256.Size]byte, v verdict, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verdicts == nil || len(c.verdicts) >= mostSeen {
		c.verdicts = map[[sha256.Size]byte]verdict{} // what is in use comes back with its next request
	}
	if now.Before(v.until) {
		c.verdicts[digest] = v
	}
}
