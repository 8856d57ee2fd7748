#!/usr/bin/env bash
# Installs what the tests need, builds, and runs all tests: the C++ ones with ctest, the Python ones
# (comparisons with reference implementations, end to end) with pytest. Ends with one line
# "N passed, M failed" over all of them.
#
#   tools/test.sh [preset]      default: test; asan and tsan run the C++ tests under sanitizers
set -uo pipefail
cd "$(dirname "$0")/.."
preset=${1:-test}

tools/install_dependencies.sh --tests --cuda || exit 1
tools/build.sh "$preset" || exit 1

build=build/$preset
results=$build/test-results
rm -rf "$results"
mkdir -p "$results"
ctest --preset "$preset" --parallel 2 --timeout 1200
if [ "$preset" = test ] || [ "$preset" = dev ]; then
  REPRISE_BUILD_DIR=$PWD/$build .venv/bin/python -m pytest tests -q -p no:cacheprovider \
    --junitxml="$results/pytest.xml"
fi
python3 tools/sum_test_results.py "$results" "$build"
