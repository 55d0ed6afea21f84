package daemon

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// watchEvery is how often files are looked at. Their content is read, not their dates: a Kubernetes secret changes by the swap of
// a link, and no event tells of that everywhere.
const watchEvery = 3 * time.Second

// Hangups are the SIGHUPs of this process, which it survives from now on until its end.
func Hangups() <-chan os.Signal {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	return hangup
}

// Watch calls reload every few seconds, and at once on a SIGHUP (then asked is set), until ctx ends. reload says what changed, "" when nothing did; of
// what it finds wrong the state before stays in force. That is logged once, as long as it stays the same, and with every SIGHUP.
func Watch(ctx context.Context, hangup <-chan os.Signal, log *slog.Logger, reload func(asked bool) (changed string, err error)) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	wrong := ""
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			asked = true
		case <-ticker.C:
		}
		changed, err := reload(asked)
		if err != nil && (asked || err.Error() != wrong) {
			log.Error("not reloaded: what was in force before stays in force", "reason", err.Error())
		}
		switch mended := err == nil && wrong != ""; {
		case changed != "":
			log.Info("reloaded", "changed", changed)
		case mended || asked && err == nil:
			log.Info("reloaded", "changed", "nothing")
		}
		if wrong = ""; err != nil {
			wrong = err.Error()
		}
	}
}
