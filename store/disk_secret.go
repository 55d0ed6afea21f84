package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Secret returns the text kept under a name in the store's private state. If there is none, it keeps what generate
// returns, readable by the owner only and durable, and reports that it did. Of several callers, also in other
// processes, one generates and the others get its text.
func (d *Disk) Secret(name string, generate func() string) (text string, made bool, err error) {
	for range 2 {
		text, err = ReadSecret(d.path, name)
		if !errors.Is(err, fs.ErrNotExist) {
			return text, false, err
		}
		text = generate()
		switch err = d.writeSecret(name, text); {
		case err == nil:
			return text, true, nil
		case !errors.Is(err, unix.EEXIST):
			return "", false, fmt.Errorf("keep %s: %w", SecretPath(d.path, name), classify(err))
		}
	}
	return "", false, fmt.Errorf("keep %s: it is made and removed by turns", SecretPath(d.path, name))
}

// SecretPath is where the store in a directory keeps a text.
func SecretPath(dir, name string) string { return filepath.Join(dir, stateDir, name) }

// ReadSecret returns a text that the store in a directory keeps, without opening the store or changing anything in it;
// fs.ErrNotExist if there is none.
func ReadSecret(dir, name string) (string, error) {
	content, err := os.ReadFile(SecretPath(dir, name))
	text := strings.TrimSpace(string(content))
	if err == nil && text == "" {
		err = fmt.Errorf("%s is empty: remove it, and a new one is made at the next start", SecretPath(dir, name))
	}
	return text, err
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
