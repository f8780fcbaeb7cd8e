"""Runs, models and batches that hooks are tried on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.training.helpers import log_of, tiny_config, train, trainer
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.hooks.base import ForwardHook, Hook, Observer, UpdateHook
from tiny_transformer.hooks.registry import HOOKS, build_hooks
from tiny_transformer.hooks.runner import HookRunner
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import generator_states
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import tensor_hashes, weights_hash

OBSERVERS = [name for name, kind in HOOKS.items() if issubclass(kind, Observer)]
UPDATE_HOOKS = [name for name, kind in HOOKS.items() if issubclass(kind, UpdateHook)]
Settings = dict[str, Any]


def seed_everything() -> None:
    """Put each global generator into a known state."""
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)


def labelled(*hooks: Hook) -> list[Hook]:
    """Name hooks that a test made by their class."""
    for hook in hooks:
        hook.label = type(hook).__name__
    return list(hooks)


def trained_with(tmp_path: Path, *hooks: Hook, **changes: Any) -> Trainer:
    """Train a small run with hooks that a test made."""
    seed_everything()
    trained = with_hooks(trainer(tiny_config(tmp_path, **changes)), *hooks)
    trained.train()
    return trained


def with_hooks(trainer: Trainer, *hooks: Hook) -> Trainer:
    """Put hooks into a trainer that has none."""
    state = trainer.state
    state.hooks = HookRunner(labelled(*hooks), state.model, seed=trainer.config.training.seed)
    return trainer


def outcome(trained: Trainer) -> dict[str, Any]:
    """Return all that a hook could leave a trace in, to the last bit."""
    assert trained._folder is not None
    lines = log_of(RunFolder(trained._folder.path))
    return {
        "weights": weights_hash(trained.model),
        "optimizer": tensor_hashes(trained.optimizer.state_tensors()),
        "generators": tensor_hashes(generator_states()),
        "losses": [line["loss_bits"] for line in lines if line["event"] == "train"],
        "validation": [line["val_loss_bits"] for line in lines if line["event"] == "eval"],
        "samples": [line["text"] for line in lines if line["event"] == "sample"],
    }


def small_model(**changes: Any) -> Transformer:
    """Return a model of two layers with biases, in which no weight is zero."""
    settings: Settings = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_ff": 24}
    settings.update(context_length=8, dropout=0.0)
    settings.update(changes)
    model = Transformer(ModelConfig(**settings), seed=1)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            draws = torch.Generator().manual_seed(index)
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draws))
    return model


def batch(n_rows: int = 3, length: int = 8) -> tuple[Tensor, Tensor]:
    """Return ids and targets."""
    draws = torch.Generator().manual_seed(5)
    ids = torch.randint(2, 99, (n_rows, length + 1), generator=draws)
    return ids[:, :-1], ids[:, 1:]


def seen_by(model: nn.Module, *hooks: Hook | Settings) -> dict[str, float]:
    """Return what forward hooks say of one pass over `batch()`, by metric."""
    found: dict[str, float] = {}
    built = [build_hooks([h])[0] if isinstance(h, dict) else labelled(h)[0] for h in hooks]
    runner = HookRunner(built, model, seed=0, report=lambda _, __, metrics: found.update(metrics))
    runner.before_forward(50, *batch())
    return found


def give_gradients(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Give every parameter a gradient of its own; return copies by name."""
    draws = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draws)
    return gradients_of(model)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the gradients, by name."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def changed_by(
    model: nn.Module, hooks: Sequence[Hook | Settings], *, step: int = 1, seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the gradients that hooks make of those that `model` has, and the rates' scales."""
    built = [build_hooks([h])[0] if isinstance(h, dict) else labelled(h)[0] for h in hooks]
    scales = HookRunner(built, model, seed=seed).change_gradients(step)
    return gradients_of(model), scales


class Maximum(ForwardHook):
    """Returns one name for every site."""

    def observe(self, site: Any, output: Tensor, probe: Any) -> dict[str, float]:
        return {"max": output.max().item()}


def run(tmp_path: Path, *hooks: dict[str, Any], **changes: Any) -> Trainer:
    seed_everything()
    return train(tmp_path, hooks=list(hooks), model__n_layers=2, **changes)[0]
