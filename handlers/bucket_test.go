package handlers_test

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"depot/store"
	"depot/store/s3test"
	"depot/store/storetest"
)

// openBucket opens a store in a bucket, which it makes.
func openBucket(t *testing.T, endpoint, bucket string, change func(*store.S3Config)) *store.S3 {
	t.Helper()
	s3test.Setenv()
	cfg := store.S3Config{Store: "s3://" + bucket, S3Endpoint: endpoint, S3Region: "us-east-1", S3PathStyle: "auto", S3CreateBucket: true, StagingDir: t.TempDir()}
	if change != nil {
		change(&cfg)
	}
	s, err := store.OpenS3(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		if left, err := os.ReadDir(cfg.StagingDir); err != nil || len(left) != 0 {
			t.Errorf("left in the staging directory: %v, %v", left, err)
		}
	})
	return s
}

// What a request costs at the bucket, in its requests.
func TestBucketRequests(t *testing.T) {
	gateway := s3test.Versitygw.Start(t)
	proxy, bucket := s3test.NewProxy(t, gateway.Endpoint), gateway.Bucket()
	s := start(t, withStore(openBucket(t, proxy.Endpoint, bucket, nil)))
	body := string(storetest.Bytes(1, 20<<20)) // minio-go's own PutObject would send this in two parts
	other := strings.Repeat("x", len(body))
	upload, token := []string{"Authorization", "Bearer " + uploadToken}, "?token="+downloadToken
	etag := ""
	for _, test := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		requests                 []string // methods, in order
	}{
		{"a new artifact", "PUT", key, body, upload, 201, []string{"HEAD", "PUT", "HEAD"}},
		{"the same bytes", "PUT", key, body, upload, 200, []string{"HEAD", "HEAD"}},
		{"other bytes", "PUT", key, other, upload, 409, []string{"HEAD", "HEAD"}},
		{"another length", "PUT", key, "x", upload, 409, []string{"HEAD"}},
		{"bad credentials", "PUT", key, body, nil, 401, nil},
		{"a download", "GET", key + token, "", nil, 200, []string{"GET"}},
		{"HEAD", "HEAD", key + token, "", nil, 200, []string{"HEAD"}},
		{"a range at the beginning", "GET", key + token, "", []string{"Range", "bytes=0-99"}, 206, []string{"GET"}},
		{"a range", "GET", key + token, "", []string{"Range", "bytes=9000000-9000099"}, 206, []string{"GET", "GET"}},
		{"the end", "GET", key + token, "", []string{"Range", "bytes=-5"}, 206, []string{"GET", "GET"}},
		{"no such range", "GET", key + token, "", []string{"Range", "bytes=99999999-"}, 416, []string{"GET"}},
		{"not modified", "GET", key + token, "", []string{"If-None-Match", "*"}, 304, []string{"GET"}},
		{"a missing artifact", "GET", "ns/name/2.zip" + token, "", nil, 404, []string{"GET"}},
		{"HEAD of a missing one", "HEAD", "ns/name/2.zip" + token, "", nil, 404, []string{"HEAD", "HEAD"}}, // the second asks about the bucket
		{"a delete", "DELETE", key, "", upload, 204, []string{"HEAD", "DELETE"}},
		{"another delete", "DELETE", key, "", upload, 404, []string{"HEAD", "HEAD"}},
	} {
		proxy.Set(nil)
		response, text := s.do(t, test.method, s.url+"/"+test.path, strings.NewReader(test.body), test.headers...)
		if response.StatusCode != test.status {
			t.Errorf("%s: %s %.200s", test.name, response.Status, text)
		}
		var methods []string
		for _, r := range proxy.Requests() {
			method, path, _ := strings.Cut(r, " ")
			methods = append(methods, method)
			if strings.Contains(path, "?") {
				t.Errorf("%s: it asks for %s", test.name, r)
			}
		}
		if !slices.Equal(methods, test.requests) {
			t.Errorf("%s costs %v, want %v", test.name, methods, test.requests)
		}
		if test.status == 206 {
			start, end := 9000000, 9000100
			switch {
			case strings.HasSuffix(test.headers[1], "0-99") && !strings.Contains(test.headers[1], "9000"):
				start, end = 0, 100
			case strings.HasSuffix(test.headers[1], "-5"):
				start, end = len(body)-5, len(body)
			}
			if text != body[start:end] {
				t.Errorf("%s: other bytes", test.name)
			}
		}
		if e := response.Header.Get("ETag"); test.status < 300 && test.method != "DELETE" {
			if etag == "" {
				etag = e
			}
			if e != etag || len(e) != 66 {
				t.Errorf("%s: the ETag is %s, was %s", test.name, e, etag)
			}
		}
	}
}

