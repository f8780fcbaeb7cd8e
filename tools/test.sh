#!/usr/bin/env bash
# Run the whole test suite on every core, then hold the coverage of each room to its limit.
# Arguments are passed to pytest. The last line is pytest's closing line.
set -eu -o pipefail
cd "$(dirname "$0")/.."

log=$(mktemp "${TMPDIR:-/tmp}/tiny-test.XXXXXX")
trap 'rm -f "$log"' EXIT
color=no
[ -t 1 ] && color=yes

# One thread a worker: the workers already fill the cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

status=0
.venv/bin/python -m pytest -n auto --maxprocesses 8 --cov --cov-report= --color="$color" "$@" |
    tee "$log" || status=$?
case $status in
    0)
        .venv/bin/python -m coverage json --quiet -o coverage.json &&
            .venv/bin/python tools/coverage_gate.py coverage.json || status=1
        ;;
    5) echo "test: pytest found no test to run, which proves nothing" ;;
esac
awk 'NF { line = $0 } END { print line }' "$log"
exit "$status"
