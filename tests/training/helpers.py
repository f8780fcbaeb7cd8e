"""A run small enough to be trained dozens of times in one test file."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tiny_transformer.config import Config
from tiny_transformer.config.loading import load_config
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import read_log
from tiny_transformer.training.checkpoint import save_checkpoint
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.training.result import TrainingResult
from tiny_transformer.training.trainer import Trainer

SMALL: dict[str, Any] = {
    "data.corpus": "simple",
    "model.n_layers": 1,
    "model.d_model": 16,
    "model.n_heads": 2,
    "model.d_ff": 32,
    "model.context_length": 16,
    "training.max_steps": 6,
    "training.batch_size": 4,
    "training.device": "cpu",
    "training.precision": "float32",
    "sampling.max_new_tokens": 8,
    "training.eval_every": 0,
    "training.eval_batch_size": 64,
    "optimizer.learning_rate": 1e-2,
}


def tiny_config(tmp_path: Path, **changes: Any) -> Config:
    """Return a config of a small run below `tmp_path`; `a__b=1` sets `a.b` to 1."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(None, {"runs_dir": str(tmp_path / "runs"), **SMALL, **dotted})


def silent() -> ConsoleReporter:
    """Return a reporter that shows its lines to nobody."""
    return ConsoleReporter(Console(file=io.StringIO(), force_terminal=False))


def trainer(config: Config, *, parts: Parts | None = None) -> Trainer:
    """Return a trainer that keeps quiet."""
    return Trainer(config, parts=parts, reporter=silent())


def resumed(run: Path, **options: Any) -> Trainer:
    """Return a quiet trainer that continues the run, or the checkpoint, at a path."""
    return Trainer.resume(run, reporter=silent(), **options)


def train(tmp_path: Path, **changes: Any) -> tuple[Trainer, TrainingResult]:
    """Train a small run to its end."""
    trained = trainer(tiny_config(tmp_path, **changes))
    return trained, trained.train()


def log_of(folder: RunFolder, event: str | None = None) -> list[dict[str, Any]]:
    """Return the lines of a run's log, or those of one event."""
    return [line for line in read_log(folder.log) if event in (None, line["event"])]


def bytes_below(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones too, by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


CHECKPOINT_FILES = [
    "config.yaml",
    "generators.safetensors",
    "hooks.safetensors",
    "metadata.json",
    "model.safetensors",
    "optimizer.safetensors",
    "vocab.json",
]


class SavedModel:
    """A model after two updates, and a checkpoint of it."""

    def __init__(self, tmp_path: Path, **changes: Any) -> None:
        self.config: Config = tiny_config(tmp_path, **changes)
        self.model = Transformer(self.config.model, seed=4)
        self.optimizer = Optimizer(self.model, self.config.optimizer)
        self.folder = RunFolder(tmp_path / "run")
        self.update()
        self.path = self.save(2)

    def update(self) -> None:
        for _ in range(2):
            for parameter in self.model.parameters():
                parameter.grad = torch.randn_like(parameter)
            self.optimizer.step()

    def save(self, step: int) -> Path:
        return save_checkpoint(
            self.folder.checkpoint(step),
            model=self.model,
            optimizer=self.optimizer,
            step=step,
            config=self.config,
            tokenizer=CharTokenizer(),
            metadata={"run_id": "run", "note": "caf\u00e9"},
        )


CALLS = ("os_write", "os_fsync", "os_replace", "os_mkdir")


class Faults:
    """Counts the calls that write, and lets one of them, or all from there on, fail."""

    def __init__(
        self, patch: pytest.MonkeyPatch, number: int, error: int, *, lasting: bool = False
    ) -> None:
        self.calls = 0
        for name in CALLS:
            patch.setattr(files, name, self._guard(getattr(os, name[3:]), number, error, lasting))

    def _guard(
        self, call: Callable[..., Any], number: int, error: int, lasting: bool
    ) -> Callable[..., Any]:
        def guarded(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == number or (lasting and self.calls > number):
                raise OSError(error, os.strerror(error))
            return call(*arguments)

        return guarded
