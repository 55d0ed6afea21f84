// Package daemon is how the process lives on its machine: which signals end it, which sockets it is handed, what it tells the
// service manager, and which files it looks at again.
package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Context ends with the first SIGINT or SIGTERM. A second one does not wait for the drain and ends the process.
func Context() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		os.Exit(128 + int((<-signals).(syscall.Signal)))
	}()
	return ctx
}

// Listen listens on an address; where the service manager holds a socket for this process, that is it (sd_listen_fds(3)). Then
// the port is open while the service restarts, and may be one that only root could open.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	handed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("the sockets of the service manager: %w", err)
	}
	switch {
	case len(handed) == 1 && handed[0] != nil:
		return handed[0], nil
	case len(handed) > 0:
		return nil, fmt.Errorf("the service manager hands over %d sockets, or one that is no stream: give one ListenStream", len(handed))
	}
	return ListenOnly(ctx, address)
}

// ListenOnly listens on an address, whatever the service manager holds; "" is none.
func ListenOnly(ctx context.Context, address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
}

// Ready tells the service manager that requests are answered (sd_notify(3)) and, when ctx ends, that the end has begun. The function
// it returns waits until that is said: a process with nothing left to do would be gone before.
func Ready(ctx context.Context) (wait func()) {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // nobody may listen
	said := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(said)
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	})
	return func() {
		if !stop() {
			<-said
		}
	}
}
