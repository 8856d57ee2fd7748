# Starting and ending the server of a script that sources this. The script sets `reprised`, `model`,
# `listen`, `store` and `work` (a folder for the log and the port).

server_pid=

# Starts the server and exports REPRISE_SERVER when it takes calls.
start_server() {
  rm -f "$work/port"
  "$reprised" --model "$(basename "$model")=$model" --listen "$listen" --store "disk:$store" \
    --port-file "$work/port" >>"$work/server.log" 2>&1 &
  server_pid=$!
  for _ in $(seq 600); do
    if [ -s "$work/port" ]; then
      export REPRISE_SERVER="${listen%:*}:$(tr -d '[:space:]' <"$work/port")"
      return 0
    fi
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  echo "the server did not start; the end of its log:" >&2
  tail -n 20 "$work/server.log" >&2
  return 1
}

# end_server SIGNAL: sends it and waits until the process is gone.
end_server() {
  [ -n "$server_pid" ] || return 0
  kill -s "$1" "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}
