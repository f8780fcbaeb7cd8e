"""A loss that is not a number, and a disk that is full, end a run and harm nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.helpers import Faults, bytes_below, log_of, tiny_config, trainer
from torch import Tensor

from tiny_transformer.model.loss import compute_loss
from tiny_transformer.runtime.errors import DivergedError, StorageError
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import read_log
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.state import Gradients
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import weights_hash


def spoil(patch: pytest.MonkeyPatch, at_call: int, factor: float) -> None:
    """Multiply the loss of one forward pass of the trainer by `factor`."""
    calls = 0

    def spoiled(logits: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return compute_loss(logits, targets) * (factor if calls == at_call else 1.0)

    patch.setattr("tiny_transformer.training.state.compute_loss", spoiled)


@pytest.mark.requirement("training.divergence")
@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_spoils_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, step: int
) -> None:
    made = trainer(tiny_config(tmp_path, run_name="run", training__checkpoint_every=2))
    hashes: dict[int, str] = {}
    update = Trainer._update

    def watched(self: Trainer) -> None:
        hashes[self.step] = weights_hash(self.model)
        update(self)

    monkeypatch.setattr(Trainer, "_update", watched)
    spoil(monkeypatch, step, factor)
    with pytest.raises(DivergedError) as caught:
        made.train()
    windows = made.data.loader.indices(step - 1).tolist()
    assert caught.value.exit_status == 3
    assert f"step {step}:" in str(caught.value)
    assert ", ".join(map(str, windows)) in str(caught.value)
    assert made.step == step - 1
    assert weights_hash(made.model) == hashes[step - 1]
    folder = RunFolder(tmp_path / "runs" / "run")
    last = read_log(folder.log)[-1]
    assert (last["event"], last["step"], last["windows"]) == ("diverged", step, windows)
    assert last["loss"] in ("nan", "inf", "-inf")
    assert [line["step"] for line in log_of(folder, "train")] == list(range(1, step))
    saved = [load_checkpoint(path) for path in folder.checkpoints()]
    assert [c.step for c in saved] == [s for s in (2, 4) if s < step]
    assert all(weights_hash(c.build_model()) == hashes[c.step] for c in saved)


@pytest.mark.requirement("training.divergence")
def test_a_gradient_that_is_not_finite_ends_the_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tiny_config(tmp_path))
    accumulate = made.state._accumulate

    def spoiled() -> float:
        loss = accumulate()
        if made.step == 2:
            grad = next(made.model.parameters()).grad
            assert grad is not None
            grad.view(-1)[0] = float("nan")
        return loss

    monkeypatch.setattr(made.state, "_accumulate", spoiled)
    before: list[str] = []
    monkeypatch.setattr(made, "_diverged", _recording(made, before))
    with pytest.raises(DivergedError, match=r"step 3: loss .*gradient norm nan"):
        made.train()
    assert made.step == 2
    assert before == [weights_hash(made.model)]
    assert all(bool(torch.isfinite(p).all()) for p in made.model.parameters())


def _recording(made: Trainer, seen: list[str]):
    diverged = made._diverged

    def record(gradients: Gradients) -> None:
        seen.append(weights_hash(made.model))
        diverged(gradients)

    return record


@pytest.mark.requirement("training.divergence")
def test_a_loss_that_is_not_finite_ends_the_run_even_if_its_gradients_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tiny_config(tmp_path))
    accumulate = made.state._accumulate

    def overflown() -> float:
        return accumulate() if made.step < 2 else float("inf")

    monkeypatch.setattr(made.state, "_accumulate", overflown)
    with pytest.raises(DivergedError, match="step 3: loss inf, gradient norm 0"):
        made.train()


@pytest.mark.requirement("training.divergence")
@pytest.mark.parametrize("watching", ["eval", "sample", "checkpoint", None])
@pytest.mark.parametrize("rate", [1e10, 1e30])
def test_a_huge_learning_rate_diverges_and_never_ends_as_if_all_were_well(
    tmp_path: Path, watching: str | None, rate: float
) -> None:
    changes = {f"training__{watching}_every": 1} if watching else {}
    config = tiny_config(
        tmp_path,
        run_name="run",
        optimizer__learning_rate=rate,
        training__grad_clip=0.0,
        training__max_steps=40,
        **{"training__sample_every": 0, "training__checkpoint_every": 0, **changes},
    )
    with pytest.raises(DivergedError, match=r"diverged at step \d+: ") as caught:
        trainer(config).train()
    assert caught.value.exit_status == 3
    folder = RunFolder(tmp_path / "runs" / "run")
    last = read_log(folder.log)[-1]
    assert last["event"] == "diverged"
    assert f"at step {last['step']}:" in str(caught.value)
    for path in folder.checkpoints():
        weights = load_checkpoint(path).weights.values()
        assert all(bool(torch.isfinite(weight).all()) for weight in weights)


@pytest.mark.requirement("training.divergence")
@pytest.mark.parametrize("watching", ["eval", "sample", "checkpoint"])
@pytest.mark.parametrize("step", [3, 6])
def test_weights_that_an_update_spoiled_are_not_saved_and_the_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watching: str, step: int
) -> None:
    changes = {f"training__{watching}_every": 3}
    made = trainer(tiny_config(tmp_path, run_name="run", **changes))
    update = Trainer._update

    def spoiled(self: Trainer) -> None:
        update(self)
        if self.step == step:
            with torch.no_grad():
                self.model.final_norm.get_parameter("weight").fill_(float("nan"))

    monkeypatch.setattr(Trainer, "_update", spoiled)
    with pytest.raises(DivergedError, match=f"diverged at step {step}: ") as caught:
        made.train()
    assert caught.value.exit_status == 3
    folder = RunFolder(tmp_path / "runs" / "run")
    last = read_log(folder.log)[-1]
    assert (last["event"], last["step"]) == ("diverged", step)
    saved = [load_checkpoint(path).step for path in folder.checkpoints()]
    assert saved == ([3] if watching == "checkpoint" and step == 6 else [])


@pytest.mark.requirement("bad.full-disk")
def test_a_disk_that_fills_up_at_any_write_of_a_run_leaves_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "training__checkpoint_every": 1,
        "training__max_steps": 2,
        "training__log_every": 1,
        "sampling__max_new_tokens": 1,
        "data__val_fraction": 0.01,
    }
    # Asking git for the commit takes longer than such a run.
    monkeypatch.setattr("tiny_transformer.runtime.environment._git", lambda *_, **__: None)

    def run(name: str, number: int) -> int:
        """Train with the write of that number, and all after it, failing; count the writes."""
        made = trainer(tiny_config(tmp_path, run_name=name, **changes))
        with monkeypatch.context() as patch:
            faults = Faults(patch, number, 28, lasting=number > 0)
            if number:
                with pytest.raises(StorageError, match="disk is full"):
                    made.train()
            else:
                made.train()
        return faults.calls

    (tmp_path / "runs").mkdir()
    total = run("whole", 0)
    whole = RunFolder(tmp_path / "runs" / "whole")
    steps = [1, 2]
    assert [load_checkpoint(path).step for path in whole.checkpoints()] == steps
    before = bytes_below(whole.path)
    for number in range(1, total + 1):
        run(f"run-{number}", number)
        folder = RunFolder(tmp_path / "runs" / f"run-{number}")
        found = [load_checkpoint(path).step for path in folder.checkpoints()]
        assert found == steps[: len(found)], number
        if folder.log.exists():
            text = folder.log.read_bytes()
            assert text.count(b"\n") == len(read_log(folder.log))  # whole lines only
    assert bytes_below(whole.path) == before
