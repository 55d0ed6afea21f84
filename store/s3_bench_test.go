package store_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"depot/store"
	"depot/store/s3test"
)

// Uploads to and downloads from a bucket, without HTTP in front:
//
//	go test ./store -run '^$' -bench S3 -cpuprofile cpu.out
func BenchmarkS3(b *testing.B) {
	s3test.Setenv()
	server := s3test.Versitygw.Start(b)
	s, err := store.OpenS3(b.Context(), store.S3Config{Store: "s3://" + server.Bucket(), S3Endpoint: server.Endpoint, S3Region: "us-east-1", S3PathStyle: "auto", S3CreateBucket: true, StagingDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	buffer := make([]byte, 256<<10)
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		body := make([]byte, size)
		n := 0
		b.Run(fmt.Sprintf("Put/%dKiB", size>>10), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n++
				key, _ := store.ParseKey(fmt.Sprintf("bench/%d/%d.zip", size, n))
				if _, _, err := s.Put(b.Context(), key, bytes.NewReader(body), store.PutOptions{Size: int64(size)}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("Open/%dKiB", size>>10), func(b *testing.B) {
			b.ReportAllocs()
			key, _ := store.ParseKey(fmt.Sprintf("bench/%d/1.zip", size))
			for b.Loop() {
				object, err := s.Open(b.Context(), key)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, object.ReadSeekCloser, buffer); err != nil {
					b.Fatal(err)
				}
				_ = object.Close()
			}
		})
	}
}
