"""A rank that is killed, or hangs: torchrun starts again, and the run ends as if nothing was."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.distributed.helpers import SMALL, lines_of, losses_of, spared, torchrun, train

STEPS = ("--training.max-steps", "14", "--training.checkpoint-every", "5")
HOOKS = Path(__file__).with_name("hooks.py")


@pytest.mark.requirement("distributed.restart")
@pytest.mark.parametrize(
    ("strategy", "how", "at_step", "from_step"),
    [
        ("ddp", "kill", 7, 5),
        ("ddp", "kill", 3, 0),  # before the first checkpoint
        ("fsdp", "save", 7, 5),  # in the middle of the save at step 10
    ],
)
def test_a_killed_rank_changes_nothing_in_the_end(
    tmp_path: Path, strategy: str, how: str, at_step: int, from_step: int, torture: bool
) -> None:
    spared(torture, rare=strategy == "ddp")
    line = [*SMALL, *STEPS, "--distributed.strategy", strategy]
    wanted = losses_of(train(tmp_path, "unkilled", 2, *line[len(SMALL) :]))
    hook = f"{HOOKS}:Die how={how} at_step={at_step}"
    ended = torchrun(tmp_path, "train", *line, "--hook", hook, max_restarts=1)
    assert ended.returncode == 0, ended.stderr
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.name != "unkilled")
    assert losses_of(run) == wanted
    (resumed,) = lines_of(run, "resume")
    assert resumed["step"] == from_step
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
    assert lines_of(run, "end")[0]["step"] == 14


@pytest.mark.requirement("distributed.hang")
def test_a_rank_that_hangs_is_given_up_and_the_run_goes_on(tmp_path: Path) -> None:
    hook = f"{HOOKS}:Die how=hang at_step=7"
    line = ["train", *SMALL, *STEPS, "--hook", hook, "--distributed.timeout", "5"]
    ended = torchrun(tmp_path, *line, max_restarts=1, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "lost contact" in ended.stderr and "5 s (--distributed.timeout)" in ended.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert lines_of(run, "resume")[0]["step"] == 5
    assert lines_of(run, "end")[0]["step"] == 14
