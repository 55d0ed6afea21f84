package handlers

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"depot/auth"
	"depot/store"
)

// mostRanges is how many ranges of an artifact one request gets; one that asks for more gets the whole.
const mostRanges = 10

// download answers GET and HEAD: [http.ServeContent] does ranges and conditions.
func (s *Server) download(x *exchange, key store.Key) error {
	r := x.Request()
	if ranges := r.Header.Get("Range"); strings.Count(ranges, ",") >= mostRanges {
		r.Header.Del("Range") // which a server may ignore (RFC 9110, section 14.2): each may cost a request to the bucket
	}
	if s.redirects(r) {
		return s.redirect(x, key)
	}
	var info store.Info
	var content io.ReadSeeker
	if r.Method == http.MethodHead {
		r.Header.Del("Range") // only GET has ranges (RFC 9110, section 14.2)
		stat, err := s.cfg.Store.Stat(r.Context(), key)
		if err != nil {
			return err
		}
		info, content = stat, &sized{size: stat.Size}
	} else {
		object, err := s.cfg.Store.Open(r.Context(), key)
		if err != nil {
			return err
		}
		defer object.Close()
		// The reader itself, not the Object around it: a file must be recognised as one.
		info, content = object.Info, object.ReadSeekCloser
	}
	x.sha256 = info.SHA256

	h := x.w.Header()
	h.Set("Content-Type", "application/zip")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", disposition(key))
	if !s.cfg.Auth.Open(auth.Download) {
		h.Set("Cache-Control", "private, no-store")
		h.Set("Referrer-Policy", "no-referrer")
	}
	setValidators(h, info)

	w := &contentWriter{responseWriter: &x.w}
	http.ServeContent(w, r, "", info.ModTime, content)
	if w.refused != 0 {
		return s.refuseContent(h, info, w.refused)
	}
	// ServeContent does not report an error while copying. An answer that is too short must not end cleanly.
	if declared, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); r.Method == http.MethodGet && err == nil && x.w.bytes < declared {
		sent := fmt.Sprintf("the download broke off after %d of %d bytes", x.w.bytes, declared)
		if x.w.unreadable != nil {
			return fmt.Errorf("%s: %w", sent, x.w.unreadable)
		}
		return &refusal{reason: "broken_off", detail: sent + ": the client left or stalled"} // its status was sent
	}
	return nil
}

// disposition names the file a download is saved as. A key has no character that would need escaping here.
func disposition(key store.Key) string {
	return `attachment; filename="` + key.Name() + "-" + key.Version() + `.zip"`
}

// setValidators sets what identifies the bytes. Where the digest is not kept with them, the backend's own tag, or else size
// and time, have to do for the ETag, also right after an upload: every answer about an artifact has the same one.
func setValidators(h http.Header, info store.Info) {
	switch {
	case info.Recorded:
		h.Set("ETag", `"`+info.SHA256.String()+`"`)
	case info.Tag != "":
		h.Set("ETag", `"`+info.Tag+`"`)
	default:
		h.Set("ETag", fmt.Sprintf(`"%d-%d"`, info.Size, info.ModTime.UnixNano()))
	}
	if !info.SHA256.Known() {
		return
	}
	h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(info.SHA256[:])+":") // RFC 9530
}

// contentWriter keeps back the plain-text errors of ServeContent, so that they can be answered like all others. It is
// made for one request and embeds the writer, so that ReadFrom is still there.
type contentWriter struct {
	*responseWriter
	refused int
}

func (w *contentWriter) WriteHeader(status int) {
	if status >= 400 {
		w.refused = status
		return
	}
	w.responseWriter.WriteHeader(status)
}

func (w *contentWriter) Write(p []byte) (int, error) {
	if w.refused != 0 {
		return len(p), nil
	}
	return w.responseWriter.Write(p)
}

// refuseContent answers what ServeContent refused.
func (s *Server) refuseContent(h http.Header, info store.Info, status int) error {
	setValidators(h, info) // ServeContent takes some headers back before it reports an error
	h.Del("Content-Disposition")
	switch status {
	case http.StatusRequestedRangeNotSatisfiable:
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", info.Size))
		return refuse(status, fmt.Sprintf("the artifact has %d bytes: ask for a range within them, or for the whole", info.Size))
	case http.StatusPreconditionFailed:
		return refuse(status, "the stored artifact is not the one the request's condition names: ask again without the condition, or with the ETag of this answer")
	}
	return fmt.Errorf("ServeContent answered %d", status)
}

// sized stands in for the content of an answer to HEAD: it has a length and no bytes.
type sized struct{ size, pos int64 }

func (s *sized) Read([]byte) (int, error) { return 0, io.EOF }

func (s *sized) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.pos
	case io.SeekEnd:
		offset += s.size
	}
	s.pos = offset
	return offset, nil
}
