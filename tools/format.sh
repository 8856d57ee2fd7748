#!/usr/bin/env bash
# Formats the C++ sources with clang-format 16 (Debian package clang-format-16); with --check, only says
# which files would change and fails if any would.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(-i)
[ "${1:-}" = --check ] && mode=(--dry-run --Werror)
git ls-files '*.cc' '*.h' '*.cu' '*.cuh' | xargs clang-format-16 "${mode[@]}"
