"""The README tells the truth: its example runs, its files and targets exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.requirement("docs.readme")

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_python_example_runs_as_it_stands(tmp_path: Path) -> None:
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.rstrip("\n")) > 0
    assert list((tmp_path / "runs").glob("*/checkpoints/step-00000020"))


def test_the_config_example_is_a_config(tmp_path: Path) -> None:
    from tiny_transformer import load_config

    (example,) = blocks("yaml")
    path = tmp_path / "my_config.yaml"
    path.write_text(example, encoding="utf-8")
    assert load_config(path).model.d_model == 128


def test_every_file_that_it_names_exists() -> None:
    folders = "docs|src|tests|tools|configs|benchmarks|course"
    named = set(re.findall(rf"\b(?:{folders})/[\w./-]*", README))
    assert len(named) > 5
    for name in named:
        assert (ROOT / name.rstrip(".")).exists(), name


def test_every_make_target_that_it_names_exists() -> None:
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test", "verify", "bench"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_command_that_it_shows_is_known() -> None:
    from tiny_transformer.cli.main import COMMANDS

    shown = set(re.findall(r"^tiny ([a-z]+)", "\n".join(blocks("sh")), re.M))
    assert {"train", "resume", "generate", "interactive", "eval"} <= shown <= set(COMMANDS)
