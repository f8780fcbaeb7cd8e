"""The loop: what it computes, and what it leaves alone."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.helpers import log_of, resumed, tiny_config, train, trainer
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.mlp import MLP
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.runtime.random_state import generator_states
from tiny_transformer.tracking.run_log import metric_by_step
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import weights_hash


def losses(tmp_path: Path, **changes: Any) -> list[float]:
    _, result = train(tmp_path, **changes)
    return list(metric_by_step(log_of(result.folder), "train", "loss").values())


# Weights


@pytest.mark.requirement("e2e.weight-hashes")
def test_two_fresh_runs_of_one_seed_end_with_equal_weights(tmp_path: Path) -> None:
    first, a = train(tmp_path / "a")
    second, b = train(tmp_path / "b")
    assert weights_hash(first.model) == weights_hash(second.model)
    assert a.evaluation == b.evaluation
    assert (a.first_sample, a.last_sample) == (b.first_sample, b.last_sample)


@pytest.mark.requirement("e2e.weight-hashes")
def test_another_seed_ends_with_other_weights(tmp_path: Path) -> None:
    first, last = set(), set()
    for seed in range(3):
        made = trainer(tiny_config(tmp_path, training__seed=seed))
        first.add(weights_hash(made.model))
        made.train()
        last.add(weights_hash(made.model))
    assert len(first) == len(last) == 3


def test_dropout_is_on_whatever_mode_the_model_was_left_in(tmp_path: Path) -> None:
    expected, _ = train(tmp_path, model__dropout=0.5)
    made = trainer(tiny_config(tmp_path, model__dropout=0.5))
    made.model.eval()
    made.train()
    assert weights_hash(made.model) == weights_hash(expected.model)


@pytest.mark.parametrize(
    "changes",
    [
        {"training__eval_every": 1, "training__eval_batch_size": 3},
        {"training__sample_every": 1, "sampling__temperature": 0.5, "sampling__seed": 9},
        {"training__sample_every": 0, "sampling__max_new_tokens": 0},
        {"training__checkpoint_every": 1},
        {"training__log_every": 4},
        {"run_name": "another"},
    ],
)
def test_looking_at_a_run_does_not_change_its_weights(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain, _ = train(tmp_path / "plain", model__dropout=0.2)
    watched, _ = train(tmp_path / "watched", model__dropout=0.2, **changes)
    assert weights_hash(watched.model) == weights_hash(plain.model)


@pytest.mark.requirement("training.log-lines")
def test_each_step_is_the_update_that_can_be_made_by_hand(tmp_path: Path) -> None:
    """Batch, loss, clipping, schedule and optimizer, without the trainer's loop."""
    changes = {
        "model__dropout": 0.0,
        "schedule__name": "linear",
        "training__grad_clip": 0.5,
        "training__max_steps": 4,
    }
    trained, result = train(tmp_path, **changes)
    by_hand = trainer(tiny_config(tmp_path, **changes))
    parameters = list(by_hand.model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95))
    for step, line in enumerate(log_of(result.folder, "train")):
        x, y = by_hand.data.loader.batch(step)
        optimizer.zero_grad()
        loss = compute_loss(by_hand.model(x), y)
        loss.backward()
        norm = math.sqrt(
            sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None)
        )
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad *= min(1.0, 0.5 / norm)
        rate = 1e-2 * (1 - 0.9 * (step + 1) / 4)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        assert line["step"] == step + 1
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert line["lr"] == pytest.approx(rate)
        assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert line["tokens_per_second"] > 0
    for mine, its in zip(parameters, trained.model.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=2e-5, rtol=1e-4)


