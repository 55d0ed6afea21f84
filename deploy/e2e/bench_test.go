package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"depot/store/s3test"
)

// What depot adds to its bucket: one client alternates between depot and the server behind it, with new artifacts of the
// same size each time. depot/straight is how many times as long it takes through depot; depot-cpu-µs/op is depot's own
// processor time for each request.
//
//	go test ./deploy/e2e -run '^$' -bench Bucket -benchtime 3s
func BenchmarkBucket(b *testing.B) {
	server := s3test.Versitygw.Start(b)
	p := serve(b, b.TempDir(), append(onBucket(b, server), given...))
	straight, err := minio.NewCore(strings.TrimPrefix(server.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(s3test.AccessKey, s3test.SecretKey, ""), Region: "us-east-1"})
	if err != nil {
		b.Fatal(err)
	}
	const bucket = "straight"
	if err := straight.MakeBucket(b.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		b.Fatal(err)
	}
	throughDepot := func(method, key string, body []byte) {
		r, _ := http.NewRequestWithContext(b.Context(), method, p.url+"/"+key, bytes.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+map[bool]string{true: "up", false: "down"}[method == http.MethodPut])
		if err := expect(r, map[bool]int{true: http.StatusCreated, false: http.StatusOK}[method == http.MethodPut], -1); err != nil {
			b.Fatal(err)
		}
	}
	for _, size := range []int{64 << 10, 1 << 20, 32 << 20} {
		body := bytes.Repeat([]byte("artifact"), size/8)
		digest := fmt.Sprintf("%x", sha256.Sum256(body))
		put := func(key string) {
			if _, err := straight.PutObject(b.Context(), bucket, key, bytes.NewReader(body), int64(size), "", digest, minio.PutObjectOptions{DisableContentSha256: true}); err != nil {
				b.Fatal(err)
			}
		}
		get := func(key string) {
			object, _, _, err := straight.GetObject(b.Context(), bucket, key, minio.GetObjectOptions{})
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, object); err != nil || n != int64(size) {
				b.Fatal(n, err)
			}
			_ = object.Close()
		}
		key := func(n int) string { return fmt.Sprintf("bench/%d/%d.zip", size, n) }
		measure := func(name string, depot, straight func(n int)) {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				var through, direct time.Duration
				n, before := 0, p.cpu(b)
				for b.Loop() {
					n++
					start := time.Now()
					depot(n)
					middle := time.Now()
					straight(n)
					through, direct = through+middle.Sub(start), direct+time.Since(middle)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(through.Microseconds())/float64(n), "depot-µs/op")
				b.ReportMetric(float64(direct.Microseconds())/float64(n), "straight-µs/op")
				b.ReportMetric(float64(through)/float64(direct), "depot/straight")
				b.ReportMetric((p.cpu(b)-before)*1e6/float64(n), "depot-cpu-µs/op")
			})
		}
		puts := 0 // a benchmark may be run more than once, and a key is written once
		measure("PUT", func(int) { puts++; throughDepot(http.MethodPut, key(puts), body) }, func(int) { put(key(puts)) })
		if puts == 0 {
			throughDepot(http.MethodPut, key(1), body)
			put(key(1))
		}
		measure("GET", func(int) { throughDepot(http.MethodGet, key(1), nil) }, func(int) { get(key(1)) })
	}
}
