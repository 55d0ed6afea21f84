#!/usr/bin/env bash
# Makes the binaries of a release: deploy/release.sh [directory [system...]], by default dist and the four systems below. The
# version is the tag that is checked out, as the go command finds it in git; the same commit and the same Go make the same bytes,
# on any machine.
set -euo pipefail
cd "$(dirname "$0")/.."
changed=$(git status --porcelain)
[ -z "$changed" ] || { printf 'commit or remove these first, they would not be in the tag:\n%s\n' "$changed" >&2; exit 1; }
directory=${1:-dist}
mkdir -p "$directory"
[ $# -gt 1 ] && shift || set -- linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
names=()
for target; do
  name=depot-${target%/*}-${target#*/}
  names+=("$name")
  echo "$name" >&2
  GOOS=${target%/*} GOARCH=${target#*/} CGO_ENABLED=0 go build -trimpath -buildvcs=true -ldflags='-s -w' -o "$directory/$name" .
done
cd "$directory"
sha256sum "${names[@]}" | tee SHA256SUMS
