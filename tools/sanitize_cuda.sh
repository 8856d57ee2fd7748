#!/usr/bin/env bash
# On a machine with a card: the kernel tests under compute-sanitizer, memcheck with the usual build,
# racecheck with one in which all threads of a warp arrive at barriers (kernels/cuda/async.cuh).
# Takes hours for all; a filter of GoogleTest's narrows it down:
#
#   tools/sanitize_cuda.sh '*small*'
set -euo pipefail
cd "$(dirname "$0")/.."
filter=${1:-*}
tests=(elementwise_test residual_test matmul_test matmul_chain_test recurrence_test
  recurrent_step_test attention_test attention_step_test)
tools/build.sh test "${tests[@]}"
tools/build.sh racecheck "${tests[@]}"
for test in "${tests[@]}"; do
  echo "== $test: memcheck"
  REPRISE_EXACT_BUFFERS=1 compute-sanitizer --error-exitcode 1 \
    "build/test/tests/kernels/$test" --gtest_brief=1 --gtest_filter="$filter"
  echo "== $test: racecheck"
  compute-sanitizer --tool racecheck --num-cuda-barriers 64 --error-exitcode 1 \
    "build/racecheck/tests/kernels/$test" --gtest_brief=1 --gtest_filter="$filter"
done
