#!/usr/bin/env bash
# Runs tests/cuda_run.py on a machine with a GPU, no network, and a Python that has torch and little else.
#
#   bash tests/cuda_run.sh BUNDLE OUT [--rehearse]
#
# BUNDLE is the folder that `nox -s cuda-bundle` fills. Every package that the machine's Python lacks, or has in a version
# that the suite does not support, is installed from there into an environment of its own. OUT gets at most eight files,
# whatever fails: run.log, record.md, diff.txt, a log for each part, and results.tar.gz. All of it takes at most 8 minutes
# (LIMIT, in seconds). PYTHON names the Python to use (default: python3). The exit codes are those of tests/cuda_run.py;
# 4 means that the environment could not be made.
set -u

main() {
    local started=$1 bundle=$2 out=$3 own pip version wheel log code
    shift 3
    work=$(mktemp -d)
    trap pack EXIT
    trap 'exit 143' TERM
    own="$work/env/bin/python"

    # An environment that sees the packages of $python. They may lie in another virtual environment, which a new one does
    # not see by itself.
    "$python" -m venv --without-pip "$work/env" || exit 4
    "$python" - > "$("$own" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/machine.pth" <<'PY' || exit 4
import sys
for folder in sys.path:
    if folder.endswith(("site-packages", "dist-packages")):
        print(f"import site; site.addsitedir({folder!r})")
PY
    pip=$(echo "$bundle"/wheels/pip-*.whl)
    "$own" "$pip/pip" install --quiet --no-index --no-deps "$pip" || exit 4
    "$own" -m pip install --quiet --no-index --find-links "$bundle/wheels" --editable . --group cuda || exit 4

    export TIMM_CONFORMANCE_CACHE="$work/releases"
    for wheel in "$bundle"/releases/timm-*.whl; do
        version=$(basename "$wheel" | cut -d- -f2)
        "$own" -m zipfile -e "$wheel" "$TIMM_CONFORMANCE_CACHE/$version" || exit 4
    done
    "$own" -m timm_conformance.cli.main doctor
    echo "the environment is ready after $(elapsed) s"

    "$own" -m tests.cuda_run "$out" --seconds $((limit - $(elapsed))) "$@"
    code=$?
    for log in "$out"/gate-*.log "$out/tests.log" "$out/diff.txt" "$out/record.md"; do
        [ ! -f "$log" ] || { printf '\n== end of %s\n' "$(basename "$log")"; tail -n 30 "$log"; }
    done
    exit $code
}

elapsed() { echo $(($(date +%s) - started)); }

pack() {
    local code=$?
    cd "$out" || exit 4
    for folder in cpu cuda; do
        [ ! -d $folder ] || echo $folder
    done | xargs -r sh -c 'tar -czf results.tar.gz "$@" && rm -r "$@"' sh
    rm -rf "$work"
    echo "exit code $code after $(elapsed) s; results in $out"
    exit "$code"
}

[ $# -ge 2 ] || { sed -n '/^set/q; s/^# \{0,1\}//; 2,12p' "$0"; exit 4; }
limit=${LIMIT:-480}
python=$(command -v "${PYTHON:-python3}") || { echo "no ${PYTHON:-python3}"; exit 4; }
ls "$1"/wheels/pip-*.whl > /dev/null 2>&1 || { echo "$1 is no bundle: make one with nox -s cuda-bundle"; exit 4; }
mkdir -p "$2"
bundle=$(realpath "$1")
out=$(realpath "$2")
shift 2
cd "$(dirname "$0")/.." || exit 4
main "$(date +%s)" "$bundle" "$out" "$@" 2>&1 | tee "$out/run.log"
exit "${PIPESTATUS[0]}"
