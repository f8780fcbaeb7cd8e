"""`tiny eval`: how well a run predicts a text."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress, TaskID

from tiny_transformer.cli.options import Device, FlatRun, parse
from tiny_transformer.cli.own_parts import build_with_parts, refuse_both
from tiny_transformer.cli.quantizing import build_quantized, check_quantize
from tiny_transformer.evaluation.evaluator import compute_val_loss
from tiny_transformer.evaluation.quantization import QuantizationCost
from tiny_transformer.runtime.device import resolve_device, resolve_precision
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.training.checkpoint import open_checkpoint
from tiny_transformer.training.run_data import load_validation


@dataclass(frozen=True)
class Eval:
    """Loss, perplexity, bits per character and per byte on the validation part of a corpus."""

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
    parts: str | None = None
    """Parts of the model's own, from a folder or Python file, which is run (RUN/parts)."""
    quantize: str | None = None
    """int8 evaluates the model with weights of 8 bits as well, and says what that costs."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Eval, arguments, "eval")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size is {options.batch_size}; it must be at least 1.")
    check_quantize(options.quantize)
    refuse_both(options.parts, options.quantize)
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    run, checkpoint = open_checkpoint(options.run.run, options.run.runs_dir)
    data = checkpoint.config.data
    if options.corpus is not None:
        data = dataclasses.replace(data, corpus=options.corpus)
    if options.errors is not None:
        data = dataclasses.replace(data, errors=options.errors)
    models = [build_with_parts(run, checkpoint, options.parts, device)]
    if options.quantize is not None:
        models.append(build_quantized(checkpoint, device, options.quantize, told=False))
    context = checkpoint.config.model.context_length
    tokens = load_validation(data, checkpoint.tokenizer, context)
    evaluations = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for model in models:
            task = progress.add_task("evaluating", total=len(tokens) - 1)
            found = compute_val_loss(
                model,
                tokens,
                context_length=context,
                batch_size=options.batch_size,
                precision=precision,
                tokenizer=checkpoint.tokenizer,
                on_batch=functools.partial(_show, progress, task),
            )
            evaluations.append(found)
    metrics = {"step": checkpoint.step, "corpus": data.corpus, **evaluations[-1].metrics()}
    if options.quantize is not None:
        cost = QuantizationCost.of(models[0], models[1], *evaluations)
        metrics |= {"quantize": options.quantize, **cost.metrics()}
    if options.json:
        print(json.dumps(metrics))
    else:
        width = max(16, *(len(name) + 2 for name in metrics))
        for name, value in metrics.items():
            print(f"{name:<{width}}{_shown(name, value)}")
    return 0


def _show(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _shown(name: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:+.6f}" if name.endswith("increase") else f"{value:.4f}"
