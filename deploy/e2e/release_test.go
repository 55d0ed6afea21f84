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

// A release has a binary for each system, its checksums are right, and it is the same when it is made again elsewhere.
func TestRelease(t *testing.T) {
	needs(t, "sha256sum")
	needs(t, "git")
	var first map[string][]byte
	for range 2 {
		dir := t.TempDir()
		// A clone at another place: what is built must not depend on where.
		clone := filepath.Join(dir, "clone")
		if out, err := exec.Command("git", "clone", "-q", "--shared", "../..", clone).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if out, err := exec.Command("git", "-C", clone, "tag", "-f", "v1.98.7").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		cmd := exec.Command("deploy/release.sh")
		cmd.Dir = clone
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		made := map[string][]byte{}
		sums, err := os.ReadFile(filepath.Join(clone, "dist", "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"depot-linux-amd64", "depot-linux-arm64", "depot-darwin-amd64", "depot-darwin-arm64"} {
			if made[name], err = os.ReadFile(filepath.Join(clone, "dist", name)); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(sums), fmt.Sprintf("%x  %s\n", sha256.Sum256(made[name]), name)) {
				t.Errorf("the checksum of %s is not in\n%s", name, sums)
			}
			if out, err := exec.Command("go", "version", "-m", filepath.Join(clone, "dist", name)).Output(); err != nil || !strings.Contains(string(out), "\tdepot\tv1.98.7\t") || !strings.Contains(string(out), "vcs.modified=false") {
				t.Errorf("%s says of itself: %v\n%s", name, err, out)
			}
			if first != nil && !bytes.Equal(first[name], made[name]) {
				t.Errorf("%s is another the second time", name)
			}
		}
		out, err := exec.Command(filepath.Join(clone, "dist", "depot-linux-amd64"), "version").Output()
		if err != nil || !strings.HasPrefix(string(out), "depot v1.98.7 go1.") {
			t.Errorf("version: %v %s", err, out)
		}
		first = made
		if err := os.WriteFile(filepath.Join(clone, "new.go"), []byte("package main\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		again := exec.Command("deploy/release.sh")
		again.Dir = clone
		if out, err := again.CombinedOutput(); err == nil || !strings.Contains(string(out), "new.go") {
			t.Errorf("with a file that is not in the tag: %v\n%s", err, out)
		}
	}
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
