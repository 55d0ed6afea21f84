package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A release has a binary for each system, its checksums are right, and one that is made again elsewhere, with every package compiled
// again, is the same. (TestCompose compares linux/amd64 with what is built in a container.)
func TestRelease(t *testing.T) {
	needs(t, "sha256sum")
	needs(t, "git")
	all := []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"}
	first, again := release(t), release(t, "darwin/arm64")
	for _, system := range all {
		if len(first[system]) == 0 {
			t.Errorf("there is no binary for %s", system)
		}
	}
	if !bytes.Equal(first["darwin/arm64"], again["darwin/arm64"]) || len(first) != 4 || len(again) != 1 {
		t.Errorf("%d binaries, and %d of another the second time", len(first), len(again))
	}
}

// release makes a release, or of that what is for some systems, in a clone of its own, and gives the binaries.
func release(t *testing.T, systems ...string) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	clone := filepath.Join(dir, "clone")
	if out, err := exec.Command("git", "clone", "-q", "--shared", "../..", clone).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command("git", "-C", clone, "tag", "-f", "v1.98.7").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command("deploy/release.sh")
	cmd.Dir, cmd.Env = clone, os.Environ()
	if systems != nil {
		cmd.Args = append(append(cmd.Args, "dist"), systems...)
		cmd.Env = append(cmd.Env, "GOCACHE="+filepath.Join(dir, "cache"))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sums, err := os.ReadFile(filepath.Join(clone, "dist", "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	made := map[string][]byte{}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		path := filepath.Join(clone, "dist", name)
		content, err := os.ReadFile(path)
		if err != nil || sum != fmt.Sprintf("%x", sha256.Sum256(content)) {
			t.Errorf("the checksum of %s is not %s, %v", name, sum, err)
		}
		out, err := exec.Command("go", "version", "-m", path).Output()
		system, arch, _ := strings.Cut(strings.TrimPrefix(name, "depot-"), "-")
		for _, want := range []string{"\tdepot\tv1.98.7\t", "vcs.modified=false", "GOOS=" + system, "GOARCH=" + arch, "-trimpath=true"} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%s does not say %q of itself: %v\n%s", name, want, err, out)
			}
		}
		made[system+"/"+arch] = content
		if name == "depot-linux-amd64" {
			if out, err := exec.Command(path, "version").Output(); err != nil || !strings.HasPrefix(string(out), "depot v1.98.7 go1.") {
				t.Errorf("version: %v %s", err, out)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(clone, "new.go"), []byte("package main\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dirty := exec.Command("deploy/release.sh")
	dirty.Dir = clone
	if out, err := dirty.CombinedOutput(); err == nil || !strings.Contains(string(out), "new.go") {
		t.Errorf("with a file that is not in the tag: %v\n%s", err, out)
	}
	return made
}

// The kustomizations build, and what they build is what the Kubernetes API knows and deploy/ promises; a field that is misspelt or
// missing is found.
func TestKubernetes(t *testing.T) {
	check := func(root string) (string, error) {
		cmd := exec.Command("go", "run", ".", filepath.Join(root, "overlays/disk"), filepath.Join(root, "overlays/bucket"))
		cmd.Dir = "../kubernetes/check"
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	real, err := filepath.Abs("../kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	out, err := check(real)
	if err != nil {
		if os.Getenv("CI") == "" && strings.Contains(out, "dial tcp") {
			t.Skipf("the Kubernetes types cannot be downloaded; this is tested in CI:\n%s", out)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
	for change, want := range map[[3]string]string{
		{"base/deployment.yaml", "enableServiceLinks: false", "enableServiceLinks: true"}:                  "enableServiceLinks",
		{"base/deployment.yaml", "terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 25"}: "terminationGracePeriodSeconds",
		{"base/deployment.yaml", "readinessProbe:", "readynessProbe:"}:                                     "readynessProbe",
		{"base/disruption.yaml", "matchLabels", "matchLabel"}:                                              "matchLabel",
		{"base/deployment.yaml", "runAsNonRoot: true", "runAsNonRoot: false"}:                              "not restricted",
		{"overlays/bucket/scaling.yaml", "maxReplicas: 10", "maxReplicas: many"}:                           "HorizontalPodAutoscaler",
		{"overlays/disk/deployment.yaml", "name: data", "name: date"}:                                      "volume data is not there",
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(real)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, change[0])
		content, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(content), change[1]) {
			t.Fatalf("%s has no %q: %v", change[0], change[1], err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(content), change[1], change[2], 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := check(dir); err == nil || !strings.Contains(out, want) {
			t.Errorf("with %q: %v\n%s", change[2], err, out)
		}
	}
}
