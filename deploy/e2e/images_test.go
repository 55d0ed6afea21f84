package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docker runs a docker command and returns what it prints.
func docker(t testing.TB, args ...string) (output string, err error) {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func mustDocker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := docker(t, args...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// image is what a stand-in for an image holds, of this machine's files.
type image struct {
	programs map[string]string // path on this machine, and in the image; with the libraries they need
	trees    map[string]string // directories
	texts    map[string]string // path in the image, and content
	links    map[string]string
	changes  []string // as for docker import --change
}

// have makes an image available: the real one if it is there or can be pulled, else a stand-in for as long as the test runs.
// Tests use no more of a stand-in than what it has in common with the real one: a program and its configuration.
func have(t testing.TB, name string, make func() image) {
	t.Helper()
	if _, err := docker(t, "image", "inspect", name); err == nil {
		return
	}
	if _, err := docker(t, "pull", "-q", name); err == nil {
		return
	}
	standIn := make()
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	add := func(from, to string) {
		content, err := os.ReadFile(from)
		check(err)
		st, err := os.Stat(from)
		check(err)
		check(w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(to, "/"), Size: int64(len(content)), Mode: int64(st.Mode().Perm())}))
		_, err = w.Write(content)
		check(err)
	}
	text := func(path, content string) {
		check(w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(path, "/"), Size: int64(len(content)), Mode: 0o644}))
		_, err := io.WriteString(w, content)
		check(err)
	}
	for _, dir := range []string{"tmp", "var/log/nginx", "var/lib/nginx", "run"} {
		check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o1777}))
	}
	text("/etc/passwd", "root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n")
	text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
	seen := map[string]bool{}
	for from, to := range standIn.programs {
		add(from, to)
		libraries, _ := exec.Command("ldd", from).Output() // which fails for a program that needs none
		for _, library := range regexp.MustCompile(`/\S+\.so\S*`).FindAllString(string(libraries), -1) {
			if !seen[library] {
				seen[library] = true
				add(library, library)
			}
		}
	}
	for from, to := range standIn.trees {
		check(filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				add(path, to+strings.TrimPrefix(path, from))
			}
			return err
		}))
	}
	for path, content := range standIn.texts {
		text(path, content)
	}
	for name, target := range standIn.links {
		check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(name, "/"), Linkname: target}))
	}
	check(w.Close())
	args := []string{"import"}
	for _, change := range standIn.changes {
		args = append(args, "--change", change)
	}
	cmd := exec.Command("docker", append(args, "-", name)...)
	cmd.Stdin = &files
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker import %s: %v\n%s", name, err, out)
	}
	t.Cleanup(func() { _, _ = docker(t, "rmi", "-f", name) })
}

// found is where a program is on this machine.
func found(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// goImage is what the Dockerfile builds with: the Go of this machine, git, a shell, and certificates.
func goImage(t testing.TB) image {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Fatal(err)
	}
	return image{
		programs: map[string]string{found(t, "git"): "/usr/bin/git", found(t, "busybox"): "/bin/busybox"},
		trees:    map[string]string{strings.TrimSpace(string(root)): "/usr/local/go"},
		texts:    map[string]string{"/etc/ssl/certs/ca-certificates.crt": string(certificates)},
		links:    map[string]string{"/bin/sh": "busybox", "/bin/mkdir": "busybox"},
		changes:  []string{"ENV PATH=/usr/local/go/bin:/bin:/usr/bin", "ENV GOPATH=/go", "ENV GOTOOLCHAIN=local"},
	}
}
