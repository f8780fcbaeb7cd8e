"""Short trainings of a model with a bug, and of the right one beside it."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tiny_transformer.config import Config
from tiny_transformer.config.loading import load_config
from tiny_transformer.course.answers import installed
from tiny_transformer.course.content import STUBS
from tiny_transformer.course.hunt import Hunt
from tiny_transformer.evaluation import evaluator
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.runtime.random_state import forked_rng
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_log import metric_by_step, read_log
from tiny_transformer.training import state
from tiny_transformer.training.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "model.backend": "explicit",
    "model.d_model": 48,
    "training.max_steps": 400,
    "training.eval_every": 100,
    "training.log_every": 2,
}


class Quiet(ConsoleReporter):
    """Shows nothing."""

    def message(self, text: str) -> None:
        """Drop it."""

    def start(self, first_step: int, last_step: int) -> None:
        """Drop it."""

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Drop it."""


class Trained:
    """A short run: its trainer, its curves and its last validation loss."""

    def __init__(self, config: Config) -> None:
        self.trainer = Trainer(config, reporter=Quiet())
        result = self.trainer.train()
        lines = read_log(result.folder.log)
        self.curves = {
            "train": metric_by_step(lines, "train", "loss"),
            "val": metric_by_step(lines, "eval", "val_loss"),
        }
        self.loss = result.evaluation.loss

    @property
    def model(self) -> Transformer:
        """The trained model."""
        return self.trainer.model

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.trainer.data.tokenizer.encode(text).tolist()

    def decode(self, token: int) -> str:
        """Return a token as it is typed in Python, quotes included."""
        return repr(self.trainer.data.tokenizer.decode([token]))

    def write(self, seed: int = 0, **changes: Any) -> str:
        """Return a text of the model."""
        sampling = dataclasses.replace(
            self.trainer.config.sampling, seed=seed, max_new_tokens=200, **changes
        )
        with forked_rng("evidence", seed):
            text = sample_text(self.model, self.trainer.data.tokenizer, sampling)[0]
        return sampling.prompt + text


class Side:
    """The model with the bug, or the right one.

    Args:
        name: as pictures and tables call it.
        hunt: gives the settings.
        sources: the model's files, as the package `my_transformer`.
        folder: for its files and its runs.
    """

    def __init__(self, name: str, hunt: Hunt, sources: Mapping[str, str], folder: Path) -> None:
        self.name, self._folder = name, folder
        self.depths = hunt.depths
        self.settings = {**SETTINGS, **hunt.settings}
        source = folder / "source"
        files.make_directory(source)
        for file, text in sources.items():
            files.write_text(source / file, text)
        with installed(source):
            self._transformer = importlib.import_module(f"{STUBS}.transformer").Transformer
            self._loss = importlib.import_module(f"{STUBS}.loss").compute_loss

    @functools.cached_property
    def whole(self) -> Trained:
        """The training that most evidence is from."""
        return self.trained("whole")

    def trained(self, name: str, **changes: Any) -> Trained:
        """Train it with other settings."""
        with self._in_place():
            return Trained(self._config(name, changes))

    def fresh(self, **changes: Any) -> Transformer:
        """Return it untrained, for 99 characters."""
        config = self._config("fresh", changes)
        return self._transformer(config.model, seed=config.training.seed)

    def _config(self, name: str, changes: Mapping[str, Any]) -> Config:
        config = load_config("course", {**self.settings, **changes})
        return dataclasses.replace(config, runs_dir=str(self._folder / "runs"), run_name=name)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Let the trainer build this model, and ask for its loss."""
        with ExitStack() as patches:
            for place, what, ours in (
                (state, "build_model", self._transformer),
                (state, "compute_loss", self._loss),
                (evaluator, "compute_loss", self._loss),
            ):
                patches.enter_context(mock.patch.object(place, what, ours))
            yield
