#!/usr/bin/env bash
# Start a command again while its status calls for it (launch/statuses.sh); another run of 'xtc compress' goes on where it was.
#
#   launch/restart.sh launch/local.sh 2 --config=configs/quickstart.py:runlocal --workdir=runs/rehearsal
#
# Gives up after ATTEMPTS (default 10) in a row that ended within HEALTHY seconds (default 600). Waits PAUSE seconds (default
# 10) before the second, twice as long before each further one, 10 minutes at most. SIGTERM and Ctrl-C are passed on as SIGTERM,
# and nothing is started after them. Ends with the status of the last attempt; each knows its number, ATTEMPT.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/statuses.sh"
if (($# == 0)); then
  echo "usage: launch/restart.sh COMMAND [arguments]" >&2
  exit 2
fi

attempt=0 short=0 pid='' stop=''
trap 'stop=1; kill -TERM "$pid" 2>/dev/null' INT TERM
while :; do
  attempt=$((attempt + 1)) begun=$SECONDS
  ATTEMPT=$attempt "$@" &
  pid=$!
  while wait "$pid"; status=$?; kill -0 "$pid" 2>/dev/null; do :; done # a signal ends 'wait', not the command
  took=$((SECONDS - begun))
  if [ -n "$stop" ] || ! restartable "$status"; then exit "$status"; fi
  if ((took >= ${HEALTHY:-600})); then short=0; fi
  short=$((short + 1))
  if ((short >= ${ATTEMPTS:-10})); then
    echo "restart: attempt $attempt ended with status $status after $took s, the ${short}th in a row; giving up" >&2
    exit "$status"
  fi
  pause=$((${PAUSE:-10} << (short - 1)))
  if ((pause > 600)); then pause=600; fi
  echo "restart: attempt $attempt ended with status $status after $took s; again in $pause s" >&2
  sleep "$pause" &
  pid=$!
  wait "$pid"
  if [ -n "$stop" ]; then exit "$status"; fi
done
