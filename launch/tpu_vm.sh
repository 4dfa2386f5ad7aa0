#!/usr/bin/env bash
# 'xtc compress' on all workers of a TPU VM slice, over ssh; started again after a preemption or the loss of a worker.
#
#   gcloud compute tpus tpu-vm create pod --zone=us-west4-a --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
#   ssh-add ~/.ssh/google_compute_engine       # gcloud needs the key in the agent for several workers
#   export SETUP='sudo mkdir -p /mnt/xtc && { mountpoint -q /mnt/xtc || sudo mount -t nfs 10.0.0.2:/xtc /mnt/xtc; }'
#   launch/tpu_vm.sh pod us-west4-a --config=configs/xtc.py:mnli --workdir=/mnt/xtc/mnli
#   launch/tpu_vm.sh --dry-run pod us-west4-a --config=... --workdir=...      # only print the commands
#   launch/tpu_vm.sh --stop pod us-west4-a                                    # of a launcher that is gone: save, and end
#
# Installs commit REF (default HEAD) on all workers, then runs the arguments there; the processes find each other by the TPU's
# metadata. The work directory and the data must lie on a file system that all workers share: SETUP is a shell command run on
# each before every attempt, to mount it. Output is shown with the worker's name in front and kept in LOGS, a file for each
# worker. Restarts and ATTEMPTS are those of launch/restart.sh: 75 (preempted, saved), 76 (a worker was lost) and signals.
# Ctrl-C lets all workers save and ends with 75. A slice that was taken away altogether ends this with gcloud's error: create it
# anew, and the same command goes on. The status is that of the processes, see launch/statuses.sh.
#
# Not run on a real slice yet. Tested: this script and launch/worker.sh with a gcloud that runs commands on this machine.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
. launch/statuses.sh

mode=run
case ${1:-} in --dry-run | --stop) mode=${1#--} && shift ;; esac
if (($# < 2)) || { (($# < 3)) && [ "$mode" != stop ]; }; then
  echo "usage: launch/tpu_vm.sh [--dry-run | --stop] NAME ZONE [arguments of xtc compress]" >&2
  exit 2
fi
name=$1 zone=$2
export XTC_RUN=${XTC_RUN:-$(date +%Y%m%d-%H%M%S)-$$}
logs=${LOGS:-runs/logs/$name-$XTC_RUN}

tpu_vm() { # as 'gcloud compute tpus tpu-vm', on all workers
  if [ "$mode" = dry-run ]; then
    printf '%q ' gcloud compute tpus tpu-vm "$@" "--zone=$zone" --worker=all && echo
  else
    gcloud compute tpus tpu-vm "$@" "--zone=$zone" --worker=all
  fi
}

install() {
  local archive status
  archive=$(mktemp -d)/xtc.tar.gz
  git archive --format=tar.gz --output="$archive" "${REF:-HEAD}" &&
    tpu_vm scp "$archive" launch/worker.sh "$name:" &&
    tpu_vm ssh "$name" --command="bash worker.sh install"
  status=$?
  rm -r "$(dirname "$archive")"
  return "$status"
}

attempt() { # ARGUMENTS: of xtc compress
  local all=$logs/attempt-$ATTEMPT.log command lines statuses
  command="${SETUP:+$SETUP && }bash worker.sh run $XTC_RUN-$ATTEMPT .venv/bin/xtc compress --coordinator=auto$(printf ' %q' "$@")"
  if [ "$mode" = dry-run ]; then tpu_vm ssh "$name" --command="$command" && return; fi
  mkdir -p "$logs" # gcloud's own --output-directory writes to ./None (version 528)
  trap 'echo "tpu_vm: stopping all workers" >&2; tpu_vm ssh "$name" --command="bash worker.sh stop"' INT TERM
  set -m # Ctrl-C is for the trap, not for gcloud: it goes on to show how the workers end
  {
    tpu_vm ssh "$name" --command="$command" 2>&1
    echo "[gcloud] worker: ended with status $?"
  } | awk -v logs="$logs" '
    { host = match($0, /^\[[^] ]+\]/) ? substr($0, 2, RLENGTH - 2) : "gcloud"; print; print >> (logs "/" host ".log"); fflush() }
  ' | tee "$all" &
  lines=$!
  while kill -0 "$lines" 2>/dev/null; do wait "$lines"; done # a signal ends 'wait'
  statuses=$(sed -n 's/^\[[^]]*\] worker: ended with status \([0-9]*\)$/\1/p' "$all")
  # shellcheck disable=SC2086 # a list
  return "$(verdict $statuses)"
}

if [ "$mode" = stop ]; then
  tpu_vm ssh "$name" --command="bash worker.sh stop"
elif [ "$mode" = dry-run ]; then
  install && ATTEMPT=1 attempt "${@:3}"
elif [ -z "${ATTEMPT:-}" ]; then
  install || exit
  echo "tpu_vm: logs in $logs" >&2
  exec launch/restart.sh launch/tpu_vm.sh "$@"
else
  attempt "${@:3}"
fi
