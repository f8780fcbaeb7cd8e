"""A wish to stop is kept until it is safe to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tests.training.helpers import resumed, tiny_config, train, trainer

from tiny_transformer.config.loading import save_config
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import read_log
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.interrupts import (
    InterruptedRunError,
    StopRequested,
    StopSignal,
)
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import weights_hash

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_next_check(number: signal.Signals) -> None:
    stop = StopSignal()
    with stop:
        stop.check()
        signal.raise_signal(number)
        assert stop.pending
        with pytest.raises(StopRequested):
            stop.check(1, 2)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_stops_at_once(number: signal.Signals) -> None:
    with StopSignal():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_the_handlers_are_put_back_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ArithmeticError), StopSignal():
        assert signal.getsignal(signal.SIGINT) not in before
        raise ArithmeticError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_no_handler_is_touched() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[object] = []

    def work() -> None:
        with StopSignal() as stop:
            stop.check()
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before


@pytest.mark.requirement("checkpoint.interrupt")
@pytest.mark.parametrize("moment", ["_sample", "_update", "_evaluate", "_save"])
def test_a_signal_at_any_moment_saves_and_resume_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    changes = {f"training__{name}_every": 2 for name in ("eval", "sample", "checkpoint")}
    expected = weights_hash(train(tmp_path / "whole", **changes)[0].model)
    calls = 0
    original = getattr(Trainer, moment)

    def interrupt(self: Trainer):
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self)

    stopped = trainer(tiny_config(tmp_path, run_name="stopped", **changes))
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError) as caught:
        patch.setattr(Trainer, moment, interrupt)
        stopped.train()
    run = tmp_path / "runs" / "stopped"
    assert caught.value.exit_status == 130
    assert f"tiny resume {run}" in str(caught.value)
    assert read_log(run / "log.jsonl")[-1]["event"] == "interrupted"
    assert read_log(run / "log.jsonl")[-1]["step"] == stopped.step
    assert 0 < stopped.step < 6
    saved = [line["step"] for line in read_log(run / "log.jsonl") if line["event"] == "checkpoint"]
    assert len(saved) == len(set(saved))  # none is written again
    assert load_checkpoint(RunFolder(run).latest_checkpoint()).step == stopped.step
    again = resumed(run)
    assert again.step == stopped.step
    again.train()
    assert weights_hash(again.model) == expected


@pytest.mark.requirement("checkpoint.interrupt")
def test_a_signal_before_the_first_update_is_resumed_from_step_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = weights_hash(train(tmp_path / "whole")[0].model)
    stopped = trainer(tiny_config(tmp_path, run_name="stopped"))
    original = Trainer._sample

    def interrupt(self: Trainer) -> str:
        signal.raise_signal(signal.SIGTERM)
        return original(self)

    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        patch.setattr(Trainer, "_sample", interrupt)
        stopped.train()
    assert stopped.step == 0
    again = resumed(tmp_path / "runs" / "stopped")
    again.train()
    assert weights_hash(again.model) == expected


@pytest.mark.requirement("checkpoint.interrupt")
def test_a_signal_after_the_last_update_does_not_send_the_user_to_a_run_that_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer(tiny_config(tmp_path, run_name="done"))
    original = Trainer._evaluate

    def interrupt(self: Trainer):
        signal.raise_signal(signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Trainer, "_evaluate", interrupt)
    run = tmp_path / "runs" / "done"
    with pytest.raises(InterruptedRunError, match=f"tiny eval {run}") as caught:
        whole.train()
    assert "tiny resume" not in str(caught.value)
    checkpoint = load_checkpoint(RunFolder(run).latest_checkpoint())
    assert checkpoint.step == 6
    assert weights_hash(checkpoint.build_model()) == weights_hash(whole.model)


N_STEPS = 300


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the hash of the weights of a run that nobody stops."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return weights_hash(train(folder, training__max_steps=N_STEPS)[0].model)


def start(arguments: list[str], tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tiny_transformer", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )


@pytest.mark.slow
@pytest.mark.requirement("checkpoint.interrupt")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_is_interrupted_saves_and_its_resume_ends_with_the_same_weights(
    tmp_path: Path, number: signal.Signals, uninterrupted: str
) -> None:
    config = tiny_config(tmp_path, training__max_steps=N_STEPS, run_name="run")
    save_config(config, tmp_path / "config.yaml")
    process = start(["train", "--config", "config.yaml"], tmp_path)
    folder = RunFolder(tmp_path / "runs" / "run")
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if folder.log.exists() and len(read_log(folder.log)) > 4:
            break
        time.sleep(0.02)
    process.send_signal(number)
    _, shown = process.communicate(timeout=120)
    assert process.returncode == 130, shown
    assert f"tiny resume {folder.path}" in " ".join(shown.split())
    assert "Traceback" not in shown
    stopped = load_checkpoint(folder.latest_checkpoint()).step
    assert 0 < stopped < N_STEPS
    assert read_log(folder.log)[-1]["event"] == "interrupted"

    again = start(["resume", str(folder.path)], tmp_path)
    _, shown = again.communicate(timeout=120)
    assert again.returncode == 0, shown
    left = load_checkpoint(folder.latest_checkpoint())
    assert left.step == N_STEPS
    assert weights_hash(left.build_model()) == uninterrupted
