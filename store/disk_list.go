package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// List implements [Store]. It holds the names of one namespace, one artifact and one version list at a time. SHA256 is
// known wherever Stat knows it.
func (d *Disk) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := d.Check(ctx); err != nil {
			yield(Info{}, fmt.Errorf("list %q: %w", prefix, err))
			return
		}
		_, err := d.walk(ctx, d.fd(), "", prefix, yield)
		if err != nil {
			yield(Info{}, fmt.Errorf("list %q: %w", prefix, classify(err)))
		}
	}
}

// walk yields what is below one directory; path is its own, with a slash at the end unless it is the root. It reports
// whether the caller wants more.
func (d *Disk) walk(ctx context.Context, dir int, path, prefix string, yield func(Info, error) bool) (bool, error) {
	names, err := readNames(dir)
	if err != nil {
		return false, err
	}
	inner := strings.Count(path, "/") < 2
	if inner {
		// A directory sorts as its name and a slash, as in the keys: "a-b/" before "a/".
		for i := range names {
			names[i] += "/"
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if strings.HasPrefix(name, ".") {
			continue
		}
		more, full := true, path+name
		switch {
		case inner && (strings.HasPrefix(full, prefix) || strings.HasPrefix(prefix, full)):
			more, err = d.walkInto(ctx, dir, full, prefix, yield)
		case !inner && strings.HasPrefix(full, prefix):
			more, err = yieldArtifact(dir, full, yield)
		}
		if err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

func (d *Disk) walkInto(ctx context.Context, parent int, path, prefix string, yield func(Info, error) bool) (bool, error) {
	name := path[strings.LastIndex(path[:len(path)-1], "/")+1 : len(path)-1]
	fd, err := openDirAt(parent, name)
	if isMissing(err) || errors.Is(err, unix.ELOOP) { // removed meanwhile, or not a directory
		return true, nil
	}
	if errors.Is(err, unix.EACCES) && path == "lost+found/" { // the file system's own
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return d.walk(ctx, fd, path, prefix, yield)
}

// yieldArtifact passes by what is no artifact: a foreign file is not the listing's business.
func yieldArtifact(dir int, path string, yield func(Info, error) bool) (bool, error) {
	key, err := ParseKey(path)
	if err != nil || key.String() != path {
		return true, nil
	}
	f, info, err := openArtifact(dir, key)
	if isMissing(err) || errors.Is(err, errNotRegular) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	_ = f.Close()
	return yield(info, nil), nil
}
