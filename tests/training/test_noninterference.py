"""Looking at a run does not change it: weights, optimizer and losses stay bit for bit."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.training.helpers import log_of, tiny_config, trainer

from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_log import metric_by_step
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import joint_hash, tensor_hashes, weights_hash

pytestmark = pytest.mark.requirement("training.non-interference")

OBSERVERS = [
    {"name": name, "every": 1}
    for name in (
        "activation_stats",
        "attention_entropy",
        "dead_units",
        "logit_lens",
        "gradient_norms",
        "weight_norms",
    )
]
WRITER = {"name": "sample_writer", "every": 2, "prompts": ["a", "b"], "max_new_tokens": 3}
QUIET: dict[str, Any] = {
    "training__eval_every": 0,
    "training__sample_every": 0,
    "training__checkpoint_every": 0,
    "training__accumulation_steps": 2,
    "model__dropout": 0.2,
}
LOOKS: dict[str, dict[str, Any]] = {
    "evaluation at every step": {"training__eval_every": 1},
    "evaluation in other batches": {"training__eval_every": 2, "training__eval_batch_size": 3},
    "a sample at every step": {"training__sample_every": 1},
    "other samples": {"training__sample_every": 2, "sampling__seed": 9, "sampling__top_k": 3},
    "a checkpoint at every step": {"training__checkpoint_every": 1},
    "a checkpoint at every step, pruned": {
        "training__checkpoint_every": 1,
        "checkpoints__keep_last": 1,
    },
    "few log lines": {"training__log_every": 5},
    **{hook["name"]: {"hooks": [hook]} for hook in [*OBSERVERS, WRITER]},
    "all observers": {"hooks": [*OBSERVERS, WRITER]},
    "the identity": {"hooks": [{"name": "identity"}]},
    "tensorboard": {"tracking__trackers": ["tensorboard"]},
    "wandb": {"tracking__trackers": ["wandb"]},
    "trackio": {"tracking__trackers": ["trackio"]},
    "everything": {
        "training__eval_every": 1,
        "training__sample_every": 1,
        "training__checkpoint_every": 1,
        "tracking__trackers": ["tensorboard"],
        "hooks": [*OBSERVERS, WRITER],
    },
}


def outcome(trained: Trainer) -> tuple[Any, ...]:
    """Return what must not change: losses, weights, optimizer state, global generators."""
    result = trained.train()
    state = joint_hash(tensor_hashes(trained.optimizer.state_tensors()))
    generators = (
        torch.get_rng_state().tolist(),
        [str(part) for part in np.random.get_state()],
        random.getstate(),
    )
    losses = metric_by_step(log_of(result.folder), "train", "loss")
    return weights_hash(trained.model), state, losses, generators


def seeded(config: Any, reporter: ConsoleReporter | None = None) -> tuple[Any, ...]:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    made = trainer(config) if reporter is None else Trainer(config, reporter=reporter)
    return outcome(made)


@pytest.fixture(scope="module", params=["adamw", "muon"])
def unwatched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, tuple[Any, ...]]:
    """Return an optimizer's name, and what a run with it comes to that nobody looks at."""
    path = tmp_path_factory.mktemp("unwatched")
    config = tiny_config(path, optimizer__name=request.param, **QUIET)
    return request.param, seeded(config)


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_changes_no_bit(
    tmp_path: Path, unwatched: tuple[str, tuple[Any, ...]], look: str
) -> None:
    name, expected = unwatched
    if look in ("wandb", "trackio") and name == "muon":
        return  # the packages are slow to start, and do not know the optimizer
    for package in LOOKS[look].get("tracking__trackers", ()):
        pytest.importorskip(package)
    changes = {**QUIET, **LOOKS[look], "optimizer__name": name}
    found = seeded(tiny_config(tmp_path, **changes))
    if "training__log_every" in changes:
        losses = {step: expected[2][step] for step in (5, 6)}
        expected = (*expected[:2], losses, expected[3])
    assert found == expected


def test_a_progress_bar_changes_no_bit(
    tmp_path: Path, unwatched: tuple[str, tuple[Any, ...]]
) -> None:
    name, expected = unwatched
    shown = io.StringIO()
    reporter = ConsoleReporter(Console(file=shown, force_terminal=True, width=120))
    config = tiny_config(tmp_path, optimizer__name=name, **QUIET)
    assert seeded(config, reporter) == expected
    assert "tokens/s" in shown.getvalue()
