package handlers_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"depot/auth"
	"depot/handlers"
	"depot/store"
)

// Requests on one keep-alive connection to the real server, with its log on, and a client that does next to nothing:
//
//	go test ./handlers -run '^$' -bench . -cpuprofile cpu.out
func BenchmarkServer(b *testing.B) {
	disk, err := store.OpenDisk(store.DiskConfig{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer disk.Close()
	a, err := auth.New(auth.Config{UploadAuth: auth.Bearer, UploadToken: []string{uploadToken}, DownloadAuth: auth.BearerHeader, DownloadToken: []string{downloadToken}})
	if err != nil {
		b.Fatal(err)
	}
	h, err := handlers.New(handlers.Config{Store: disk, Auth: a, Log: jsonLog(io.Discard), UploadURL: "http://x", DownloadURLBase: "http://x", MaxSize: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Serve(ctx, listener, time.Second) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		body := make([]byte, size)
		k, _ := store.ParseKey(fmt.Sprintf("bench/%d/0.zip", size))
		if _, _, err := disk.Put(ctx, k, bytes.NewReader(body), store.PutOptions{Size: int64(size)}); err != nil {
			b.Fatal(err)
		}
		for _, method := range []string{http.MethodPut, http.MethodGet} {
			b.Run(fmt.Sprintf("%s/%dKiB", method, size>>10), func(b *testing.B) {
				conn, err := net.Dial("tcp", listener.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				r := bufio.NewReaderSize(conn, 256<<10)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if method == http.MethodPut {
						_, _ = fmt.Fprintf(conn, "PUT /bench/%d/%d-%d.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", size, b.N, i+1, uploadToken, size)
						_, _ = conn.Write(body)
					} else {
						_, _ = fmt.Fprintf(conn, "GET /bench/%d/0.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", size, downloadToken)
					}
					response, err := http.ReadResponse(r, nil)
					if err != nil || response.StatusCode >= 300 {
						b.Fatal(response, err)
					}
					_, _ = io.Copy(io.Discard, response.Body)
					i++
				}
			})
		}
	}
}
