#!/usr/bin/env bash
# Runs the C++ tests under AddressSanitizer with UndefinedBehaviorSanitizer, then under ThreadSanitizer;
# there without those that need a gRPC server or maps of Protobuf, whose packages are compiled without it.
# Takes more than an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
for preset in asan tsan; do
  echo "== $preset"
  tools/test.sh "$preset"
done
