#!/usr/bin/env bash
# One visit to a machine that one has for minutes: what is worth most first, all of it kept.
#
#   bash scripts/accelerator.sh OUTDIR [--only STAGE ...] [--seconds N] [--allow-cpu] [--list]
#
# It ends within 6 minutes (or N seconds) whatever happens. OUTDIR receives at most 8 files: the
# archive of the records, the log and a few figures; after a kill at any moment the archive holds
# every finished measurement. --allow-cpu rehearses all of it with small configs. Exit code: 0 all
# stages passed, 1 some did not, 2 nothing was run; 124 its time was up before it could say so.
#
# Needs Python (PYTHON, python3 where unset) with jax, pytest, hypothesis and the experiments'
# packages, and fetches nothing: packages that the machine lacks may lie in the tree as .whl/*.whl.
# rnnscan need not be installed.
set -uo pipefail

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 2

if [ -z "${RNNSCAN_VISIT_STARTED:-}" ]; then
    seconds=360
    previous=
    for word in "$@"; do
        [ "$previous" != --seconds ] || seconds=$word
        [[ $word != --seconds=* ]] || seconds=${word#*=}
        previous=$word
    done
    # What cannot be right is refused later, with a word.
    [[ $seconds =~ ^[1-9][0-9]{1,2}$ ]] && [ "$seconds" -lt 360 ] || seconds=360
    command -v timeout >/dev/null || { echo "timeout, of GNU coreutils, is missing" >&2; exit 2; }
    RNNSCAN_VISIT_STARTED=$(date +%s)
    export RNNSCAN_VISIT_STARTED
    exec timeout --signal=TERM --kill-after=1 $((seconds - 1)) bash "${BASH_SOURCE[0]}" "$@"
fi

python=$(command -v -- "${PYTHON:-python3}") || { echo "${PYTHON:-python3}: no such Python" >&2; exit 2; }
export PYTHONPATH=$tree${PYTHONPATH:+:$PYTHONPATH}

if compgen -G "$tree/.whl/*.whl" >/dev/null; then
    site=$(mktemp -d) || exit 2
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --disable-pip-version-check --root-user-action=ignore --target "$site" "$tree"/.whl/*.whl || exit 2
    PYTHONPATH=$PYTHONPATH:$site
fi

"$python" - <<'PYTHON' || exit 2
import importlib.util
import sys

if sys.version_info < (3, 11):
    sys.exit(f"rnnscan needs Python 3.11 or newer; this is {sys.version.split()[0]}")
needed = "jax matplotlib optax pydantic rich sklearn tyro pytest hypothesis".split()
if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
    sys.exit(f"Not installed: {', '.join(missing)}. Put wheels of them into .whl/ in the tree.")
PYTHON

# -P: whatever lies where it is called from is not imported.
"$python" -P -m scripts.accelerator "$@"
