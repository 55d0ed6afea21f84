package store_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"fmt"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"os"
	"testing"

	"depot/store"
	"depot/store/s3test"
	"depot/store/storetest"
)

// openS3 opens a store at a server, in a bucket of its own unless the change says otherwise.
func openS3(t *testing.T, endpoint, url string, change func(*store.S3Config)) *store.S3 {
	t.Helper()
	cfg := store.S3Config{Store: url, S3Endpoint: endpoint, S3Region: "us-east-1", S3PathStyle: "auto", S3CreateBucket: true, StagingDir: t.TempDir()}
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

// The suite every backend must pass, against real servers; or against the service that S3_TEST_ENDPOINT names, in buckets
// that the test makes and leaves there, with the credentials of the environment:
//
//	S3_TEST_ENDPOINT=https://… AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… go test ./store -run 'TestS3$'
func TestS3(t *testing.T) {
	if endpoint := os.Getenv("S3_TEST_ENDPOINT"); endpoint != "" {
		testS3(t, &s3test.Server{Endpoint: endpoint})
		return
	}
	s3test.Setenv()
	for _, software := range []s3test.Software{s3test.Versitygw, s3test.MinIO} {
		t.Run(software.Name, func(t *testing.T) { testS3(t, software.Start(t)) })
	}
}

func testS3(t *testing.T, server *s3test.Server) {
	t.Run("bucket", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) store.Store { return openS3(t, server.Endpoint, "s3://"+server.Bucket(), nil) })
	})
	t.Run("prefix", func(t *testing.T) {
		bucket, n := server.Bucket(), 0
		storetest.Run(t, func(t *testing.T) store.Store {
			n++
			return openS3(t, server.Endpoint, fmt.Sprintf("s3://%s/team-a/%d", bucket, n), nil)
		})
	})
}

// client is minio-go's own, for what depot does not do.
func client(t *testing.T, endpoint string) *minio.Client {
	t.Helper()
	c, err := minio.New(strings.TrimPrefix(endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(s3test.AccessKey, s3test.SecretKey, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, c *minio.Client, bucket, name string, body []byte) {
	t.Helper()
	if _, err := c.PutObject(t.Context(), bucket, name, bytes.NewReader(body), int64(len(body)), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Objects that are no artifacts are neither listed nor served. Those that other tools put under a key are artifacts with the
// bucket's entity tag and an unknown digest, until a Put has read them.
func TestS3ForeignObjects(t *testing.T) {
	s3test.Setenv()
	server := s3test.Versitygw.Start(t)
	bucket := server.Bucket()
	s := openS3(t, server.Endpoint, "s3://"+bucket+"/depot", nil)
	c := client(t, server.Endpoint)
	for _, name := range []string{"readme.txt", "depot/readme.txt", "depot/a/b.zip", "depot/a/b/c/1.zip", "depot/a/b/.1.zip", "depot/a/b/1%2B.zip", "depot/a/b c/1.zip", "depot/ä/b/1.zip", "depot/.hidden/b/1.zip", "a/b/1.zip", "depotx/a/b/1.zip"} {
		write(t, c, bucket, name, []byte("foreign"))
	}
	body := storetest.Bytes(1, 100_000)
	key := storetest.Key(t, "for/eign/1.zip")
	write(t, c, bucket, "depot/"+key.String(), body)
	var listed []string
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, info.Key.String())
	}
	if len(listed) != 1 || listed[0] != key.String() {
		t.Errorf("listed: %v", listed)
	}
	info, err := s.Stat(t.Context(), key)
	if want := fmt.Sprintf("%x", md5.Sum(body)); err != nil || info.Recorded || info.SHA256.Known() || info.Tag != want {
		t.Errorf("%+v, %v; want the tag %s and no digest", info, err, want)
	}
	info, outcome, err := s.Put(t.Context(), key, bytes.NewReader(body), store.PutOptions{Size: int64(len(body))})
	if err != nil || outcome != store.Unchanged || info.SHA256 != sha256.Sum256(body) || info.Recorded {
		t.Errorf("the same bytes: %+v, %v, %v", info, outcome, err)
	}
	other := bytes.Clone(body)
	other[0]++
	if _, _, err := s.Put(t.Context(), key, bytes.NewReader(other), store.PutOptions{Size: int64(len(body))}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("other bytes: %v", err)
	}
	if _, outcome, err := s.Put(t.Context(), key, bytes.NewReader(other), store.PutOptions{Size: int64(len(body)), Overwrite: true}); err != nil || outcome != store.Replaced {
		t.Errorf("overwriting: %v, %v", outcome, err)
	}
}

// A listing of several pages comes whole, or ends with an error.
func TestS3ListFaults(t *testing.T) {
	s3test.Setenv()
	server := s3test.Versitygw.Start(t)
	bucket, c := server.Bucket(), client(t, server.Endpoint)
	openS3(t, server.Endpoint, "s3://"+bucket, nil)
	const artifacts, onFirstPage = 1200, 1000
	for i := range artifacts {
		write(t, c, bucket, fmt.Sprintf("ns/name/%04d.zip", i), []byte("x"))
	}
	var cases []func()
	for page := range 2 {
		for fault := s3test.Pass; fault < s3test.Faults; fault++ {
			for _, times := range []int{1, 3, 1000} {
				proxy := s3test.NewProxy(t, server.Endpoint)
				s := openS3(t, proxy.Endpoint, "s3://"+bucket, func(c *store.S3Config) { c.Patience = 10 * time.Second })
				cases = append(cases, func() { testListFault(t, s, proxy, page, fault, times, [2]int{onFirstPage * page, artifacts}) })
			}
		}
	}
	s3test.Together(cases) // when all stores are open: opening one writes to the bucket
}

// testListFault expects what comes before the fault, or everything.
func testListFault(t *testing.T, s store.Store, proxy *s3test.Proxy, page int, fault s3test.Fault, times int, expect [2]int) {
	var mu sync.Mutex
	requests, spoiled := 0, 0
	proxy.Set(func(*http.Request) s3test.Fault {
		mu.Lock()
		defer mu.Unlock()
		if requests++; requests > page && spoiled < times {
			spoiled++
			return fault
		}
		return s3test.Pass
	})
	n, last := 0, error(nil)
	for _, err := range s.List(t.Context(), "") {
		if last = err; err == nil {
			n++
		}
	}
	var want error
	switch {
	case fault == s3test.Silent:
		want = store.ErrTimeout
	case fault == s3test.WebPage && times > 3:
		want = store.ErrUntrusted
	case fault == s3test.ShortBody, fault != s3test.Pass && fault != s3test.WrongETag && fault != s3test.Corrupted && fault != s3test.CutShort && times > 3:
		want = store.ErrUnavailable
	}
	if !errors.Is(last, want) || want == nil && n != expect[1] || want != nil && n != expect[0] {
		t.Errorf("%v on page %d, %d times: %d artifacts, then %v; want %v", fault, page+1, times, n, last, want)
	}
	if n := len(proxy.Requests()); n > 30 {
		t.Errorf("%v on page %d, %d times: %d requests", fault, page+1, times, n)
	}
}
