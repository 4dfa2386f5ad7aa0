#!/bin/sh
# Make .venv and install the package in it, once:  bootstrap.sh run|test|docs [PYTHON]
# Or only print the path of an interpreter of one version:  bootstrap.sh which 3.11
#
# Takes PYTHON, or else the newest interpreter from 3.11 to 3.14 that works: on the path, or held by pyenv
# whether activated or not. Versions are those of constraints.txt. A second call finds its stamp and returns.
# VENV=DIR makes it elsewhere than in .venv.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-}
wanted=${2:-}
venv=${VENV:-.venv}
case $kind in
  run | test | docs | which) ;;
  *) echo "usage: launch/bootstrap.sh run|test|docs [PYTHON], or which 3.11" >&2; exit 2 ;;
esac

# Prints "MINOR PATH" of an interpreter that can make a virtual environment, nothing for any other.
probe() {
  "$1" -c 'import sys, venv, ensurepip, ssl, ctypes
v = sys.version_info
(3, 11) <= v[:2] <= (3, 14) and v.releaselevel == "final" and print(v.minor, v.micro, sys.executable)' 2>/dev/null || true
}

candidates() {
  for candidate in python3.14 python3.13 python3.12 python3.11 python3 python "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
    if command -v "$candidate" >/dev/null 2>&1; then probe "$candidate"; fi
  done | sort -k1,1n -k2,2n
}

choose() {
  if [ -n "$wanted" ]; then
    found=$(command -v "$wanted" || true)
    [ -n "$found" ] && [ -n "$(probe "$found")" ] && echo "$found" && return
    echo "bootstrap: PYTHON=$wanted is no working Python 3.11 to 3.14 with venv" >&2
    exit 2
  fi
  best=$(candidates | tail -n 1 | cut -d' ' -f3-)
  if [ -z "$best" ]; then
    echo "bootstrap: no working Python 3.11 to 3.14 found; install one, or name it: make PYTHON=/path/to/python3" >&2
    exit 2
  fi
  echo "$best"
}

if [ "$kind" = which ]; then
  found=$(candidates | sed -n "s/^${wanted#3.} [0-9]* //p" | tail -n 1)
  [ -n "$found" ] || { echo "bootstrap: no working Python $wanted found" >&2; exit 2; }
  echo "$found"
  exit 0
fi

stamp="$venv/.installed-$kind"
versions=$(cat pyproject.toml constraints.txt | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$versions $wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
  exit 0
fi

python=$(choose)
exact=$("$python" -c 'import sys; print(sys.version)')
if [ ! -x "$venv/bin/python" ] || [ "$("$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null)" != "$exact" ]; then
  echo "bootstrap: $venv with $python ($("$python" -V 2>&1))"
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
extra=""
case $kind in test | docs) extra="[$kind]" ;; esac
echo "bootstrap: installing xtc_jax$extra, less than a minute the first time"
sh launch/install.sh "$venv/bin/python" -e ".$extra"
echo "$versions $wanted" >"$stamp"
