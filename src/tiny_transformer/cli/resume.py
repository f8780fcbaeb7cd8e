"""`tiny resume`: continue a run where a checkpoint left it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tiny_transformer.cli.options import FlatRun, parse
from tiny_transformer.cli.train import train_and_show
from tiny_transformer.training.trainer import Trainer


@dataclass(frozen=True)
class TrainingChanges:
    """What may change when a run is continued."""

    max_steps: int | None = None
    """A new horizon, to train a run for longer; none keeps the run's."""
    stop_at: int | None = None
    """End early at this step."""


@dataclass(frozen=True)
class Resume:
    """Continue a run where its latest checkpoint, or the one named, left it."""

    run: FlatRun
    allow_numerics_change: bool = False
    """Go on although threads, torch, precision or device are not what they were."""
    training: TrainingChanges = field(default_factory=TrainingChanges)


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Resume, arguments, "resume")
    trainer = Trainer.resume(
        options.run.run,
        runs_dir=options.run.runs_dir,
        max_steps=options.training.max_steps,
        stop_at=options.training.stop_at,
        allow_numerics_change=options.allow_numerics_change,
    )
    trainer.reporter.message(f"Continuing after step {trainer.step}.")
    train_and_show(trainer)
    return 0
