"""The Makefile and the scripts: what they list exists, and macOS's old tools can run them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tiny_transformer.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
SCRIPTS = [ROOT / ".ci" / "run", *sorted((ROOT / "tools").glob("*.sh"))]

# What GNU Make 3.81 lacks, each with a line that has it.
NEWER_MAKE = {
    r"\.ONESHELL": ".ONESHELL:",
    r"\.RECIPEPREFIX": ".RECIPEPREFIX = >",
    r"^[^\t#]*!=": "files != ls",
    r"&\s*:": "a b &: c",
    r"::+=": "a ::= b",
    r"\$\((file|guile|let|intcmp)\s": "x = $(file >out,text)",
    r"^\s*undefine\s": "undefine x",
    r"^define\s+\S+\s*[:?+]?=": "define x =",
    r"^(export|unexport|override|private)\s.*\bprivate\b|^\S+:\s*private\s": "a: private x = 1",
    r"\.EXTRA_PREREQS|\.SHELLSTATUS|\.NOTINTERMEDIATE": ".EXTRA_PREREQS = a",
}
# What bash 3.2, or the BSD form of a tool, lacks; the recipes of the Makefile count too.
NEWER_SHELL = {
    r"\bsed\s+(-\S+\s+)*-i": "sed -i s/a/b/ file",
    r"\breadlink\s+-f|\brealpath\b": "readlink -f file",
    r"\b(declare|local|typeset)\s+-[a-zA-Z]*[An]": "declare -A table",
    r"\$\{[A-Za-z_]\w*(\[[^]]*\])?(,|\^|@)": 'echo "${x,,}"',
    r"\b(mapfile|readarray|coproc)\b": "mapfile -t lines",
    r"\|&|&>>|;;&|;&(?!;)": "make |& tee log",
    r"\bgrep\s+(-\S+\s+)*-\w*P": "grep -oP x",
    r"\b(stat\s+-c|date\s+-d|sort\s+-V|cp\s+--|xargs\s+-r|echo\s+-e)": "stat -c %s x",
    r"\b(nproc|timeout|tac|sha256sum|md5sum|gawk|gsed)\b": "nproc",
    r"\bfind\b.*-printf|\bhead\s+-n\s+-|\bwait\s+-n": "head -n -1",
    r"\bgensub\(|\bstrftime\(": "awk '{ print gensub(/a/, 1, 1) }'",
    r"\$'": "x=$'a'",
    r"\b(BASHPID|EPOCHSECONDS|EPOCHREALTIME|globstar|lastpipe)\b": "shopt -s globstar",
}


def newer_constructs(text: str, patterns: dict[str, str]) -> list[str]:
    """Return the lines, without comments, that hold one of the patterns."""
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines()]
    return [line for line in lines if any(re.search(pattern, line) for pattern in patterns)]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    assert program, "the set-up needs make"
    command = [program, "--no-print-directory", *arguments]
    # Flags of an outer `make test` would reach this one.
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment(), text=True, capture_output=True, check=False
    )


def clean_environment() -> dict[str, str]:
    import os

    hidden = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "TORCH_INDEX", "MODULE"}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def listed_targets() -> list[str]:
    lines = make("help").stdout.splitlines()[1:]
    assert all(re.fullmatch(r"  [a-z-]+ +\S.*", line) for line in lines)
    return [line.split()[0] for line in lines]


@pytest.mark.requirement("setup.make-portable")
def test_the_makefile_needs_nothing_newer_than_make_3_81() -> None:
    assert newer_constructs(MAKEFILE, NEWER_MAKE) == []
    recipes = "\n".join(line for line in MAKEFILE.splitlines() if line.startswith("\t"))
    assert newer_constructs(recipes, NEWER_SHELL) == []


@pytest.mark.requirement("setup.make-portable")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_need_nothing_newer_than_bash_3_2(script: Path) -> None:
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert newer_constructs(script.read_text(), NEWER_SHELL) == []
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("pattern", NEWER_MAKE)
def test_each_construct_of_a_newer_make_is_caught(pattern: str) -> None:
    assert newer_constructs(NEWER_MAKE[pattern], {pattern: ""})


@pytest.mark.parametrize("pattern", NEWER_SHELL)
def test_each_construct_of_a_newer_shell_is_caught(pattern: str) -> None:
    assert newer_constructs(NEWER_SHELL[pattern], {pattern: ""})


def test_the_scripts_are_found() -> None:
    assert {"run", "setup.sh", "test.sh"} <= {path.name for path in SCRIPTS}


@pytest.mark.requirement("setup.make-help")
def test_help_lists_the_targets_that_exist_and_no_other() -> None:
    rules = re.findall(r"^([A-Za-z][\w.-]*):(?!=)", MAKEFILE, re.M)
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[0].split()
    assert listed_targets() == rules == phony
    assert {"help", "install", "verify", "demo", "test", "test-module", "lint"} <= set(rules)


@pytest.mark.requirement("setup.make-help")
def test_make_alone_lists_the_targets() -> None:
    assert make().stdout == make("help").stdout


@pytest.mark.requirement("setup.make-help")
def test_each_target_runs_only_what_exists() -> None:
    for target in listed_targets():
        planned = make("-n", target, "MODULE=text")
        assert planned.returncode == 0, planned.stderr
        for path in re.findall(r"\b(?:tools|configs|\.ci)/[\w./-]*\w", planned.stdout):
            assert (ROOT / path).exists(), f"make {target} needs {path}"
        for command in re.findall(r"-m tiny_transformer (\w+)", planned.stdout):
            assert command in COMMANDS, f"make {target}"


@pytest.mark.parametrize("module", [[], ["MODULE=modell"]])
def test_test_module_names_the_rooms_when_the_room_is_missing(module: list[str]) -> None:
    answer = make("test-module", *module)
    assert answer.returncode != 0
    rooms = [line.strip() for line in answer.stdout.splitlines()[1:]]
    assert {"text", "config", "tools"} <= set(rooms)
    assert {"00_setup", "01_attention"} <= set(rooms)
    assert all(
        (ROOT / "tests" / room).is_dir() or (ROOT / "course" / room / "module.yaml").is_file()
        for room in rooms
    )
