package store

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// Secret returns the text kept under a name in the store's private state. If there is none, it keeps what generate
// returns, readable by the owner only and durable, and reports that it did. Of several callers, also in other
// processes, one generates and the others get its text.
func (d *Disk) Secret(name string, generate func() string) (text string, made bool, err error) {
	for range 2 {
		text, err = d.readSecret(name)
		if !errors.Is(err, unix.ENOENT) {
			return text, false, err
		}
		text = generate()
		switch err = d.writeSecret(name, text); {
		case err == nil:
			return text, true, nil
		case !errors.Is(err, unix.EEXIST):
			return "", false, fmt.Errorf("keep %s: %w", d.SecretPath(name), classify(err))
		}
	}
	return "", false, fmt.Errorf("keep %s: it is made and removed by turns", d.SecretPath(name))
}

// SecretPath is where Secret keeps a text, for people.
func (d *Disk) SecretPath(name string) string { return d.path + "/" + stateDir + "/" + name }

func (d *Disk) readSecret(name string) (string, error) {
	fd, err := openAt(d.state, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	f := newFile(fd, d.SecretPath(name))
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return strings.TrimSpace(string(text)), err
}

// writeSecret makes the file whole before it gets its name: a crash leaves no half of a secret.
func (d *Disk) writeSecret(name, text string) error {
	f, err := d.staging.create()
	if err != nil {
		return err
	}
	defer f.discard()
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if _, err := f.WriteString(text + "\n"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.linkTo(d.state, name); err != nil {
		return err
	}
	return syncDir(d.state)
}
