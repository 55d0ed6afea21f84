package store_test

import (
	"fmt"
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

func TestS3(t *testing.T) {
	s3test.Setenv()
	for _, software := range []s3test.Software{s3test.Versitygw, s3test.MinIO} {
		t.Run(software.Name, func(t *testing.T) {
			server := software.Start(t)
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
		})
	}
}
