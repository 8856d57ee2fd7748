#!/usr/bin/env bash
# From a clean clone on a bare Debian 12 to a running server, and a look at what it is for: a
# conversation that survives kill -9 token for token, and forks for the price of its state's bytes.
#
#   tools/quickstart.sh [--serve] [--no-build] [--store DIR] [--model DIR] [--listen HOST:PORT]
#
#   --serve      leave the server running at the end and say how to call it
#   --no-build   use the binaries of an earlier run
#   --store DIR  keep the sessions there (default: a temporary folder)
#   --model DIR  a checkpoint folder (default: the bundled model)
#   --listen     default: 127.0.0.1:7420 with --serve, else a free port
#   --build DIR  folder with service/reprised and clients/reprise (default: build/release)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
serve=no build=yes store= model= listen= binaries=build/release
while [ $# -gt 0 ]; do
  case $1 in
    --serve) serve=yes ;;
    --no-build) build=no ;;
    --store | --model | --listen | --build)
      [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
      case $1 in
        --store) store=$2 ;;
        --model) model=$2 ;;
        --listen) listen=$2 ;;
        --build) binaries=$2 build=no ;;
      esac
      shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "unknown option $1; see --help" >&2; exit 2 ;;
  esac
  shift
done

say() { printf '\n==> %s\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

work=$(mktemp -d)
source tools/demo/server.sh
finish() {
  status=$?
  end_server TERM
  rm -rf "$work"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ $build = yes ]; then
  say "Installing what is missing"
  tools/install_dependencies.sh
  say "Building (minutes, the first time)"
  tools/build.sh release
fi
reprised=$binaries/service/reprised
reprise=$binaries/clients/reprise
for program in "$reprised" "$reprise"; do
  [ -x "$program" ] || fail "$program is not there; run without --no-build"
done
if [ -z "$model" ]; then
  # The largest is the model; a draft model helps another one.
  model=$(find models/bundled -mindepth 1 -maxdepth 1 -type d ! -name '*draft*' \
    -exec du -sk {} + 2>/dev/null | sort -n | tail -n 1 | cut -f 2) || true
  [ -n "$model" ] || fail "no model in models/bundled; name one with --model DIR"
fi
store=${store:-$work/store}
mkdir -p "$store"
if [ -z "$listen" ]; then
  [ $serve = yes ] && listen=127.0.0.1:7420 || listen=127.0.0.1:0
fi

demo() { python3 tools/demo/demo.py "$@"; }
# generate FILE ARGUMENTS...: shows the text as it streams and keeps the token ids in FILE.
generate() {
  local file=$1
  shift
  "$reprise" --json --timing generate "$@" | demo stream "$file"
}

prompt="It was late in the evening when the stranger came to the inn, and"
half=48
# Sampled, not greedy: the random numbers have to survive the crash too.
sampling=(--temperature 0.8 --ignore-eos)
id=$(date +%s)-$$  # a given store may hold the sessions of earlier runs
short=short-$id long=long-$id
mkdir "$work/short" "$work/long"

say "Starting the server with $(basename "$model") and a store on disk"
start_server
"$reprise" models list

say "An uninterrupted run of $((2 * half)) tokens, for comparison:"
echo "$prompt"
generate "$work/whole.json" "$prompt" "${sampling[@]}" --seed 7 -n $((2 * half))

say "The first half of the same, in a session; then a snapshot of it:"
"$reprise" sessions create "$short" >/dev/null
generate "$work/short/first.json" "$prompt" --session "$short" "${sampling[@]}" --seed 7 \
  -n $half --durability sync
"$reprise" --json --timing snapshots create "$short" >"$work/short/snapshot.json"
snapshot=$(demo get "$work/short/snapshot.json" name)
echo "    $snapshot, $(demo get "$work/short/snapshot.json" state_bytes) bytes"

# For the table: a conversation some thirty times as long.
"$reprise" sessions create "$long" >/dev/null
demo story 120 | "$reprise" generate --session "$long" -n 0 --durability sync
"$reprise" --json --timing snapshots create "$long" >"$work/long/snapshot.json"

say "kill -9, and a new server on the same store"
end_server KILL
start_server

say "The session goes on:"
generate "$work/short/resumed.json" --continue --session "$short" "${sampling[@]}" -n $half
demo same "$work/short/first.json" "$work/short/resumed.json" "$work/whole.json" ||
  fail "the continuation is not that of the uninterrupted run"
generate "$work/long/resumed.json" --continue --session "$long" "${sampling[@]}" -n $half >/dev/null

say "Three forks of the snapshot, three seeds:"
for seed in 1 2 3; do
  "$reprise" --json --timing sessions fork "$snapshot" "$short-$seed" >"$work/short/fork.json"
  echo "--- seed $seed"
  generate "$work/fork.json" --continue --session "$short-$seed" --temperature 0.8 \
    --seed $seed -n 32
done
"$reprise" --json --timing sessions fork "$(demo get "$work/long/snapshot.json" name)" \
  "$long-1" >"$work/long/fork.json"

say "Measured just now on this machine ($(nproc) cores):"
demo table "$work/short" "$work/long"

[ $serve = yes ] || exit 0
say "The server runs at $REPRISE_SERVER until Ctrl-C. In another terminal:"
cat <<END
    cd $root
    export REPRISE_SERVER=$REPRISE_SERVER
    $reprise generate "$prompt" --temperature 0.8 -n 60
    $reprise chat --temperature 0.8
    $reprise sessions list

    grpcurl -plaintext -d '{"text": "It was late", "stop": {"max_tokens": 20}}' \\
      $REPRISE_SERVER reprise.v1.GenerationService/Generate

    python3 -m venv .venv && .venv/bin/pip install ./clients/python
    .venv/bin/python -c '
from reprise_client import Client
print(Client().generate("It was late", max_tokens=20).result().text)'
END
wait "$server_pid" || true
