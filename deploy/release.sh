#!/usr/bin/env bash
# Makes the binaries of a release: deploy/release.sh [directory, dist by default]. The version is the tag that is checked out, as
# the go command finds it in git; the same commit and the same Go make the same bytes, on any machine.
set -euo pipefail
cd "$(dirname "$0")/.."
changed=$(git status --porcelain)
[ -z "$changed" ] || { printf 'commit or remove these first, they would not be in the tag:\n%s\n' "$changed" >&2; exit 1; }
out=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
for target in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do
  export GOOS=${target%/*} GOARCH=${target#*/} CGO_ENABLED=0
  name=depot-$GOOS-$GOARCH
  echo "$name" >&2
  go vet ./...
  go build -trimpath -buildvcs=true -ldflags='-s -w' -o "$out/$name" .
done
cd "$out"
sha256sum depot-linux-amd64 depot-linux-arm64 depot-darwin-amd64 depot-darwin-arm64 | tee SHA256SUMS
