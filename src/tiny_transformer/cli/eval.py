"""`tiny eval`: how well a run predicts a text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from tiny_transformer.cli.options import Device, FlatRun, parse
from tiny_transformer.evaluation.evaluator import compute_val_loss
from tiny_transformer.runtime.device import resolve_device, resolve_precision
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.training.checkpoint import open_checkpoint
from tiny_transformer.training.run_data import load_validation


@dataclass(frozen=True)
class Eval:
    """Loss, perplexity and bits per character on the validation part of a corpus."""

    run: FlatRun
    corpus: str | None = None
    """Another corpus (a name or a path) than the run's own."""
    errors: Annotated[
        Literal["strict", "replace"] | None, tyro.conf.arg(aliases=("--data.errors",))
    ] = None
    """Refuse bytes that are not UTF-8, or read them as unknown; none does as the run did."""
    batch_size: int = 32
    """Windows evaluated at once."""
    device: Device = "auto"
    """auto takes CUDA, then MPS, then CPU."""
    precision: Annotated[str, tyro.conf.arg(aliases=("--training.precision",))] = "auto"
    """auto, float32 or bfloat16."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Eval, arguments, "eval")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size is {options.batch_size}; it must be at least 1.")
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    checkpoint = open_checkpoint(options.run.run, options.run.runs_dir)[1]
    data = checkpoint.config.data
    if options.corpus is not None:
        data = dataclasses.replace(data, corpus=options.corpus)
    if options.errors is not None:
        data = dataclasses.replace(data, errors=options.errors)
    model = checkpoint.build_model(device=device)
    context = checkpoint.config.model.context_length
    tokens = load_validation(data, checkpoint.tokenizer, context)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=len(tokens) - 1)
        evaluation = compute_val_loss(
            model,
            tokens,
            context_length=context,
            batch_size=options.batch_size,
            precision=precision,
            on_batch=lambda done, total: progress.update(task, completed=done, total=total),
        )
    metrics = {"step": checkpoint.step, "corpus": data.corpus, **evaluation.metrics()}
    if options.json:
        print(json.dumps(metrics))
    else:
        for name, value in metrics.items():
            print(f"{name:<16}{value:.4f}" if isinstance(value, float) else f"{name:<16}{value}")
    return 0
