"""Shards side by side: the batch's gradients, the same bits every time, and who may have them."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.helpers import log_of, resumed, tiny_config, train, trainer
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig, TrainingConfig
from tiny_transformer.model.dropout import Dropout
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.mlp import MLP
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.runtime.random_state import generator_states
from tiny_transformer.training.replay import plan_replay, replay
from tiny_transformer.training.shards import backward_in_shards, count_shards
from tiny_transformer.training.weights import weights_hash

pytestmark = pytest.mark.requirement("training.shards")

CPU = torch.device("cpu")
SHARDED: dict[str, Any] = {"training__shards": 2, "model__dropout": 0.2}


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let PyTorch have `request.param` threads, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def gradients(tmp_path: Path, **changes: Any) -> tuple[float, dict[str, Tensor]]:
    made = trainer(tiny_config(tmp_path, **changes))
    loss = made.state.compute_gradients().loss
    return loss, {n: p.grad for n, p in made.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("n_shards", [2, 4])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_the_whole_batch(
    tmp_path: Path, n_shards: int, accumulation_steps: int, tied: bool
) -> None:
    settings: dict[str, Any] = {
        "training__batch_size": 8,
        "model__dropout": 0.0,
        "model__tie_weights": tied,
        "training__grad_clip": 0.0,
    }
    loss, expected = gradients(tmp_path, training__shards=1, **settings)
    found_loss, found = gradients(
        tmp_path,
        training__shards=n_shards,
        training__accumulation_steps=accumulation_steps,
        **settings,
    )
    assert found_loss == pytest.approx(loss, abs=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_each_shard_drops_other_elements_and_none_of_them_touches_the_global_generator(
    tmp_path: Path,
) -> None:
    made = trainer(tiny_config(tmp_path, **SHARDED))
    kept: dict[int, Tensor] = {}

    def record(module: nn.Module, args: Any, output: Tensor) -> None:
        kept[threading.get_ident()] = output == 0

    next(m for m in made.model.modules() if isinstance(m, Dropout)).register_forward_hook(record)
    before = generator_states()
    made.state.compute_gradients()
    after = generator_states()
    assert all(torch.equal(before[name], after[name]) for name in before)
    first, second = kept.values()
    assert first.any()
    assert not torch.equal(first, second)


def test_the_bits_do_not_depend_on_which_thread_is_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = []
    for slow in (None, 0, 1, 2):
        made = trainer(tiny_config(tmp_path / str(slow), **{**SHARDED, "training__shards": 4}))
        loss_of = made.state._shard_loss

        def late(*args: Any, slow: int | None = slow, loss_of: Any = loss_of) -> Tensor:
            time.sleep(0.05 * (args[2] == slow))
            return loss_of(*args)

        monkeypatch.setattr(made.state, "_shard_loss", late)
        made.train()
        hashes.append(weights_hash(made.model))
    assert len(set(hashes)) == 1


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_in_shards_resumes_bit_for_bit_and_replays(tmp_path: Path, stop: int) -> None:
    whole, _ = train(tmp_path / "whole", **SHARDED)
    _, result = train(tmp_path / "cut", training__stop_at=stop, **SHARDED)
    continued = resumed(result.folder.path)
    continued.train()
    assert weights_hash(continued.model) == weights_hash(whole.model)
    assert replay(plan_replay(result.folder, 1, 6)).difference is None


def test_the_number_is_recorded_and_another_one_is_asked_about(tmp_path: Path) -> None:
    _, result = train(tmp_path, training__stop_at=3, training__shards=2)
    assert log_of(result.folder, "start")[0]["environment"]["shards"] == 2
    assert result.folder.checkpoint(3).joinpath("metadata.json").read_text().count('"shards": 2')


@pytest.mark.parametrize(
    ("threads", "windows", "length", "expected"),
    [
        (1, 16, 256, 1),
        (2, 16, 256, 2),
        (4, 16, 256, 4),
        (6, 16, 256, 2),  # three threads each; four of one thread would leave two idle
        (8, 16, 256, 8),
        (10, 16, 256, 2),
        (2, 3, 256, 1),
        (2, 2, 64, 1),  # too little work in one
        (2, 8, 64, 2),
    ],
    indirect=["threads"],
)
def test_by_default_all_threads_are_at_work(
    threads: None, windows: int, length: int, expected: int
) -> None:
    model = Transformer(ModelConfig(n_layers=1, d_model=8, n_heads=1))
    settings = TrainingConfig(batch_size=2 * windows, accumulation_steps=2)
    assert count_shards(settings, model, CPU, length) == expected


class OwnMLP(MLP):
    """A part from outside the package."""


@pytest.mark.parametrize("threads", [2, 4], indirect=True)
def test_shards_share_the_threads_among_them(threads: None, tmp_path: Path) -> None:
    """Each with all of them would be twice as many threads as cores, which wait for each other."""
    made, all_threads, seen = trainer(tiny_config(tmp_path, **SHARDED)), torch.get_num_threads(), []

    def loss_of(shard: int, x: Tensor, y: Tensor) -> Tensor:
        loss = made.model(x)[0].mean()  # the thread's number is settled once it computes
        seen.append(torch.get_num_threads())
        return loss

    ids = torch.zeros(4, 8, dtype=torch.int64)
    backward_in_shards(loss_of, list(made.model.parameters()), ids, ids, 2)
    assert seen == [all_threads // 2] * 2
    assert torch.get_num_threads() == all_threads


def test_a_part_of_ones_own_is_computed_whole_and_shards_of_it_are_refused() -> None:
    config = ModelConfig(n_layers=1, d_model=8, n_heads=1)
    model = Transformer(config, dataclasses.replace(Parts.for_config(config), mlp=OwnMLP))
    assert count_shards(TrainingConfig(), model, CPU, 256) == 1
    with pytest.raises(ConfigError, match=r"OwnMLP.*--training.shards 1"):
        count_shards(TrainingConfig(shards=2), model, CPU, 256)


def test_another_device_than_the_cpu_computes_a_batch_whole() -> None:
    model = Transformer(ModelConfig(n_layers=1, d_model=8, n_heads=1))
    meta = torch.device("meta")
    assert count_shards(TrainingConfig(), model, meta, 256) == 1
    with pytest.raises(ConfigError, match=r"on meta.*--training.shards 1"):
        count_shards(TrainingConfig(shards=2), model, meta, 256)


def test_shards_that_do_not_divide_a_micro_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"training.shards is 3 and a micro-batch has 8 windows"):
        TrainingConfig(batch_size=16, accumulation_steps=2, shards=3)


def test_an_error_on_a_thread_is_the_callers() -> None:
    weight = nn.Parameter(torch.ones(1))

    def fails(shard: int, x: Tensor, y: Tensor) -> Tensor:
        if shard == 1:
            raise ValueError("no")
        return (weight * x).sum()

    with pytest.raises(ValueError, match="no"):
        backward_in_shards(fails, [weight], torch.ones(2, 1), torch.ones(2, 1), 2)


def test_a_frozen_parameter_gets_no_gradient() -> None:
    model = Transformer(ModelConfig(n_layers=1, d_model=8, n_heads=1, dropout=0.0))
    frozen = model.blocks[0].get_parameter("mlp.up_proj.weight").requires_grad_(False)
    ids = torch.arange(8).view(2, 4)

    def loss_of(shard: int, x: Tensor, y: Tensor) -> Tensor:
        return compute_loss(model(x), y)

    losses = backward_in_shards(loss_of, list(model.parameters()), ids, ids, 2)
    assert len(losses) == 2
    assert frozen.grad is None
    assert model.lm_head.weight.grad is not None
