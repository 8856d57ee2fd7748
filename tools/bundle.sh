#!/usr/bin/env bash
# Builds the release and packs what it needs into one tarball: bin/ with the programs, lib/ with their
# shared libraries, share/reprise/models with the bundled models. It runs on any x86-64 Linux with this
# machine's glibc or a newer one; with an NVIDIA driver there, on the GPU too.
#
#   tools/bundle.sh [--without-models] [--build DIR] [OUT.tar.gz]
#
# Default: build/reprise-VERSION-linux-x86_64.tar.gz. --build takes what lies in another build folder.
set -euo pipefail
cd "$(dirname "$0")/.."
models=yes
build=
while [ $# -gt 0 ]; do
  case $1 in
    --without-models) models=no; shift ;;
    --build) build=$2; shift 2 ;;
    -*) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
    *) break ;;
  esac
done
if [ -z "$build" ]; then
  tools/install_dependencies.sh --cuda
  tools/build.sh release reprised reprise
  build=build/release
fi
version=$(sed -n 's/^project(reprise VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
name=reprise-$version-linux-x86_64
out=$(realpath -m "${1:-build/$name.tar.gz}")
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cmake --install "$build" --prefix "$stage/$name" --strip >/dev/null
[ $models = yes ] || rm -rf "$stage/$name/share/reprise/models"
find "$stage/$name/lib" -type f -name '*.so*' -exec strip --strip-unneeded {} +

# Nothing may still come from outside the bundle but the C library.
for program in "$stage/$name"/bin/*; do
  outside=$(ldd "$program" | awk '$2 == "=>" {print $1, $3}' | grep -v " $stage/" |
    grep -Ev '^lib(c|m|dl|rt|pthread|resolv|util)\.so' || true)
  if [ -n "$outside" ]; then
    echo "$program takes from outside the bundle:" "$outside" >&2
    exit 1
  fi
done
tar -C "$stage" -czf "$out" --owner=0 --group=0 "$name"
echo "$out: $(du -h "$out" | cut -f1)"
