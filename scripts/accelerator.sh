#!/usr/bin/env bash
# One visit to a machine with a GPU: the tests that need one, then the wall-clock experiment.
#
#   scripts/accelerator.sh OUTDIR
#
# Needs Python with jax, pytest, hypothesis and the experiments' packages, and fetches nothing:
# packages that the machine lacks may lie in the tree as .whl/*.whl. rnnscan need not be installed.
# OUTDIR receives at most 8 files: the log, the records, the report and up to 3 figures. The visit
# ends within 8 minutes; one that is cut short keeps and reports every finished measurement.
#
# Variables: PYTHON (python3), RNNSCAN_ACCELERATOR_CONFIG (experiments/wallclock/configs/gpu.toml;
# naming another one also lifts the demand for a GPU), RNNSCAN_ACCELERATOR_SECONDS (450).
set -uo pipefail

[ $# -eq 1 ] || { echo "usage: $0 OUTDIR" >&2; exit 2; }
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

python=${PYTHON:-python3}
config=${RNNSCAN_ACCELERATOR_CONFIG:-experiments/wallclock/configs/gpu.toml}
seconds=${RNNSCAN_ACCELERATOR_SECONDS:-450}
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 MPLBACKEND=Agg

install_wheels() {
    compgen -G '.whl/*.whl' >/dev/null || return 0
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --target "$scratch/site" .whl/*.whl && PYTHONPATH=$PYTHONPATH:$scratch/site
}

check_machine() {
    "$python" - "${RNNSCAN_ACCELERATOR_CONFIG:+any device}" <<'PYTHON'
import importlib.util
import sys

needed = "jax matplotlib optax pydantic rich sklearn tyro pytest hypothesis".split()
if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
    sys.exit(f"Not installed: {', '.join(missing)}. Put wheels of them into .whl/ in the tree.")
import jax

print(f"Python {sys.version.split()[0]}, JAX {jax.__version__}, {jax.devices()}")
if not sys.argv[1] and jax.default_backend() != "gpu":
    sys.exit("JAX sees no GPU here. To try this script, set RNNSCAN_ACCELERATOR_CONFIG.")
PYTHON
}

within() { # within SECONDS COMMAND...: interrupted after so long, so that it can tidy up, then killed
    timeout --signal=INT --kill-after=20 "$1" "${@:2}"
}

# A machine's own plugins and deprecations are no fault of ours.
gpu_tests() {
    local files
    mapfile -t files < <(grep -rl --include='*.py' 'mark\.gpu' tests)
    PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 within $((seconds * 2 / 5)) "$python" -m pytest -m gpu \
        -W default -p no:cacheprovider -v -rs --durations=5 "${files[@]}"
}

wallclock() {
    local folder status
    within $((seconds - SECONDS - 50)) "$python" -m experiments run "$config" --runs "$scratch/runs"
    status=$?
    folder=$(compgen -G "$scratch/runs/*") || return 1
    # Killed before it could report: the records are there all the same.
    [ -f "$folder/report.html" ] || within 30 "$python" -m experiments report "$folder"
    cp "$folder"/{results.jsonl,environment.json,config.json,report.html} "$out" || status=1
    find "$folder/figures" -name '*.png' | sort | head -n 3 | xargs -r cp -t "$out"
    return $status
}

visit() {
    install_wheels && check_machine || return 2
    ! command -v nvidia-smi >/dev/null || nvidia-smi
    echo "=== Tests that need a GPU"
    gpu_tests
    local tested=$?
    echo "=== wallclock, $config ($SECONDS s so far)"
    wallclock
    local measured=$?
    echo "=== tests: exit code $tested, wallclock: exit code $measured (0: all done), $SECONDS s"
    ls -l "$out"
    [ "$tested" -eq 0 ] && [ "$measured" -eq 0 ]
}

visit 2>&1 | tee "$out/accelerator.log"
exit "${PIPESTATUS[0]}"
