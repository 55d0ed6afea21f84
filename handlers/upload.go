package handlers

import (
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/dunglas/httpsfv"

	"depot/store"
)

// receipt is the body of the answer to an upload.
type receipt struct {
	Key    string `json:"key"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	URL    string `json:"url"` // without any token
}

// upload answers PUT. Everything that can be known from the header is decided first; the store decides what depends on
// the stored artifact, still before the first byte of the body.
func (s *Server) upload(x *exchange, key store.Key) error {
	opts, err := s.putOptions(x.Request())
	if err != nil {
		return err
	}
	s.metrics.receiving.Inc()
	defer s.metrics.receiving.Dec()
	info, outcome, err := s.cfg.Store.Put(x.Request().Context(), key, &x.body, opts)
	if x.body.err != nil {
		return x.body.err
	}
	if err != nil {
		return err
	}
	x.sha256 = info.SHA256
	url := s.downloadURL + "/" + key.String()
	h := x.Response().Header()
	h.Set("Location", url)
	setValidators(h, info)
	x.outcome = outcome.String()
	status := http.StatusOK
	if outcome == store.Created {
		status = http.StatusCreated
	}
	return x.JSON(status, receipt{Key: key.String(), Size: info.Size, SHA256: info.SHA256.String(), URL: url})
}

// putOptions reads the header of an upload, in the order the contract gives: type and encoding, syntax, length, limit.
func (s *Server) putOptions(r *http.Request) (store.PutOptions, error) {
	opts := store.PutOptions{Size: r.ContentLength, Overwrite: s.cfg.Overwrite}
	h := r.Header
	for _, contentType := range h["Content-Type"] {
		if t := strings.ToLower(strings.TrimSpace(contentType)); strings.HasPrefix(t, "multipart/") {
			return opts, refuse(http.StatusUnsupportedMediaType,
				"the body must be the raw bytes of the archive, not a multipart form: send it with Content-Type: application/zip (curl: --data-binary or -T, not -F)")
		}
	}
	for _, coding := range h["Content-Encoding"] {
		if c := strings.ToLower(strings.TrimSpace(coding)); c != "" && c != "identity" {
			return opts, refuse(http.StatusUnsupportedMediaType,
				"the body must be the raw bytes of the archive: send it without Content-Encoding")
		}
	}
	if _, present := h["Content-Range"]; present {
		return opts, refuse(http.StatusBadRequest, "an upload is always the whole archive: send it without Content-Range (RFC 9110, section 14.5)")
	}
	for _, name := range []string{"If-Match", "If-Unmodified-Since"} {
		if _, present := h[name]; present {
			return opts, refuse(http.StatusBadRequest, name+" is not supported on PUT: send If-None-Match: * to upload only what is new")
		}
	}
	if values, present := h["If-None-Match"]; present {
		if opts.IfAbsent = len(values) == 1 && strings.TrimSpace(values[0]) == "*"; !opts.IfAbsent {
			return opts, refuse(http.StatusBadRequest, "on PUT, If-None-Match can only be *: it asks that nothing be stored under the key yet")
		}
	}
	var err error
	if opts.Digests, err = declaredDigests(h); err != nil {
		return opts, err
	}
	switch {
	case r.ContentLength < 0:
		// chunked, or HTTP/2 without a length: the limit holds while it is read
	case r.ContentLength == 0 && h["Content-Length"] == nil && r.ProtoMajor == 1:
		return opts, refuse(http.StatusLengthRequired, "send Content-Length, or Transfer-Encoding: chunked")
	case r.ContentLength == 0:
		return opts, refuse(http.StatusBadRequest, "the body is empty: send the bytes of the archive")
	case r.ContentLength > s.cfg.MaxSize:
		return opts, errTooLarge
	}
	return opts, nil
}

// declaredDigests reads Repr-Digest and Content-Digest (RFC 9530; the same thing here, without content coding and ranges)
// and X-Checksum-Sha256. Digests by algorithms that cannot be checked are passed by, as RFC 9530 allows.
func declaredDigests(h http.Header) ([]store.Digest, error) {
	var digests []store.Digest
	for _, name := range []string{"Repr-Digest", "Content-Digest"} {
		values := h[name]
		if values == nil {
			continue
		}
		bad := refuse(http.StatusBadRequest, name+" must look like sha-256=:<base64 of the digest>: (RFC 9530)")
		dict, err := httpsfv.UnmarshalDictionary(values)
		if err != nil {
			return nil, bad
		}
		for _, algorithm := range dict.Names() {
			lengths := map[store.Algorithm]int{store.AlgorithmSHA256: 32, store.AlgorithmSHA512: 64}
			length, known := lengths[store.Algorithm(algorithm)]
			if !known {
				continue
			}
			member, _ := dict.Get(algorithm)
			item, isItem := member.(httpsfv.Item)
			sum, isBytes := item.Value.([]byte)
			if !isItem || !isBytes || len(sum) != length {
				return nil, bad
			}
			digests = append(digests, store.Digest{Algorithm: store.Algorithm(algorithm), Sum: sum})
		}
	}
	for _, value := range h["X-Checksum-Sha256"] {
		sum, err := hex.DecodeString(strings.TrimSpace(value))
		if err != nil || len(sum) != 32 {
			return nil, refuse(http.StatusBadRequest, "X-Checksum-Sha256 must be the SHA-256 of the body in 64 hexadecimal digits")
		}
		digests = append(digests, store.Digest{Algorithm: store.AlgorithmSHA256, Sum: sum})
	}
	return digests, nil
}
