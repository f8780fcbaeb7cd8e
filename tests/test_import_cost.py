"""The top of the command line costs next to nothing: what is heavy is imported by a command."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "tyro", "pydantic", "pydantic_core", "numpy", "yaml", "rich", "matplotlib"}

PROGRAM = """
import sys
from tiny_transformer.cli.main import main
status = main(sys.argv[1:])
print("\\n" + " ".join(sys.modules))
print(status)
"""


def run(*words: str) -> tuple[int, set[str], str, str]:
    """Run a command in a fresh interpreter: status, modules imported, output, complaints."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True
    )
    *out, modules, status = done.stdout.splitlines()
    return int(status), set(modules.split()), "\n".join(out), done.stderr


@pytest.mark.requirement("setup.import-cost")
@pytest.mark.parametrize(
    ("words", "status", "shown"),
    [
        (["--help"], 0, "commands:"),
        ([], 0, "commands:"),
        (["--version"], 0, "tiny_transformer "),
        (["trian"], 2, "Did you mean 'train'?"),
        (["--hepl"], 2, "unrecognized"),
    ],
    ids=["help", "nothing", "version", "unknown command", "unknown flag"],
)
def test_the_top_level_imports_nothing_heavy(words: list[str], status: int, shown: str) -> None:
    returned, modules, out, err = run(*words)
    assert returned == status
    assert shown in out + err
    assert "tiny_transformer.cli.main" in modules
    assert not modules & HEAVY


def test_a_command_is_seen_to_import_what_it_needs() -> None:
    """What the test above watches for would be seen."""
    _, modules, _, _ = run("generate", "--help")
    assert modules >= {"torch", "tyro", "numpy"}
