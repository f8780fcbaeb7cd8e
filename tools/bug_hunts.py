"""Makes the evidence of the bug hunts: `python tools/bug_hunts.py [NAME ...]`.

Each model with its bug is trained shortly, beside the right one, with the same seed; what is
seen of it is written to `course/bug_hunts/NAME/`. On one thread a hunt takes about a minute.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tiny_transformer.config.loading import load_config
from tiny_transformer.course.answers import installed
from tiny_transformer.course.hunt import MADE_WITH, Hunt, find_hunt, load_hunts
from tiny_transformer.evaluation.attention_maps import attention_weights
from tiny_transformer.evaluation.evaluator import compute_val_loss
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.runtime import files
from tiny_transformer.runtime.random_state import forked_rng
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_log import metric_by_step, read_log
from tiny_transformer.training import state
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.viz.attention import plot_attention
from tiny_transformer.viz.plots import plot_losses

TEXT = "First, let me see the house."
DEPTHS = (1, 2, 4, 6)
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


@contextmanager
def with_bug(hunt: Hunt, folder: Path) -> Iterator[None]:
    """Let the trainer build the model with the bug."""
    for name, text in hunt.sources().items():
        files.write_text(folder / name, text)
    with installed(folder):
        theirs = importlib.import_module("my_transformer.transformer").Transformer
        with mock.patch.object(state, "Transformer", theirs):
            yield


class Trained:
    """A short run: its trainer, its curves and its last validation loss."""

    def __init__(self, hunt: Hunt, folder: Path, name: str, **changes: Any) -> None:
        settings = {**SETTINGS, **hunt.settings, **changes}
        config = load_config("course", settings)
        config = dataclasses.replace(config, runs_dir=str(folder), run_name=name)
        self.trainer = Trainer(config, reporter=Quiet())
        result = self.trainer.train()
        lines = read_log(result.folder.log)
        self.curves = {
            "train": metric_by_step(lines, "train", "loss"),
            "val": metric_by_step(lines, "eval", "val_loss"),
        }
        self.loss = result.evaluation.loss

    def write(self, seed: int = 0, **changes: Any) -> str:
        """Return a text of the model."""
        sampling = dataclasses.replace(
            self.trainer.config.sampling, seed=seed, max_new_tokens=200, **changes
        )
        with forked_rng("evidence", seed):
            text = sample_text(self.trainer.model, self.trainer.data.tokenizer, sampling)[0]
        return sampling.prompt + text


def make(hunt: Hunt) -> None:
    """Write the evidence of one hunt."""
    with tempfile.TemporaryDirectory() as temporary:
        runs, source = Path(temporary) / "runs", Path(temporary) / "source"
        source.mkdir()
        needs_right = {"losses", "depth"} & set(hunt.evidence)
        right = Trained(hunt, runs, "right") if needs_right else None
        with with_bug(hunt, source):
            buggy = Trained(hunt, runs, "buggy")
            for kind in hunt.evidence:
                globals()[f"show_{kind}"](hunt, buggy, right, runs)
        if "depth" in hunt.evidence:
            show_depths_of_right(hunt, runs)
        config = buggy.trainer.config
        made = (
            f"python tools/bug_hunts.py {hunt.name}\n"
            f"the preset course with { ({**SETTINGS, **hunt.settings}) }\n"
            f"seed {config.training.seed}, {config.training.max_steps} steps on "
            f"{config.data.corpus}, PyTorch {torch.__version__}, one thread\n"
        )
        files.write_text(hunt.folder / MADE_WITH, made)


def show_losses(hunt: Hunt, buggy: Trained, right: Trained | None, runs: Path) -> None:
    """Draw both loss curves."""
    assert right is not None
    curves = {"others' model": right.curves, "this model": buggy.curves}
    plot_losses(curves, hunt.folder / "losses.png")


def show_attention(hunt: Hunt, buggy: Trained, right: Trained | None, runs: Path) -> None:
    """Draw where the heads of the first layers look."""
    ids = buggy.trainer.data.tokenizer.encode(TEXT).tolist()
    weights = attention_weights(buggy.trainer.model, ids)[:2, :2]
    plot_attention(weights.numpy(), list(TEXT), hunt.folder / "attention.png")


def show_samples(hunt: Hunt, buggy: Trained, right: Trained | None, runs: Path) -> None:
    """Write what the model writes."""
    text = f"validation loss {buggy.loss:.3f}; a text of this model:\n\n{buggy.write()}\n"
    files.write_text(hunt.folder / "sample.txt", text)


def show_cache(hunt: Hunt, buggy: Trained, right: Trained | None, runs: Path) -> None:
    """Score a text token by token, and write one, with the cache and without."""
    trainer = buggy.trainer
    model, tokenizer = trainer.model.eval(), trainer.data.tokenizer
    ids = torch.tensor([tokenizer.encode(TEXT).tolist()])
    with torch.no_grad():
        whole = -model(ids[:, :-1]).log_softmax(-1)[0]
        cache = KVCache(trainer.config.model, 1)
        steps = [model(ids[:, i : i + 1], cache)[0] for i in range(ids.shape[1] - 1)]
        cached = -torch.cat(steps).log_softmax(-1)
    lines = [f"how surprised the model is by each character of {TEXT!r}, in nats", ""]
    lines.append("character   whole text at once   one at a time, with the cache")
    for place, token in enumerate(ids[0, 1:].tolist()):
        a, b = float(whole[place, token]), float(cached[place, token])
        lines.append(f"{tokenizer.decode([token])!r:<9}{a:>21.3f}{b:>33.3f}")
    targets = ids[0, 1:, None]
    means = [float(table.gather(1, targets).mean()) for table in (whole, cached)]
    lines.append(f"{'mean':<9}{means[0]:>21.3f}{means[1]:>33.3f}")
    lines.append(f"\na text, with the cache:\n\n{buggy.write(temperature=0.8)}")
    model.can_cache = False
    lines.append(f"\nthe same seed, without the cache:\n\n{buggy.write(temperature=0.8)}")
    model.can_cache = True
    files.write_text(hunt.folder / "with-and-without-cache.txt", "\n".join(lines) + "\n")


def show_repeats(hunt: Hunt, buggy: Trained, right: Trained | None, runs: Path) -> None:
    """Evaluate, and ask for the next character, more than once with the same weights."""
    trainer, lines = buggy.trainer, ["the same weights, evaluated four times on the same text:", ""]
    tokenizer, model = trainer.data.tokenizer, trainer.model.eval()
    for seed in range(4):
        with forked_rng("repeat", seed):
            found = compute_val_loss(
                model,
                trainer.data.validation[:20_000],
                context_length=trainer.config.model.context_length,
                tokenizer=tokenizer,
            )
        lines.append(f"  validation loss {found.loss:.6f}")
    lines += ["", f"and asked four times for what comes after {TEXT[:9]!r}:", ""]
    ids = torch.tensor([tokenizer.encode(TEXT[:9]).tolist()])
    for seed in range(4):
        with torch.no_grad(), forked_rng("repeat", seed):
            chances = model(ids)[0, -1].softmax(-1)
        best = chances.topk(4)
        told = [
            f"{tokenizer.decode([int(i)])!r} {float(p):.1%}"
            for p, i in zip(best.values, best.indices, strict=True)
        ]
        lines.append("  " + "   ".join(told))
    files.write_text(hunt.folder / "again-and-again.txt", "\n".join(lines) + "\n")


def show_depth(hunt: Hunt, buggy: Trained, right: Trained | None, runs: Path) -> None:
    """Train models of several depths, and keep their losses for the table."""
    _depths[hunt.name] = {
        n: Trained(hunt, runs, f"buggy-{n}", **_shallow(hunt, n)).loss for n in DEPTHS
    }


def show_depths_of_right(hunt: Hunt, runs: Path) -> None:
    """Write the table of depths."""
    lines = ["validation loss after half as many steps, by the number of layers", ""]
    lines.append(f"{'layers':>6}  {'others':>7}  {'this model':>10}")
    for n, loss in _depths[hunt.name].items():
        other = Trained(hunt, runs, f"right-{n}", **_shallow(hunt, n)).loss
        lines.append(f"{n:>6}  {other:>7.3f}  {loss:>10.3f}")
    files.write_text(hunt.folder / "depths.txt", "\n".join(lines) + "\n")


def _shallow(hunt: Hunt, n_layers: int) -> dict[str, Any]:
    steps = {**SETTINGS, **hunt.settings}["training.max_steps"] // 2
    return {"model.n_layers": n_layers, "training.max_steps": steps, "training.eval_every": 0}


_depths: dict[str, dict[int, float]] = {}


def main() -> None:
    """Make the evidence of the hunts that are named, or of all."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or list(load_hunts()):
        print(name, flush=True)
        make(find_hunt(name))


if __name__ == "__main__":
    main()
