#!/bin/sh
# Install packages beside an interpreter, at the versions of constraints.txt, or with CONSTRAINTS="" at any:
#
#   launch/install.sh PYTHON REQUIREMENT...
#
# With uv, in about a third of pip's time, from the indexes that pip is set to; with pip where there is no uv to be had, or where
# it fails.
set -eu
cd "$(dirname "$0")/.."
python=$1
shift
constraints=${CONSTRAINTS-constraints.txt}
settings=$("$python" -m pip config list 2>/dev/null || true)

# follow UV_VARIABLE PIP_VARIABLE PIP_KEY: what uv is told, unless it is set, is what pip is told.
follow() {
  eval "value=\${$1:-\${$2:-}}"
  [ -n "$value" ] || value=$(printf '%s\n' "$settings" | sed -n "s/^global\.$3='\(.*\)'$/\1/p" | sed 's/\\n/ /g')
  [ -z "$value" ] || export "$1=$value"
}

with_uv() {
  "$python" -m pip install -qq --no-compile --disable-pip-version-check --no-warn-script-location uv || return 1
  "$python" -m uv pip install -q --python "$python" ${constraints:+-c "$constraints"} "$@"
}

follow UV_DEFAULT_INDEX PIP_INDEX_URL index-url
follow UV_INDEX PIP_EXTRA_INDEX_URL extra-index-url
follow UV_FIND_LINKS PIP_FIND_LINKS find-links
follow UV_CONSTRAINT PIP_CONSTRAINT constraint
follow SSL_CERT_FILE PIP_CERT cert
export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}" # as pip does: the newest of all indexes
if with_uv "$@"; then exit 0; fi
echo "install: uv cannot install it here; pip does, which takes longer" >&2
"$python" -m pip install -qq --no-compile --disable-pip-version-check --no-warn-script-location ${constraints:+-c "$constraints"} "$@"
