package handlers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"depot/store"
)

// health answers probes. Anyone may ask, so the store is asked at most once a second, by one probe at a time: no crowd of
// them can turn into load on the backend, nor pile up behind one that hangs.
type health struct {
	draining atomic.Bool
	store    store.Store

	mu      sync.Mutex
	running chan struct{} // closed when the check under way ends; nil when there is none
	at      time.Time     // when the last one ended
	err     error         // how
}

const (
	checkEvery   = time.Second
	checkTimeout = 5 * time.Second
)

var errDraining = &refusal{status: http.StatusServiceUnavailable, reason: "draining", detail: "this endpoint is shutting down: use another, or try again when it is back"}

// healthz says that the process lives.
func (s *Server) healthz(c echo.Context) error { return c.String(http.StatusOK, "ok\n") }

// readyz says whether the process should get requests.
func (s *Server) readyz(c echo.Context) error {
	if err := s.health.check(); err != nil {
		return err
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.String(http.StatusOK, "ready\n")
}

func (h *health) check() error {
	if h.draining.Load() {
		return errDraining
	}
	return h.checkStore(checkTimeout)
}

// checkStore waits so long for the store's answer, also when the prober has closed its side: that is no answer about the store.
func (h *health) checkStore(wait time.Duration) error {
	h.mu.Lock()
	if time.Since(h.at) < checkEvery {
		defer h.mu.Unlock()
		return h.err
	}
	if h.running == nil {
		h.running = make(chan struct{})
		go h.run(h.running)
	}
	running := h.running
	h.mu.Unlock()

	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	select {
	case <-running:
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.err
	case <-timeout.C:
		return fmt.Errorf("%w: its check has not ended in %v", store.ErrUnavailable, wait)
	}
}

// run asks the store, apart from any request: a file system that hangs cannot be cancelled, and holds this goroutine only.
func (h *health) run(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	err := h.store.Check(ctx)
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.err, h.running = time.Now(), err, nil
	close(done)
}
