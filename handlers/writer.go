package handlers

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// smallFile is the size up to which a file is read into memory and written at once, in bytes; larger ones go by
	// sendfile(2).
	smallFile = 16 << 10
	// copySize is what content that is no file is copied by, in bytes.
	copySize = 128 << 10
	// piece is how much sendfile is asked for at once, so that the deadline moves on in between, in bytes.
	piece = 4 << 20
)

// responseWriter is between Echo's response and net/http's: it keeps the status and the byte count for the log, moves the
// write deadline along, and passes on the ReadFrom that net/http turns into sendfile, which Echo's response hides.
type responseWriter struct {
	http.ResponseWriter
	exchange             *exchange
	control              *http.ResponseController
	patience             time.Duration
	buffers, copyBuffers *sync.Pool

	status     int // 0 until the header is written
	bytes      int64
	window     int64 // bytes until the deadline moves on
	unreadable error // what kept the content from being read to its end
}

// Unwrap is for [http.ResponseController].
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *responseWriter) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
		if w.exchange.body.unread() && w.exchange.Request().ProtoMajor == 1 { // HTTP/2 ends the one stream
			// Otherwise net/http would first wait for the body, and hold the answer back until it comes.
			w.Header().Set("Connection", "close")
		}
	}
	w.moveDeadline() // here too: an answer to HEAD, a 204 and a 304 have nothing but a header to write
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.window < int64(len(p)) {
		w.moveDeadline()
	}
	n, err := w.ResponseWriter.Write(p)
	if w.exchange.Request().Method != http.MethodHead { // whose answers are counted by net/http, and not sent
		w.moved(int64(n))
	}
	return n, err
}

func (w *responseWriter) moveDeadline() {
	w.window = leastProgress
	_ = w.control.SetWriteDeadline(time.Now().Add(w.patience))
}

func (w *responseWriter) moved(n int64) {
	w.bytes += n
	w.window -= n
}

// ReadFrom implements [io.ReaderFrom] for [http.ServeContent], which copies an [io.LimitedReader] over the content.
func (w *responseWriter) ReadFrom(src io.Reader) (n int64, err error) {
	part, limited := src.(*io.LimitedReader)
	if limited && part.N <= smallFile {
		return w.writeSmall(part)
	}
	sender, direct := w.ResponseWriter.(io.ReaderFrom)
	if !limited || !direct || !isFile(part.R) || w.exchange.Request().TLS != nil {
		buffer := w.copyBuffers.Get().(*[]byte)
		defer w.copyBuffers.Put(buffer)
		n, err := io.CopyBuffer(struct{ io.Writer }{w}, noticing{src, w}, *buffer)
		if limited && err == nil && part.N > 0 {
			w.unreadable = io.ErrUnexpectedEOF
		}
		return n, err
	}
	if err := w.control.Flush(); err != nil { // else net/http reads 512 bytes of the file to send with the header
		return 0, err
	}
	start, err := part.R.(io.Seeker).Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	for part.N > 0 {
		// A new limit on the file itself, not a limit on the limit: net/http finds the file under one of them only.
		w.moveDeadline()
		k, err := sender.ReadFrom(&io.LimitedReader{R: part.R, N: min(part.N, piece)})
		n += k
		part.N -= k
		w.moved(k)
		if errors.Is(err, os.ErrDeadlineExceeded) && k >= leastProgress {
			// Slow, but honest: 4 MiB may take longer than 64 KiB have to. Go on after what was sent: where net/http could
			// not use sendfile it has read more of the file than that.
			if _, err := part.R.(io.Seeker).Seek(start+n, io.SeekStart); err != nil {
				return n, err
			}
			continue
		}
		switch {
		case errors.Is(err, syscall.EIO): // a socket has other errors
			w.unreadable = err
		case err == nil && k == 0:
			w.unreadable = io.ErrUnexpectedEOF
		}
		if err != nil || k == 0 {
			return n, err
		}
	}
	return n, nil
}

// noticing reads content, and tells the writer when it fails: whoever copies cannot tell a reader's error from a writer's.
type noticing struct {
	io.Reader
	w *responseWriter
}

func (r noticing) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.w.unreadable = err
	}
	return n, err
}

func isFile(r io.Reader) bool {
	_, ok := r.(*os.File)
	return ok
}

// writeSmall reads a small file, or the end of a large one, and writes it in one piece.
func (w *responseWriter) writeSmall(file *io.LimitedReader) (int64, error) {
	buffer := w.buffers.Get().(*[]byte)
	defer w.buffers.Put(buffer)
	n, err := io.ReadFull(file.R, (*buffer)[:file.N])
	file.N -= int64(n)
	if n > 0 {
		n, writeErr := w.Write((*buffer)[:n])
		if writeErr != nil {
			return int64(n), writeErr
		}
	}
	w.unreadable = err
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil // as io.Copy has it; who declared more will notice
	}
	return int64(n), err
}
