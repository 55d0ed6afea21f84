package store_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"depot/store"
	"depot/store/storetest"
)

// bothStagings runs a test with unnamed staged files (where the file system has them) and with named ones.
func bothStagings(t *testing.T, test func(t *testing.T, open func(t *testing.T, dir string) *store.Disk)) {
	for name, named := range map[string]bool{"unnamed": false, "named": true} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, dir string) *store.Disk {
				t.Helper()
				d, err := store.OpenDisk(store.DiskConfig{Dir: dir, NamedStaging: named})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = d.Close() })
				return d
			})
		})
	}
}

func TestDisk(t *testing.T) {
	bothStagings(t, func(t *testing.T, open func(*testing.T, string) *store.Disk) {
		storetest.Run(t, func(t *testing.T) store.Store {
			dir := t.TempDir()
			t.Cleanup(func() { mustBeTidy(t, dir) })
			return open(t, dir)
		})
	})
}

// mustBeTidy fails if anything but artifacts and empty directories is left.
func mustBeTidy(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if _, err := store.ParseKey(filepath.ToSlash(rel)); err != nil {
			t.Errorf("stray file %s", rel)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDiskLayout(t *testing.T) {
	defer unix.Umask(unix.Umask(0o022))
	bothStagings(t, func(t *testing.T, open func(*testing.T, string) *store.Disk) {
		dir := filepath.Join(t.TempDir(), "made", "on", "the", "way")
		d := open(t, dir)
		key := storetest.Key(t, "ns/name/1.0.0%2Bb.zip")
		if _, _, err := d.Put(t.Context(), key, strings.NewReader("hello"), store.PutOptions{Size: 5}); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "ns/name/1.0.0+b.zip")
		if got, err := os.ReadFile(path); err != nil || string(got) != "hello" {
			t.Errorf("the file holds %q, %v", got, err)
		}
		for path, want := range map[string]fs.FileMode{path: 0o644, filepath.Dir(path): 0o755 | fs.ModeDir, filepath.Join(dir, ".depot"): 0o700 | fs.ModeDir} {
			if st, err := os.Stat(path); err != nil || st.Mode() != want {
				t.Errorf("%s has mode %v, %v; want %v", path, st.Mode(), err, want)
			}
		}
		mustBeTidy(t, dir)
	})
}

// An artifact placed by other means has no recorded digest; it is served, and a Put to its key compares the bytes.
func TestDiskForeignFile(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir)
	key := storetest.Key(t, "for/eign/1.zip")
	if err := os.MkdirAll(filepath.Join(dir, "for/eign"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "for/eign/1.zip"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := d.Stat(t.Context(), key)
	if err != nil || info.SHA256.Known() || info.Size != 5 {
		t.Fatalf("Stat = %+v, %v", info, err)
	}
	info, outcome, err := d.Put(t.Context(), key, strings.NewReader("hello"), store.PutOptions{Size: 5})
	if err != nil || outcome != store.Unchanged || !info.SHA256.Known() {
		t.Errorf("the same bytes: %+v, %v, %v", info, outcome, err)
	}
	_, _, err = d.Put(t.Context(), key, strings.NewReader("jello"), store.PutOptions{Size: 5})
	if !errors.Is(err, store.ErrConflict) {
		t.Errorf("other bytes: %v", err)
	}
	_, outcome, err = d.Put(t.Context(), key, strings.NewReader("jello"), store.PutOptions{Size: 5, Overwrite: true})
	if err != nil || outcome != store.Replaced {
		t.Errorf("overwrite: %v, %v", outcome, err)
	}
}

func openDisk(t *testing.T, dir string) *store.Disk {
	t.Helper()
	d, err := store.OpenDisk(store.DiskConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// Leftovers of dead processes go at the start; what a living process holds stays.
func TestDiskSweep(t *testing.T) {
	dir := t.TempDir()
	first, err := store.OpenDisk(store.DiskConfig{Dir: dir, NamedStaging: true})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	stagingDir := filepath.Join(dir, ".depot", "staging")
	if err := os.WriteFile(filepath.Join(stagingDir, "depot-upload-LEFTOVERLEFTOVERLEFTOVERLE"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	var done sync.WaitGroup
	key := storetest.Key(t, "li/ving/1.zip")
	done.Go(func() {
		if _, _, err := first.Put(t.Context(), key, r, store.PutOptions{Size: -1}); err != nil {
			t.Errorf("the upload in progress: %v", err)
		}
	})
	if _, err := w.Write([]byte("hel")); err != nil { // returns when the upload has read it, so it has its file
		t.Fatal(err)
	}
	second := openDisk(t, dir)
	names, err := os.ReadDir(stagingDir)
	if err != nil || len(names) != 1 || names[0].Name() == "depot-upload-LEFTOVERLEFTOVERLEFTOVERLE" {
		t.Errorf("after a start beside an upload, staging holds %v, %v", names, err)
	}
	_, _ = w.Write([]byte("lo"))
	_ = w.Close()
	done.Wait()
	if info, err := second.Stat(t.Context(), key); err != nil || info.Size != 5 {
		t.Errorf("Stat = %+v, %v", info, err)
	}
	mustBeTidy(t, dir)
}

func TestDiskSharedByTwo(t *testing.T) {
	dir := t.TempDir()
	a, b := openDisk(t, dir), openDisk(t, dir)
	key := storetest.Key(t, "sha/red/1.zip")
	if _, _, err := a.Put(t.Context(), key, strings.NewReader("a"), store.PutOptions{Size: 1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Put(t.Context(), key, strings.NewReader("b"), store.PutOptions{Size: 1}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the other process: %v", err)
	}
	// Directories known to one process, removed by someone else.
	if err := os.RemoveAll(filepath.Join(dir, "sha")); err != nil {
		t.Fatal(err)
	}
	if _, outcome, err := a.Put(t.Context(), key, strings.NewReader("b"), store.PutOptions{Size: 1}); err != nil || outcome != store.Created {
		t.Errorf("after a removal: %v, %v", outcome, err)
	}
}

// A store that has gone is no empty store.
func TestDiskGone(t *testing.T) {
	for name, harm := range map[string]func(dir string) error{
		"removed":  os.RemoveAll,
		"replaced": func(dir string) error { return errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o755)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "root")
			d := openDisk(t, dir)
			key := storetest.Key(t, "a/b/1.zip")
			if err := harm(dir); err != nil {
				t.Fatal(err)
			}
			_, openErr := d.Open(t.Context(), key)
			_, statErr := d.Stat(t.Context(), key)
			_, _, putErr := d.Put(t.Context(), key, strings.NewReader("x"), store.PutOptions{Size: 1})
			var listErr error
			for _, err := range d.List(t.Context(), "") {
				listErr = err
			}
			for op, err := range map[string]error{"Open": openErr, "Stat": statErr, "Put": putErr, "List": listErr, "Delete": d.Delete(t.Context(), key), "Check": d.Check(t.Context())} {
				if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s = %v, want ErrUnavailable", op, err)
				}
			}
		})
	}
}

// duringBody runs once, when the body is read to its end.
type duringBody struct {
	io.Reader
	run func()
}

func (d *duringBody) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if err == io.EOF {
		d.run()
	}
	return n, err
}

// Nothing is acknowledged into a store that has gone, not even what it holds already.
func TestDiskGoneUnderway(t *testing.T) {
	for _, overwrite := range []bool{false, true} {
		for _, text := range []string{"a/b/old.zip", "a/b/new.zip"} {
			dir := filepath.Join(t.TempDir(), "root")
			d := openDisk(t, dir)
			if _, _, err := d.Put(t.Context(), storetest.Key(t, "a/b/old.zip"), strings.NewReader("x"), store.PutOptions{Size: 1}); err != nil {
				t.Fatal(err)
			}
			body := &duringBody{strings.NewReader("x"), func() {
				if err := errors.Join(os.Rename(dir, dir+".moved"), os.Mkdir(dir, 0o755)); err != nil {
					t.Error(err)
				}
			}}
			_, outcome, err := d.Put(t.Context(), storetest.Key(t, text), body, store.PutOptions{Size: -1, Overwrite: overwrite})
			if !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Put %s, overwrite %v: %v, %v", text, overwrite, outcome, err)
			}
			if err := d.Delete(t.Context(), storetest.Key(t, "a/b/old.zip")); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Delete: %v", err)
			}
		}
	}
}

// Without its staging directory a store takes no uploads, and says so.
func TestDiskStagingGone(t *testing.T) {
	bothStagings(t, func(t *testing.T, open func(*testing.T, string) *store.Disk) {
		dir := t.TempDir()
		d := open(t, dir)
		key := storetest.Key(t, "a/b/1.zip")
		if _, _, err := d.Put(t.Context(), key, strings.NewReader("x"), store.PutOptions{Size: 1}); err != nil {
			t.Fatal(err)
		}
		body := &duringBody{strings.NewReader("y"), func() { _ = os.RemoveAll(filepath.Join(dir, ".depot")) }}
		if _, _, err := d.Put(t.Context(), key, body, store.PutOptions{Size: -1, Overwrite: true}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("removed underway: %v", err)
		}
		if _, _, err := d.Put(t.Context(), key, strings.NewReader("z"), store.PutOptions{Size: 1, Overwrite: true}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("removed before: %v", err)
		}
		if info, err := d.Stat(t.Context(), key); err != nil || info.Size != 1 {
			t.Errorf("what is stored: %+v, %v", info, err)
		}
	})
}

// Whatever is planted where an artifact should be is neither followed nor waited for, nor removed.
func TestDiskPlanted(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside.zip")
	if err := os.WriteFile(outside, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := openDisk(t, dir)
	if _, _, err := d.Secret("token", func() string { return "secret" }); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "pla/nted")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(path string) error{
		"link-out":    func(p string) error { return os.Symlink(outside, p) },
		"link-within": func(p string) error { return os.Symlink("../../.depot/token", p) },
		"link-broken": func(p string) error { return os.Symlink("nowhere", p) },
		"directory":   func(p string) error { return os.Mkdir(p, 0o755) },
		"fifo":        func(p string) error { return unix.Mkfifo(p, 0o644) },
		"socket": func(p string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			t.Chdir(filepath.Dir(p)) // a socket's path has about 100 characters at most
			return unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Base(p)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(at, name+".zip")
			if err := plant(path); err != nil {
				t.Fatal(err)
			}
			key := storetest.Key(t, "pla/nted/"+name+".zip")
			if o, err := d.Open(t.Context(), key); err == nil {
				got, _ := io.ReadAll(o)
				t.Errorf("Open gave %q", got)
			}
			if err := d.Delete(t.Context(), key); err == nil {
				t.Error("it was deleted")
			}
			for _, overwrite := range []bool{false, true} {
				opts := store.PutOptions{Size: 1, Overwrite: overwrite}
				if _, _, err := d.Put(t.Context(), key, strings.NewReader("x"), opts); err == nil {
					t.Error("it was overwritten")
				}
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("it has gone: %v", err)
			}
		})
	}
	for info, err := range d.List(t.Context(), "") {
		t.Errorf("List yields %v, %v", info, err)
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != "secret" {
		t.Errorf("what is outside holds %q, %v", got, err)
	}
}

// A directory on the way that is a link is not followed either, inside the root or out of it.
func TestDiskPlantedDirectory(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	d := openDisk(t, dir)
	if err := os.WriteFile(filepath.Join(outside, "1.zip"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "ns"), 0o755), os.Symlink(outside, filepath.Join(dir, "ns/name"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"ns/name/1.zip", "link/" + filepath.Base(outside) + "/1.zip"} {
		key := storetest.Key(t, text)
		if _, err := d.Open(t.Context(), key); err == nil {
			t.Errorf("Open %s went through a link", text)
		}
		if err := d.Delete(t.Context(), key); err == nil {
			t.Errorf("Delete %s went through a link", text)
		}
		if _, _, err := d.Put(t.Context(), key, strings.NewReader("x"), store.PutOptions{Size: 1, Overwrite: true}); err == nil {
			t.Errorf("Put %s went through a link", text)
		}
	}
	for info, err := range d.List(t.Context(), "") {
		t.Errorf("List yields %v, %v", info, err)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "1.zip")); err != nil || string(got) != "secret" {
		t.Errorf("what is outside holds %q, %v", got, err)
	}
}

// Foreign things in the tree are passed by.
func TestDiskListForeign(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir)
	for _, path := range []string{"README", "lost+found/x", "ns/file", "ns/name/notes.txt", "ns/name/sub/1.zip", "ns/na me/1.zip", ".hidden/a/1.zip", "ns/name/.1.zip"} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for info, err := range d.List(t.Context(), "") {
		t.Errorf("List yields %v, %v", info, err)
	}
}

