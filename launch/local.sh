#!/usr/bin/env bash
# N processes of one run on this machine, which find each other over loopback: the rehearsal of the other launchers.
#
#   launch/local.sh 2 --config=configs/quickstart.py:runlocal --workdir=runs/rehearsal
#
# What follows N is passed to 'xtc compress'. DEVICES=2 gives every process that many CPU devices (default 1); XTC is the command
# (default: .venv/bin/xtc where there is one, else xtc). Process 0 has the screen, the others a file each, named at the start.
# When one fails, the others are stopped after GRACE seconds (default 50: one that waits for it learns of its end within 30), and
# its status is the status of all: 2 bad input, 75 preempted (SIGTERM or Ctrl-C; saved), 128 + n killed by signal n: see
# launch/statuses.sh. launch/restart.sh before all this starts it again where that helps, as the other launchers do.
set -uo pipefail

case ${1:-} in
  '' | *[!0-9]* | 0) echo "usage: launch/local.sh N [arguments of xtc compress]" >&2; exit 2 ;;
esac
n=$1
shift
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/launch/statuses.sh"
if [ -z "${XTC:-}" ]; then
  if [ -x "$here/.venv/bin/xtc" ]; then XTC=$here/.venv/bin/xtc; else XTC=xtc; fi
fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit 2
logs=$(mktemp -d "${TMPDIR:-/tmp}/xtc-local.XXXXXX") || exit 2
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} PYTHONUNBUFFERED=1
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-1}"

pids=()
for ((i = 0; i < n; i++)); do
  log=$logs/process-$i.log
  command=($XTC compress --coordinator="127.0.0.1:$port" --processes="$n" --process="$i" "$@")
  if ((i == 0)); then "${command[@]}" & else "${command[@]}" >"$log" 2>&1 & fi
  pids[i]=$!
  echo "local: process $i has pid ${pids[i]}$( ((i > 0)) && echo ", output in $log")" >&2
done
status=0 deadline=''
trap 'kill -TERM "${pids[@]}" 2>/dev/null; deadline=$((SECONDS + ${GRACE:-50}))' INT TERM

while ((${#pids[@]})); do
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    wait "${pids[i]}"
    code=$?
    unset "pids[i]"
    ((code == 0)) && continue
    echo "local: process $i ended with status $code" >&2
    if ((i > 0 && $(verdict "$status" "$code") != status)); then tail -n 3 "$logs/process-$i.log" >&2; fi
    status=$(verdict "$status" "$code")
    deadline=${deadline:-$((SECONDS + ${GRACE:-50}))}
  done
  if [ -n "$deadline" ] && ((SECONDS >= deadline && ${#pids[@]})); then
    echo "local: stopping the others" >&2
    kill -KILL "${pids[@]}" 2>/dev/null
  fi
  sleep 0.2
done
((status == 0)) && rm -rf "$logs"
exit "$status"
