#!/bin/sh
# Everything that can be known of a release before it is one:
#
#   PYTHON=… sh launch/release_check.sh
#
# The version has a dated section in the changelog and stands in CITATION.cff; the source distribution and the wheel are built
# from what git tracks, into dist/; their metadata is valid; and the quick start runs in small from the installed wheel.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' xtc_jax/__init__.py)
dated=$(sed -n "s/^## \[$version\] - \([0-9-]*\)$/\1/p" CHANGELOG.md)
[ -n "$dated" ] || { echo "release-check: CHANGELOG.md has no section '## [$version] - DATE'" >&2; exit 1; }
for line in "version: $version" "date-released: \"$dated\""; do
  grep -qx "$line" CITATION.cff || { echo "release-check: CITATION.cff has no line '$line'" >&2; exit 1; }
done

"$python" -c 'import build, twine' 2>/dev/null ||
  "$python" -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt build twine

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git ls-files -z -co --exclude-standard | xargs -0 tar cf - 2>/dev/null | tar xf - -C "$scratch" # setuptools writes beside the sources
rm -rf dist
"$python" -m build --outdir dist "$scratch"
"$python" -m twine check --strict dist/*
JAX_PLATFORMS=cpu "$python" -m pytest -q -n 0 tests/test_wheel.py
echo "release-check: xtc_jax $version of $dated passes"
ls -l dist