@pytest.mark.requirement("training.accumulation")
def test_accumulated_micro_batches_give_the_update_of_the_whole_batch(tmp_path: Path) -> None:
    changes = {"model__dropout": 0.0, "training__batch_size": 8}
    reference, _ = train(tmp_path, **changes)
    expected = losses(tmp_path, **changes)
    for pieces in (2, 4, 8):
        more = {**changes, "training__accumulation_steps": pieces}
        assert losses(tmp_path, **more) == pytest.approx(expected, rel=1e-5)
        trained, _ = train(tmp_path, **more)
        for a, b in zip(trained.model.parameters(), reference.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.requirement("training.accumulation")
@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_accumulated_gradients_are_those_of_the_same_windows(tmp_path: Path, pieces: int) -> None:
    changes = {"model__dropout": 0.0, "training__accumulation_steps": pieces}
    made = trainer(tiny_config(tmp_path, **changes))
    whole = trainer(tiny_config(tmp_path, model__dropout=0.0))
    for step in range(3):
        made.optimizer.zero_grad()
        made.state.step = step
        loss = made.state._accumulate()
        whole.model.zero_grad()
        expected = compute_loss(
            whole.model(whole.data.loader.batch(step)[0]), whole.data.loader.batch(step)[1]
        )
        expected.backward()
        assert loss == pytest.approx(expected.item(), rel=1e-6)
        for a, b in zip(made.model.parameters(), whole.model.parameters(), strict=True):
            assert a.grad is not None
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.requirement("training.clipping")
@pytest.mark.parametrize("limit", [0.0, 1e-3, 0.5, 1e9])
def test_gradients_are_clipped_to_the_global_norm_and_0_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    seen: list[float] = []
    made = trainer(tiny_config(tmp_path, training__grad_clip=limit))
    step = made.optimizer.step

    def watched(*arguments: Any) -> None:
        squares = [p.grad.square().sum() for p in made.model.parameters() if p.grad is not None]
        seen.append(float(torch.stack(squares).sum().sqrt()))
        step(*arguments)

    monkeypatch.setattr(made.optimizer, "step", watched)
    raw = metric_by_step(log_of(made.train().folder), "train", "grad_norm").values()
    assert len(seen) == 6
    for before, after in zip(raw, seen, strict=True):
        expected = min(before, limit) if limit else before
        assert after == pytest.approx(expected, rel=1e-3)
        assert before > 1e-3


# Randomness


class NoisyMLP(MLP):
    """A part that draws from the global generator whenever it is called, and when built."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gain = nn.Parameter(1 + 0.1 * torch.rand(config.d_model))
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(super().forward(x) * self.gain * (0.9 + 0.2 * torch.rand(1)))


def test_a_part_that_draws_from_the_global_generator_is_reproducible(tmp_path: Path) -> None:
    found = []
    for seed, changes in ((1, {}), (2, {"training__eval_every": 2, "training__sample_every": 2})):
        torch.manual_seed(seed)
        made = trainer(tiny_config(tmp_path, **changes), parts=Parts(mlp=NoisyMLP))
        torch.manual_seed(seed + 10)
        result = made.train()
        found.append((weights_hash(made.model), result.evaluation, result.last_sample))
    assert found[0] == found[1]


def test_a_part_that_draws_numbers_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    parts = Parts(mlp=NoisyMLP)
    changes = {"training__accumulation_steps": 2}
    whole = trainer(tiny_config(tmp_path, **changes), parts=parts)
    whole.train()
    first = trainer(tiny_config(tmp_path, training__stop_at=3, **changes), parts=parts)
    again = resumed(first.train().folder.path, parts=parts)
    again.train()
    assert weights_hash(again.model) == weights_hash(whole.model)


def test_a_part_that_draws_from_numpy_and_python_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    class Foreign(MLP):
        def forward(self, x: Tensor) -> Tensor:
            noise = np.random.standard_normal() + random.gauss(0, 1) if self.training else 0.0
            return super().forward(x) * (1 + 0.1 * noise)

    def seeded(**changes: Any) -> Trainer:
        np.random.seed(1)
        random.seed(2)
        made = trainer(tiny_config(tmp_path, **changes), parts=Parts(mlp=Foreign))
        made.train()
        return made

    whole = seeded()
    first = seeded(training__stop_at=3)
    np.random.seed(99)
    random.seed(99)
    assert first._folder is not None
    again = resumed(first._folder.path, parts=Parts(mlp=Foreign))
    again.train()
    assert weights_hash(again.model) == weights_hash(whole.model)


def test_each_micro_step_draws_other_numbers(tmp_path: Path) -> None:
    draws: list[float] = []

    class Listening(MLP):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                draws.append(float(torch.rand(())))
            return super().forward(x)

    changes = {"training__accumulation_steps": 2, "training__max_steps": 3}
    for seed in (1, 2):
        config = tiny_config(tmp_path, training__seed=seed, **changes)
        trainer(config, parts=Parts(mlp=Listening)).train()
    assert len(draws) == len(set(draws)) == 2 * 2 * 3


@pytest.mark.parametrize("parts", [Parts(), Parts(mlp=NoisyMLP)])
def test_the_global_generators_are_afterwards_as_they_were_before(
    tmp_path: Path, parts: Parts
) -> None:
    torch.manual_seed(5)
    np.random.seed(6)
    random.seed(7)
    before = generator_states()
    changes = {"training__eval_every": 2, "training__sample_every": 2}
    trainer(tiny_config(tmp_path, model__dropout=0.3, **changes), parts=parts).train()
    after = generator_states()
    assert all(torch.equal(before[name], after[name]) for name in before)


# Precision


@pytest.mark.requirement("training.device-precision")
@pytest.mark.requirement("record.log")
def test_bfloat16_trains_with_float32_logits_weights_and_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[torch.dtype] = set()

    def watched(logits: Tensor, targets: Tensor) -> Tensor:
        kinds.add(logits.dtype)
        loss = compute_loss(logits, targets)
        kinds.add(loss.dtype)
        return loss

    monkeypatch.setattr("tiny_transformer.training.state.compute_loss", watched)
    trained, result = train(tmp_path, training__precision="bfloat16")
    assert kinds == {torch.float32}
    assert {p.dtype for p in trained.model.parameters()} == {torch.float32}
    full = losses(tmp_path)
    half = list(metric_by_step(log_of(result.folder), "train", "loss").values())
    assert half == pytest.approx(full, rel=0.05)
    assert half != full
    assert log_of(result.folder)[0]["precision"] == "bfloat16"
    assert '"precision": "bfloat16"' in (result.folder.path / "environment.json").read_text()


@pytest.mark.requirement("training.device-precision")
def test_auto_names_what_it_took(tmp_path: Path) -> None:
    made = trainer(tiny_config(tmp_path, training__device="auto", training__precision="auto"))
    line = log_of(made.train().folder)[0]
    assert line["device"] == str(made.device)
    assert line["device"].partition(":")[0] in ("cpu", "cuda", "mps")
    assert line["precision"] in ("float32", "bfloat16")


@pytest.mark.requirement("training.device-precision")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name in ("cuda:99", "abacus"):
        with pytest.raises(ConfigError, match=name):
            trainer(tiny_config(tmp_path, training__device=name))
    assert not (tmp_path / "runs").exists()