// The same bytes have the same ETag and Repr-Digest wherever they are kept; what other tools put into the bucket has the
// bucket's ETag.
func TestBucketValidators(t *testing.T) {
	gateway := s3test.Versitygw.Start(t)
	bucket := gateway.Bucket()
	inBucket, onDisk := start(t, withStore(openBucket(t, gateway.Endpoint, bucket, nil))), start(t)
	body := string(storetest.Bytes(2, 100_000))
	var answers []http.Header
	for _, s := range []*server{inBucket, onDisk} {
		for _, method := range []string{"PUT", "GET", "HEAD"} {
			response, _ := s.do(t, method, s.url+"/"+key, strings.NewReader(body), "Authorization", "Bearer "+map[bool]string{true: uploadToken, false: downloadToken}[method == "PUT"])
			answers = append(answers, response.Header)
		}
	}
	for _, h := range answers {
		for _, name := range []string{"ETag", "Repr-Digest"} {
			if h.Get(name) == "" || h.Get(name) != answers[0].Get(name) {
				t.Errorf("%s is %q, and %q elsewhere", name, h.Get(name), answers[0].Get(name))
			}
		}
	}
	client, err := minio.New(strings.TrimPrefix(gateway.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(s3test.AccessKey, s3test.SecretKey, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	foreign := bytes.Repeat([]byte("foreign"), 1000)
	if _, err := client.PutObject(t.Context(), bucket, "for/eign/1.zip", bytes.NewReader(foreign), int64(len(foreign)), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	response, got := inBucket.get(t, "for/eign/1.zip")
	if want := fmt.Sprintf(`"%x"`, md5.Sum(foreign)); got != string(foreign) || response.Header.Get("ETag") != want || response.Header.Get("Repr-Digest") != "" {
		t.Errorf("%d bytes, %v; want the ETag %s and no Repr-Digest", len(got), response.Header, want)
	}
	if response, body := inBucket.put(t, "for/eign/1.zip", string(foreign)); response.StatusCode != 200 || response.Header.Get("Repr-Digest") == "" {
		t.Errorf("the same bytes: %s %s", response.Status, body)
	}
	if response, body := inBucket.put(t, "for/eign/1.zip", "jello"); response.StatusCode != 409 || !strings.Contains(body, "sha256 unknown") {
		t.Errorf("other bytes: %s %s", response.Status, body)
	}
}

// A download that the bucket replaces between two of its requests ends broken: never with bytes of two artifacts.
func TestBucketReplacedMeanwhile(t *testing.T) {
	gateway := s3test.Versitygw.Start(t)
	proxy, bucket := s3test.NewProxy(t, gateway.Endpoint), gateway.Bucket()
	s := start(t, withStore(openBucket(t, proxy.Endpoint, bucket, nil)))
	direct := openBucket(t, gateway.Endpoint, bucket, nil)
	k := storetest.Key(t, key)
	put := func(body string) {
		if _, _, err := direct.Put(t.Context(), k, strings.NewReader(body), store.PutOptions{Size: -1, Overwrite: true}); err != nil {
			t.Error(err)
		}
	}
	for name, change := range map[string]func(){
		"replaced": func() { put(strings.Repeat("b", 9<<20)) },
		"deleted":  func() { _ = direct.Delete(t.Context(), k) },
	} {
		put(strings.Repeat("a", 9<<20))
		proxy.Set(func(r *http.Request) s3test.Fault {
			if r.Header.Get("Range") != "" {
				change()
			}
			return s3test.Pass
		})
		r, _ := http.NewRequestWithContext(t.Context(), "GET", s.url+"/"+key+"?token="+downloadToken, nil)
		r.Header.Set("Range", "bytes=5000000-5000099")
		response, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			var n int64
			var rest bytes.Buffer
			n, err = rest.ReadFrom(response.Body)
			_ = response.Body.Close()
			if err == nil || n != 0 {
				t.Errorf("%s: %s, %d bytes, %v", name, response.Status, n, err)
			}
		}
	}
}

// Clients that leave in the middle of several ranges do no harm, and many ranges cost no more than the whole.
func TestBucketMultiRange(t *testing.T) {
	gateway := s3test.Versitygw.Start(t)
	proxy, bucket := s3test.NewProxy(t, gateway.Endpoint), gateway.Bucket()
	s := start(t, withStore(openBucket(t, proxy.Endpoint, bucket, nil)))
	body := string(storetest.Bytes(1, 4<<20))
	if response, _ := s.put(t, key, body); response.StatusCode != http.StatusCreated {
		t.Fatal(response.Status)
	}
	ranges := "bytes=0-999999,2000000-2999999,1500000-1599999,3000000-4000000"
	var done sync.WaitGroup
	for range 8 {
		done.Go(func() {
			for i := range 25 {
				conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = fmt.Fprintf(conn, "GET /%s?token=%s HTTP/1.1\r\nHost: x\r\nRange: %s\r\n\r\n", key, downloadToken, ranges)
				_, _ = io.CopyN(io.Discard, conn, int64(i*100_000))
				_ = conn.Close()
			}
		})
	}
	done.Wait()
	response, got := s.do(t, "GET", s.url+"/"+key+"?token="+downloadToken, nil, "Range", ranges)
	_, parts, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil || response.StatusCode != http.StatusPartialContent {
		t.Fatal(response.Status, err)
	}
	reader := multipart.NewReader(strings.NewReader(got), parts["boundary"])
	for _, want := range []string{body[:1000000], body[2000000:3000000], body[1500000:1600000], body[3000000:4000001]} {
		part, err := reader.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if content, err := io.ReadAll(part); err != nil || string(content) != want {
			t.Errorf("a range has %d bytes of %d, %v", len(content), len(want), err)
		}
	}
	proxy.Set(nil)
	many := "bytes=0-0" + strings.Repeat(",5-5,2-2", 5000)
	if response, got := s.do(t, "GET", s.url+"/"+key+"?token="+downloadToken, nil, "Range", many); response.StatusCode != http.StatusOK || got != body {
		t.Errorf("10,001 ranges: %s, %d bytes", response.Status, len(got))
	}
	if n := len(proxy.Requests()); n != 1 {
		t.Errorf("10,001 ranges cost %d requests", n)
	}
}
