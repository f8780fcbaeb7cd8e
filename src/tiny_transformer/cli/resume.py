"""`tiny resume`: continue a run where a checkpoint left it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tiny_transformer.cli.options import FlatRun, parse
from tiny_transformer.cli.own_parts import load_parts
from tiny_transformer.cli.train import train_and_show
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.distributed import joined
from tiny_transformer.training.checkpoint import open_checkpoint
from tiny_transformer.training.trainer import Trainer


@dataclass(frozen=True)
class TrainingChanges:
    """What may change when a run is continued."""

    max_steps: int | None = None
    """A new horizon, to train a run for longer; none keeps the run's."""
    stop_at: int | None = None
    """End early at this step."""


@dataclass(frozen=True)
class DistributedChanges:
    """How several processes go on with a run."""

    strategy: Literal["ddp", "fsdp"] | None = None
    """Another way of sharing the work; none keeps the run's."""
    timeout: int = 600
    """Seconds after which a rank that does not answer is given up by the others."""


@dataclass(frozen=True)
class Resume:
    """Continue a run where its latest checkpoint, or the one named, left it."""

    run: FlatRun
    parts: str | None = None
    """Parts of the model's own, as for tiny train; RUN/parts is the copy that a run keeps."""
    allow_parts_change: bool = False
    """Go on although the parts, or their files, are not those that the run had."""
    allow_numerics_change: bool = False
    """Go on although threads, torch, precision or device are not what they were."""
    training: TrainingChanges = field(default_factory=TrainingChanges)
    distributed: DistributedChanges = field(default_factory=DistributedChanges)


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Resume, arguments, "resume")
    with joined(options.distributed.timeout) as ranks:
        with ranks.together():
            parts = _load_parts(options)
        trainer = Trainer.resume(
            options.run.run,
            runs_dir=options.run.runs_dir,
            parts=parts,
            max_steps=options.training.max_steps,
            stop_at=options.training.stop_at,
            strategy=options.distributed.strategy,
            allow_numerics_change=options.allow_numerics_change,
            allow_parts_change=options.allow_parts_change,
            ranks=ranks,
        )
        trainer.reporter.message(f"Continuing after step {trainer.step}.")
        train_and_show(trainer)
    return 0


def _load_parts(options: Resume) -> Parts | None:
    if options.parts is None:
        return None
    checkpoint = open_checkpoint(options.run.run, options.run.runs_dir)[1]
    return load_parts(options.parts, checkpoint.config.model, checkpoint.metadata.get("parts"))
