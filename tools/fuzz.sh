#!/usr/bin/env bash
# Builds the libFuzzer targets with AddressSanitizer and UndefinedBehaviorSanitizer and runs each for a time.
#
#   tools/fuzz.sh [seconds]      default: 600 for each target
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
tools/install_dependencies.sh --fuzz
tools/build.sh fuzz
for target in build/fuzz/tests/fuzz/*_fuzz; do
  name=$(basename "$target")
  corpus=build/fuzz/corpus/$name
  mkdir -p "$corpus"
  seeds=()
  [ -d "tests/fuzz/seeds/$name" ] && seeds=("tests/fuzz/seeds/$name")
  echo "== $name, $seconds s"
  "$target" -max_total_time="$seconds" -rss_limit_mb=4096 -print_final_stats=1 "$corpus" "${seeds[@]}" 2>&1 | tail -8
done
