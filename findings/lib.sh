# Sourced by the scripts of this folder: a temporary folder that a trap removes, a bound on
# the time, and pinned packages. Nothing of the product is used.
set -euo pipefail

readonly synapse_version=1.163.2 dendrite_version=v0.15.2 vodozemac_version=0.10.0

# The whole script ends after 15 minutes; its children are in its process group.
if [ -z "${FINDING_BOUNDED:-}" ]; then
  FINDING_BOUNDED=1 exec timeout -k 30 900 bash "$0" "$@"
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
# A database server may run as another user, who must be able to come in.
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir -m 700 "$work/run"
export XDG_RUNTIME_DIR=$work/run PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 FINDING_WORK=$work FINDING_SUMS=$here/../test/dendrite
export no_proxy=127.0.0.1 NO_PROXY=127.0.0.1

# pip_install makes a Python environment with the packages named.
pip_install() {
  python3 -m venv "$work/venv"
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

# build_dendrite builds Dendrite from the module that pins it and all that it needs.
build_dendrite() {
  mkdir "$work/dendrite"
  cp "$FINDING_SUMS/go.mod" "$FINDING_SUMS/go.sum" "$work/dendrite/"
  grep -q "element-hq/dendrite $dendrite_version\$" "$work/dendrite/go.mod"
  (cd "$work/dendrite" && CGO_ENABLED=0 GOFLAGS=-mod=mod GOWORK=off go build -trimpath -ldflags='-s -w' \
    -o "$work/dendrite/dendrite" github.com/element-hq/dendrite/cmd/dendrite)
}

# run_python runs the program on standard input in the environment.
run_python() { "$work/venv/bin/python" -; }
