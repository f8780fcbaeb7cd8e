"""What a bug costs: the reference and somebody's parts trained side by side.

Both begin with the same weights and see the same batches in the same order, so that what
differs between their curves is the parts' doing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tiny_transformer.config import Config
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import DivergedError, RunError
from tiny_transformer.runtime.random_state import forked_rng, generator
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_folder import new_run_id, refuse_taken_name
from tiny_transformer.tracking.run_log import metric_by_step, read_log
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.viz.plots import plot_losses, smoothed

FIGURE = "cost.png"
_ROWS = (0.02, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the steps
_SAME = 0.01  # nats between two curves that nobody can tell apart
_CHANGED = 1e-4  # of a logit, beyond rounding


@dataclass(frozen=True)
class Curve:
    """One of the two runs.

    Attributes:
        folder: the run's.
        train: training loss by step, in nats.
        validation: validation loss by step.
        sample: the text at the end, `""` where it did not get there.
        failed: what ended the run, if it did not get to its end.
    """

    folder: Path
    train: dict[int, float]
    validation: dict[int, float]
    sample: str
    failed: str = ""


@dataclass(frozen=True)
class Cost:
    """The two runs.

    Attributes:
        reference: of the reference's parts.
        theirs: with the parts that are somebody's.
        reads_ahead: whether their predictions depend on later tokens.
        figure: both curves.
    """

    reference: Curve
    theirs: Curve
    reads_ahead: bool
    figure: Path

    def table(self) -> list[tuple[str, str, str, str]]:
        """Return rows of text: when, the reference's loss, theirs, the difference."""
        last = max(self.reference.train)
        steps = sorted({max(1, round(last * share)) for share in _ROWS})
        rows = [
            _row(f"step {step}", _near(self.reference.train, step), _near(self.theirs.train, step))
            for step in steps
        ]
        ends = [c.validation[max(c.validation)] if c.validation else None
                for c in (self.reference, self.theirs)]  # fmt: skip
        return [*rows, _row("validation", *ends)]

    def sentence(self) -> str:
        """Return what the curves say of the bug."""
        if self.theirs.failed:
            return f"Your model did not get to the end. {self.theirs.failed}"
        ours, theirs = (c.validation[max(c.validation)] for c in (self.reference, self.theirs))
        gap = theirs - ours
        if self.reads_ahead:
            better = f"{-gap:.3f} nats better than the reference's"
            told = f"Its loss is {better}, and a loss that is too good is a bug:" if gap < 0 else (
                "The longer it trains, the better its loss will look, and such a loss is a bug:"
            )  # fmt: skip
            return (
                "Your model reads ahead: what it predicts at a position changes with the tokens "
                f"after it, so the answer is in its input. {told} when the model writes, nothing "
                "comes after, and what it learned is of no use."
            )
        if abs(gap) < _SAME:
            return (
                "In so few steps the losses are the same. The bug is there all the same: see "
                "where with tiny course compare."
            )
        if gap < 0:
            return (
                f"Your model ends {-gap:.3f} nats better, without reading ahead. That may be luck "
                "in so few steps, or a part that is different rather than wrong."
            )
        start = self.theirs.train[min(self.theirs.train)]
        if start - theirs > 0.25 * (self.reference.train[min(self.reference.train)] - ours):
            return (
                f"It learns all the same, and ends {gap:.3f} nats worse: a loss that falls does "
                "not show that a model is right."
            )
        return f"It hardly learns, and ends {gap:.3f} nats worse than the reference."


def train_both(config: Config, parts: Parts, reporter: ConsoleReporter | None = None) -> Cost:
    """Train the reference and a model of `parts`, one after the other, on the same batches.

    Args:
        config: every setting; the reference's run has `-reference` behind the run's name.
        parts: classes, some of them somebody's.
        reporter: shows progress; told which run it is.

    Raises:
        TinyError: the settings cannot be used, or a run of either name exists.
    """
    reporter = reporter or ConsoleReporter()
    name = config.run_name or new_run_id()
    other = f"{name}-reference"
    for taken in (name, other):
        refuse_taken_name(config.runs_dir, taken)
    training = dataclasses.replace(config.training, shards=1)  # as parts of one's own have it
    config = dataclasses.replace(config, training=training)
    curves = []
    mine: Transformer | None = None
    for run_name, chosen, who in ((other, None, "the reference"), (name, parts, "yours")):
        reporter.message(f"Training {who}.")
        trainer = Trainer(
            dataclasses.replace(config, run_name=run_name), parts=chosen, reporter=reporter
        )
        mine = trainer.model
        curves.append(_train(trainer, Path(config.runs_dir) / run_name))
    assert mine is not None
    figure = plot_losses(
        {
            who: {"train": curve.train, "val": curve.validation}
            for who, curve in zip(("reference", "yours"), curves, strict=True)
        },
        curves[1].folder / FIGURE,
    )
    return Cost(curves[0], curves[1], reads_ahead(mine), figure)


def reads_ahead(model: Transformer) -> bool:
    """Return whether what a model predicts at a position depends on tokens after it."""
    length = min(model.config.context_length, 16)
    vocabulary = model.config.vocab_size
    draws = generator("reads ahead")
    ids = torch.randint(0, vocabulary, (2, length), generator=draws)
    changed = ids.clone()
    changed[:, length // 2 :] = (changed[:, length // 2 :] + 1) % vocabulary
    device = model.lm_head.weight.device
    was_training = model.training
    try:
        model.eval()
        outputs = []
        for x in (ids, changed):
            with torch.no_grad(), forked_rng("reads ahead"):  # the same draws, if there are any
                outputs.append(model(x.to(device))[:, : length // 2])
        before, after = outputs
    finally:
        model.train(was_training)
    scale = float(before.abs().max())
    return bool((before - after).abs().max() > _CHANGED * max(1.0, scale))


def _train(trainer: Trainer, folder: Path) -> Curve:
    failed = ""
    try:
        sample = trainer.train().last_sample
    except DivergedError as error:
        sample, failed = "", str(error)
    lines = read_log(folder / "log.jsonl")
    train = metric_by_step(lines, "train", "loss")
    if not train:
        raise RunError(f"The run {folder} made no step. {failed}")
    return Curve(folder, train, metric_by_step(lines, "eval", "val_loss"), sample, failed)


def _near(losses: dict[int, float], step: int) -> float | None:
    """Return the mean loss about a step; None where the run did not get there."""
    steps, values = list(losses), list(losses.values())
    if step > steps[-1]:
        return None
    place = min(range(len(steps)), key=lambda i: abs(steps[i] - step))
    return float(smoothed(values, max(1, len(values) // 20))[place])


def _row(what: str, ours: float | None, theirs: float | None) -> tuple[str, str, str, str]:
    shown: Sequence[str] = ["-" if v is None else f"{v:.3f}" for v in (ours, theirs)]
    gap = "-" if ours is None or theirs is None else f"{theirs - ours:+.3f}"
    return what, shown[0], shown[1], gap
