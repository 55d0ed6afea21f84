module depot

go 1.26.0

toolchain go1.26.9

require (
	github.com/google/go-cmp v0.7.0
	golang.org/x/sys v0.49.0
)
