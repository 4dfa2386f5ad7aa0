#!/usr/bin/env bash
# What launch/tpu_vm.sh does on a worker, in the home directory there: copied beside xtc.tar.gz, called over ssh.
#
#   worker.sh install             xtc.tar.gz into xtc/, and the package with JAX for TPUs into xtc/.venv
#   worker.sh run ID COMMAND...   start COMMAND in xtc/, apart from the connection; show its output; end with its status
#   worker.sh stop                SIGTERM to what is running: it saves, and ends with 75
#
# A connection may break while a run goes on, and gcloud then calls the same again: 'run' with an ID that it knows follows that
# run instead of starting it twice. A worker runs one at a time.
set -u
state=$HOME/.xtc
mkdir -p "$state"

install() {
  if ! flock --nonblock "$state/lock" true; then
    echo "a run is still going on here; end it first: launch/tpu_vm.sh --stop NAME ZONE" >&2
    return 2
  fi
  # uv brings a Python of its own: that of some TPU images is older than the package needs.
  rm -rf xtc && mkdir xtc && tar -xzf xtc.tar.gz -C xtc &&
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv &&
    python3 -m uv venv --quiet --python=3.13 xtc/.venv &&
    python3 -m uv pip install --quiet --python=xtc/.venv/bin/python --constraint=xtc/constraints.txt ./xtc libtpu requests
}

# apart DIRECTORY COMMAND...: the process that stays when the connection breaks. It has the lock as long as COMMAND lives.
apart() {
  local directory=$1 status=2
  shift
  exec 9>"$state/lock"
  if flock --wait "${LOCK_SECONDS:-60}" 9; then
    "$@" &
    echo $! >"$directory/pid"
    wait $!
    status=$?
  else
    echo "an earlier run is still going on here; end it first: launch/tpu_vm.sh --stop NAME ZONE"
  fi
  echo "$status" >"$directory/status"
}

run() {
  local directory=$state/$1 status
  shift
  cd "$HOME/xtc" || return 2
  if mkdir "$directory" 2>/dev/null; then
    : >"$directory/log"
    setsid bash "$self" apart "$directory" "$@" </dev/null >>"$directory/log" 2>&1 &
    echo $! >"$directory/apart"
  fi
  until [ -s "$directory/apart" ]; do sleep 0.1; done
  tail --lines=+1 --follow --sleep-interval=0.5 --pid="$(cat "$directory/apart")" "$directory/log" | sed --unbuffered "s/^/[$HOSTNAME] /"
  status=$(cat "$directory/status" 2>/dev/null || echo 137) # none: killed, or the machine was started anew
  echo "[$HOSTNAME] worker: ended with status $status"
  return "$status"
}

stop() {
  local pid
  for pid in "$state"/*/pid; do
    if [ -e "$pid" ] && [ ! -e "${pid%pid}status" ]; then kill -TERM "$(cat "$pid")"; fi
  done
  return 0
}

self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
"$@"
