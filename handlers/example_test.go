package handlers_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"depot/auth"
	"depot/handlers"
	"depot/store"
)

func Example() {
	dir, err := os.MkdirTemp("", "depot-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	disk, err := store.OpenDisk(store.DiskConfig{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer disk.Close()
	authenticator, err := auth.New(auth.Config{UploadAuth: auth.Bearer, UploadToken: []string{"s3cret"}, DownloadAuth: auth.None})
	if err != nil {
		panic(err)
	}
	server, err := handlers.New(handlers.Config{
		Store: disk, Auth: authenticator, Log: slog.New(slog.DiscardHandler),
		UploadURL: "https://artifacts.example.com/upload", DownloadURLBase: "https://artifacts.example.com", MaxSize: 1 << 20,
	})
	if err != nil {
		panic(err)
	}
	local := httptest.NewServer(server) // Serve gives it the deadlines it should have outside of an example
	defer local.Close()

	for _, token := range []string{"wrong", "s3cret"} {
		r, _ := http.NewRequest(http.MethodPut, local.URL+"/upload/myorg/my-skill/1.0.0.zip", strings.NewReader("PK…"))
		r.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			panic(err)
		}
		_ = response.Body.Close()
		fmt.Printf("%d %q\n", response.StatusCode, response.Header.Get("Location"))
	}
	response, err := http.Get(local.URL + "/myorg/my-skill/1.0.0.zip")
	if err != nil {
		panic(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	fmt.Println(response.StatusCode, string(body))
	// Output:
	// 401 ""
	// 201 "https://artifacts.example.com/myorg/my-skill/1.0.0.zip"
	// 200 PK…
}
