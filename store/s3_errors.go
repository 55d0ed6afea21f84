package store

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// attempts bounds how often a request is made when the service fails or asks to slow down.
const attempts = 4

// watch is a context for one operation, which ends when the service lets us wait for too long. A transfer may take as long
// as it needs, so it is no deadline: the time begins anew whenever leastProgress bytes have moved, and stands still between
// pause and resume, while it is our turn.
type watch struct {
	ctx    context.Context
	caller context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration

	left    time.Duration // to wait until leastProgress have moved
	resumed time.Time
	moved   int64 // since the time began anew, in bytes
}

// leastProgress is what must move within a watch's limit, in bytes.
const leastProgress = 64 << 10

var errSilent = errors.New("nothing moved")

func newWatch(caller context.Context, limit time.Duration) *watch {
	w := &watch{caller: caller, limit: limit, left: limit, resumed: time.Now()}
	w.ctx, w.cancel = context.WithCancelCause(caller)
	w.timer = time.AfterFunc(limit, func() { w.cancel(errSilent) })
	return w
}

func (w *watch) resume() {
	w.resumed = time.Now()
	w.timer.Reset(w.left)
}

// pause stops the time; moved bytes have come or gone since it ran.
func (w *watch) pause(moved int) {
	w.timer.Stop()
	w.left -= time.Since(w.resumed)
	if w.moved += int64(moved); w.moved >= leastProgress {
		w.moved, w.left = 0, w.limit
	}
}

func (w *watch) end() { w.timer.Stop(); w.cancel(nil) }

// patient lets the service take longer for what it got: it may have to go through all of it once more.
func (w *watch) patient(size int64) { w.left += time.Duration(size/100_000_000) * time.Second }

// classify adds the sentinel that says what a failed request means for the one who asked; nil stays nil. It goes by the
// status first: the code and message are in a body that may be missing or come from something in between.
func (w *watch) classify(err error) error {
	var answer minio.ErrorResponse
	var network net.Error
	switch {
	case err == nil:
		return nil
	case w.caller.Err() != nil:
		return w.caller.Err()
	case errors.Is(context.Cause(w.ctx), errSilent):
		return fmt.Errorf("%w: fewer than %d bytes moved in %v", ErrTimeout, leastProgress, w.limit)
	case errors.As(err, &answer):
		answer.Code, answer.Message = short(answer.Code), short(answer.Message)
		return fmt.Errorf("%w: it answers %s: %w", sentinel(answer), describe(answer), answer)
	case errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	case errors.As(err, new(*xml.SyntaxError)), errors.As(err, new(xml.UnmarshalError)):
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func sentinel(answer minio.ErrorResponse) error {
	switch status, code := answer.StatusCode, answer.Code; {
	case status == http.StatusNotFound && code == minio.NoSuchKey: // also what minio-go makes of a 404 without a body
		return ErrNotFound
	case status == http.StatusPreconditionFailed, status == http.StatusConflict && slices.Contains(races, code):
		return errLost
	case status == http.StatusBadRequest && slices.Contains([]string{"XAmzContentSHA256Mismatch", "BadDigest", "IncompleteBody"}, code):
		return fmt.Errorf("%w (the bytes changed on their way)", ErrUntrusted)
	case status == http.StatusInsufficientStorage, status >= 400 && slices.Contains([]string{"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientCapacity"}, code):
		return ErrFull
	case status == http.StatusGatewayTimeout, status == http.StatusRequestTimeout:
		return ErrTimeout
	case status < 300, status == http.StatusBadGateway: // 0: minio-go could not read the header
		return ErrUntrusted
	}
	return ErrUnavailable
}

// races are the codes of a 409 that means two writes at once. Others may mean what will not go away, as a name that another
// one stands in the way of, or be a service's own way to lose a race; so they are tried again like failures.
var races = []string{"ConditionalRequestConflict", "OperationAborted"}

// errLost means that a conditional request met an object other than it expected.
var errLost = fmt.Errorf("%w: the object is not as expected", ErrUnavailable)

// short keeps what the service says to what a log line can bear.
func short(text string) string {
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

func describe(answer minio.ErrorResponse) string {
	if answer.StatusCode == 0 || strings.HasPrefix(answer.Code, "5") { // minio-go had nothing but the status line to call it by
		return answer.Code
	}
	return fmt.Sprintf("%d %s", answer.StatusCode, answer.Code)
}

// isTransient reports whether the same request may succeed a moment later.
func isTransient(err error) bool {
	var answer minio.ErrorResponse
	if errors.Is(err, ErrFull) {
		return false
	}
	if !errors.As(err, &answer) {
		return errors.Is(err, ErrUnavailable)
	}
	return answer.StatusCode >= 500 && answer.StatusCode != http.StatusNotImplemented || answer.StatusCode == http.StatusConflict || answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout
}

// isNoSuchKeyFromS3 reports that the service itself said there is no such object. minio-go makes the same error out of
// any 404, also one without a body or with a web page.
func isNoSuchKeyFromS3(err error) bool {
	var answer minio.ErrorResponse
	return errors.As(err, &answer) && answer.Code == minio.NoSuchKey && answer.XMLName.Local == "Error"
}
