"""What is latest goes by step, whatever the clock says."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.training.helpers import log_of, resumed, tiny_config, trainer

from tiny_transformer.tracking import run_folder
from tiny_transformer.tracking.run_folder import RunFolder, step_of
from tiny_transformer.tracking.run_log import check_chain
from tiny_transformer.training.weights import weights_hash


class Backwards:
    """A clock that goes back an hour each time that it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def time(self) -> float:
        self.asked += 1
        return 2e9 - 3600 * self.asked

    def now(self, zone: datetime.tzinfo | None = None) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.time(), zone)


@pytest.mark.requirement("faults.clock")
def test_latest_resume_and_retention_go_by_step_when_the_clock_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[[str, int], None]
) -> None:
    whole = trainer(tiny_config(tmp_path / "whole"))
    whole.train()
    clock = Backwards()

    class Datetime(datetime.datetime):
        now = clock.now  # type: ignore[assignment]

    monkeypatch.setattr(time, "time", clock.time)
    monkeypatch.setattr(run_folder.datetime, "datetime", Datetime)
    changes = {"training__checkpoint_every": 1, "checkpoints__keep_last": 2}
    small = trainer(tiny_config(tmp_path, training__stop_at=4, **changes))
    run = small.train().folder
    assert clock.asked > 0
    assert [step_of(path) for path in run.checkpoints()] == [3, 4]  # the best one is the last
    turn_back(run)
    assert step_of(run.latest_checkpoint()) == 4
    again = resumed(run.path)
    assert again.step == 4
    again.train()
    turn_back(run)
    assert step_of(run.latest_checkpoint()) == 6
    assert weights_hash(again.model) == weights_hash(whole.model)
    assert [step_of(path) for path in run.checkpoints()][-2:] == [5, 6]
    assert check_chain(run.log).broken is None
    assert [line["step"] for line in log_of(run, "train")] == list(range(1, 7))
    # From an earlier one: the later ones are set aside, under a name that the clock gives.
    resumed(run.checkpoint(5)).train()
    assert step_of(run.latest_checkpoint()) == 6
    assert len(list(run.path.glob("checkpoints/superseded-*/step-00000006"))) == 1
    count("times that the clock went back", clock.asked)


def turn_back(run: RunFolder) -> None:
    """Give later checkpoints earlier times."""
    for age, path in enumerate(run.checkpoints()):
        for inner in [path, *path.iterdir()]:
            os.utime(inner, (1e9 - 1e6 * age, 1e9 - 1e6 * age))
