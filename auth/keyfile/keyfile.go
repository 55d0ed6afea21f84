// Package keyfile reads the files that secrets, keys and certificates are kept in. They are read again while requests are
// answered, so whatever has taken their place must neither block nor fill the memory.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Largest is the size up to which a file is read, in bytes.
const Largest = 4 << 20

// Read reads a regular file, through links. Its errors do not repeat the path: it may be a secret that was put where a path
// belongs.
func Read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait for its writer
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, withoutPath(err)
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("this is no regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, Largest+1))
	if err == nil && len(content) > Largest {
		err = fmt.Errorf("the file is larger than %d bytes", Largest)
	}
	return content, withoutPath(err)
}

func withoutPath(err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return path.Err
	}
	return err
}
