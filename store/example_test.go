package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

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

	ctx := context.Background()
	key, err := store.ParseKey("myorg/my-skill/1.0.0%2Bbuild.5.zip")
	if err != nil {
		panic(err)
	}
	for _, body := range []string{"first", "first", "other"} {
		info, outcome, err := disk.Put(ctx, key, strings.NewReader(body), store.PutOptions{Size: -1})
		fmt.Println(info.Size, outcome == store.Created, outcome == store.Unchanged, errors.Is(err, store.ErrConflict))
	}
	object, err := disk.Open(ctx, key)
	if err != nil {
		panic(err)
	}
	defer object.Close()
	content, _ := io.ReadAll(object)
	fmt.Printf("%s holds %s\n", object.Key, content)
	// Output:
	// 5 true false false
	// 5 false true false
	// 0 false false true
	// myorg/my-skill/1.0.0+build.5.zip holds first
}
