#!/usr/bin/env bash
# Runs that differ in seed, task or learning rate: every line of a file that begins with "-" holds the arguments of one.
#
#   for lr in 5e-5 1e-4; do for seed in 1 2 3; do
#     echo "--config=configs/xtc.py:cola,lr=$lr --config.seed=$seed --workdir=runs/cola-$lr-$seed"
#   done; done >sweep.txt
#   launch/sweep.sh sweep.txt xtc compress                                # here, one after another
#   launch/sweep.sh sweep.txt launch/tpu_vm.sh pod us-west4-a             # the same on a slice
#   sbatch --array=1-$(grep -c '^-' sweep.txt) launch/slurm.sbatch --sweep=sweep.txt      # an array: job k runs line k
#   xtc report runs/cola-*                                                # one table, with means over seeds
#
# A line is read as the shell reads one. LINE, or in a job array SLURM_ARRAY_TASK_ID, chooses a single line. Otherwise one that
# fails does not stop the next, but one that was stopped (75, or by a signal) does; the status is 0 where all ended well. The
# same command goes on where it was: what is finished is not run again.
set -u
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/statuses.sh"
if (($# < 2)) || [ ! -r "$1" ]; then
  echo "usage: launch/sweep.sh FILE COMMAND [arguments]; FILE must be there" >&2
  exit 2
fi
file=$1
shift
lines=() arguments=()
while IFS= read -r line || [ -n "$line" ]; do
  case $line in -*) lines+=("$line") ;; esac
done <"$file"
chosen=${LINE:-${SLURM_ARRAY_TASK_ID:-}}
if ((${#lines[@]} == 0 || ${chosen:-1} < 1 || ${chosen:-1} > ${#lines[@]})); then
  echo "sweep: $file has ${#lines[@]} lines that begin with '-'${chosen:+, and line $chosen is asked for}" >&2
  exit 2
fi
understand() { # LINE
  if eval "arguments=($1)"; then return; fi
  echo "sweep: the shell does not understand this line of $file: $1" >&2
  exit 2
}
if [ -n "$chosen" ]; then
  understand "${lines[chosen - 1]}"
  exec "$@" "${arguments[@]}"
fi

status=0 failed=''
for ((k = 1; k <= ${#lines[@]}; k++)); do
  echo "sweep: $k of ${#lines[@]}: ${lines[k - 1]}" >&2
  understand "${lines[k - 1]}"
  "$@" "${arguments[@]}"
  code=$?
  if ((code == 0)); then continue; fi
  failed="$failed $k (status $code)"
  status=$(verdict "$status" "$code")
  if restartable "$code"; then break; fi
done
if ((status)); then echo "sweep: not ended well:$failed" >&2; fi
exit "$status"
