"""`--parts`: Python runs where a user names its place, and nowhere else."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from tests.cli.helpers import SMALL, fingerprints, refusal
from tests.course.reference_parts import copy_reference, plant

from tiny_transformer.cli.main import main
from tiny_transformer.tracking.run_log import read_log

BOMB = "raise SystemExit('this file ran')\nMLP = None\n"


@pytest.fixture
def folder(working_folder: Path) -> Path:
    return copy_reference(working_folder / "mine")


@pytest.fixture
def own_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Train a run with an MLP of its own."""
    words = ["--parts", str(folder / "mlp.py"), "--run-name", "own"]
    assert main(["train", *SMALL, *words]) == 0
    told = capsys.readouterr().err
    assert "parts of your own: mlp (mlp.py); the others are the reference's." in told
    assert "mlp: equal to the reference, bit for bit." in told
    return Path("runs/own")


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr()


@pytest.mark.requirement("parts.own-code")
def test_a_run_s_python_never_runs_by_itself(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, ask = str(own_run), functools.partial(output, capsys)
    text, told = ask("generate", run, "--max-new-tokens", "5")
    assert f"--parts {own_run / 'parts'}" in told
    assert "The reference's parts read its weights here" in told
    (own_run / "parts" / "mlp.py").write_text(BOMB)
    assert ask("generate", run, "--max-new-tokens", "5")[0] == text
    assert "val_loss" in ask("eval", run)[0]
    ask("runs", "show", run)
    refused = refusal(capsys, "resume", run, "--training.max-steps", "8")
    assert "has parts of its own: mlp (mlp.py)" in refused
    for words in (["generate"], ["eval"], ["resume"]):
        refused = refusal(capsys, *words, run, "--parts", str(own_run / "parts"))
        assert "mlp.py cannot be imported: SystemExit: this file ran" in refused


@pytest.mark.requirement("parts.own-code")
def test_with_its_own_parts_a_run_is_generated_evaluated_resumed_and_verified(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, kept = str(own_run), str(own_run / "parts")
    ask = functools.partial(output, capsys)
    plain = ask("generate", run, "--max-new-tokens", "9")[0]
    text, told = ask("generate", run, "--max-new-tokens", "9", "--parts", kept)
    assert text == plain
    assert "since the run was trained" not in told
    assert ask("eval", run, "--json", "--parts", kept)[0] == ask("eval", run, "--json")[0]
    assert "to the last bit" in ask("runs", "verify", run, "--parts", kept)[0]
    ask("resume", run, "--training.max-steps", "8", "--parts", kept)
    assert ask("runs", "verify", run, "--parts", kept, "--from", "7")[0].count("WRONG") == 0
    assert main(["runs", "verify", run]) == 2
    assert "trained with parts of its own: mlp (mlp.py)" in capsys.readouterr().out


@pytest.mark.requirement("parts.resume")
def test_resume_asks_about_changed_parts(
    own_run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprints(own_run)
    words = ["resume", str(own_run), "--training.max-steps", "8"]
    (folder / "mlp.py").write_text((folder / "mlp.py").read_text() + "\n# changed\n")
    capsys.readouterr()
    assert main([*words, "--parts", str(folder / "mlp.py")]) == 2
    assert "the part mlp: its file mlp.py has changed" in capsys.readouterr().err
    assert fingerprints(own_run) == before
    output(capsys, *words, "--allow-parts-change", "--parts", str(folder))
    (resumed,) = (line for line in read_log(own_run / "log.jsonl") if line["event"] == "resume")
    assert resumed["numerics_changes"] == ["the part mlp: its file mlp.py has changed"]
    words[-1] = "10"
    output(capsys, *words, "--allow-parts-change")
    _, resumed = (line for line in read_log(own_run / "log.jsonl") if line["event"] == "resume")
    assert resumed["numerics_changes"] == [
        "the part mlp was MLP of mlp.py and is the reference's now"
    ]
    assert resumed["parts"] == []


@pytest.mark.requirement("parts.own-code")
def test_parts_with_other_parameters_are_trained_and_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(folder, "mlp.py", "self.up_proj = nn.Linear(width, inner, bias=config.bias)",
          "self.up_proj = nn.Linear(width, inner, bias=False)")  # fmt: skip
    words = ["--parts", str(folder / "mlp.py"), "--run-name", "own"]
    assert main(["train", *SMALL, *words]) == 0
    assert "Its parameters are not the reference's" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["generate", "runs/own"]) == 2
    told = capsys.readouterr().err
    assert "trained with parts of its own: mlp (mlp.py). Give them: --parts runs/own/parts" in told
    output(capsys, "generate", "runs/own", "--parts", "runs/own/parts", "--max-new-tokens", "3")


@pytest.mark.parametrize("command", ["generate", "eval"])
def test_parts_are_not_quantised(
    trained_run: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, str(trained_run), "--parts", "x", "--quantize", "int8"]
    assert "--quantize knows the reference's parts alone" in refusal(capsys, *words)


def test_other_parts_read_a_run_of_the_reference_s(
    trained_run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = output(capsys, "generate", str(trained_run), "--max-new-tokens", "5")[0]
    words = ["generate", str(trained_run), "--max-new-tokens", "5", "--parts", str(folder)]
    text, told = output(capsys, *words)
    assert text == plain
    assert "the part mlp was the reference's and is MLP of mlp.py now" in told


def test_a_place_without_parts_is_refused(
    working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (working_folder / "empty").mkdir()
    told = refusal(capsys, "train", *SMALL, "--parts", "empty")
    assert "empty has no part of the model that is written. Looked for: " in told
    assert not (working_folder / "runs").exists()