func TestDiskSecret(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	made, texts := 0, map[string]bool{}
	var done sync.WaitGroup
	for i := range 20 {
		d := openDisk(t, dir)
		done.Go(func() {
			text, isNew, err := d.Secret("token", func() string { return "secret" + string(rune('a'+i)) })
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if texts[text] = true; isNew {
				made++
			}
		})
	}
	done.Wait()
	if made != 1 || len(texts) != 1 {
		t.Errorf("%d of 20 made the secret, and they saw %v", made, texts)
	}
	st, err := os.Stat(filepath.Join(dir, ".depot/token"))
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestOpenDiskErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{"": "no directory", file: "name a directory", file + "/below": "name a directory"} {
		if _, err := store.OpenDisk(store.DiskConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("OpenDisk(%q) = %v, want something about %q", dir, err, want)
		}
	}
}

// A body that does not come in whole buffers is written in whole buffers all the same; this only checks the bytes, the
// system calls are traced in package handlers.
func TestDiskDribble(t *testing.T) {
	d := openDisk(t, t.TempDir())
	body := storetest.Bytes(1, 700_001)
	key := storetest.Key(t, "drib/ble/1.zip")
	if _, _, err := d.Put(t.Context(), key, &dribble{bytes.NewReader(body), 1}, store.PutOptions{Size: -1}); err != nil {
		t.Fatal(err)
	}
	o, err := d.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, body) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// dribble gives 1, 2, 3 … bytes at a time.
type dribble struct {
	r io.Reader
	n int
}

func (d *dribble) Read(p []byte) (int, error) {
	d.n = d.n%5000 + 1
	return d.r.Read(p[:min(d.n, len(p))])
}
