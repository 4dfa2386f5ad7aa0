# shellcheck shell=bash
# What the exit statuses of 'xtc compress' mean to a launcher: the one restart policy, sourced by the others.
#
#   0 done              2 bad input, and         75 preempted: it has saved     76 another process was lost
#   1 a traceback         nothing was done       128 + n killed by signal n     (134: JAX reports 76 by abort())

# restartable STATUS: whether the same command, started again on all machines, goes on from the last checkpoint.
restartable() { (($1 == 75 || $1 == 76 || $1 > 128)); }

# verdict STATUS...: of the statuses of processes that ended together, the one that explains why. 76 and 134 only mean that another
# one was first; a signal is taken for the machine's doing; 75 is every process's own; anything else would come back.
verdict() {
  local status rank why=0 highest=0
  for status in "$@"; do
    case $status in
      0) rank=0 ;;
      76 | 134) rank=1 ;;
      75) rank=3 ;;
      *) rank=$((status > 128 ? 2 : 4)) ;;
    esac
    if ((rank > highest)); then why=$status highest=$rank; fi
  done
  echo "$why"
}
