"""One run, one trainer: the second is refused, until the first is gone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.faults.server import ForkServer

from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import check_chain, read_log
from tiny_transformer.training.checkpoint import load_checkpoint


def wait_for_step(run: RunFolder, step: int) -> None:
    """Wait until the run has made a step."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if run.log.exists() and any(line["step"] >= step for line in read_log(run.log)):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached")


@pytest.mark.requirement("faults.two-trainers")
def test_a_second_trainer_is_refused_and_may_start_when_the_first_was_killed(
    tmp_path: Path, server: ForkServer
) -> None:
    run = RunFolder(tmp_path / "runs" / "run")
    first = server.start("train_slowly", root=str(tmp_path))
    try:
        wait_for_step(run, 12)
        n_lines = len(read_log(run.log))
        status, told = server.call("command", arguments=["resume", str(run.path)])
        assert status == 2
        assert "Traceback" not in told
        error = told.strip().splitlines()[-1]
        assert f"The run {run.path} is being trained by another process." in error
        assert run.is_locked()
        wait_for_step(run, read_log(run.log)[-1]["step"] + 5)  # the first one goes on
        assert len(read_log(run.log)) > n_lines
        assert check_chain(run.log).broken is None
        assert not any(line["event"] == "resume" for line in read_log(run.log))
    finally:
        os.kill(first, signal.SIGKILL)
    assert server.wait(first)[0] == -signal.SIGKILL
    assert not run.is_locked()
    last = load_checkpoint(run.latest_checkpoint()).step
    arguments = ["resume", str(run.path), "--training.stop-at", str(last + 3)]
    status, told = server.call("command", arguments=arguments)
    assert status == 0, told
    assert load_checkpoint(run.latest_checkpoint()).step == last + 3
    assert check_chain(run.log).broken is None
