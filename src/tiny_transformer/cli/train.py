"""`tiny train`: a new run."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from tiny_transformer.cli.options import parse
from tiny_transformer.cli.own_parts import load_parts, tell_compared
from tiny_transformer.config import Config
from tiny_transformer.config.loading import load_config
from tiny_transformer.hooks.registry import switch_hooks
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.distributed import Ranks, joined
from tiny_transformer.runtime.errors import PromptError
from tiny_transformer.tracking.run_folder import RunFolder, refuse_taken_name
from tiny_transformer.training.joint_start import Begun, default_reporter, find_begun
from tiny_transformer.training.result import TrainingResult
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.written_parts import FOLDER, describe_parts


@dataclass(frozen=True)
class Train:
    """Train a model. Settings come from --config, then from the flags below."""

    config: str | None = None
    """A preset (tiny, base, shakespeare), or a YAML or JSON file; none takes the defaults."""
    init_from: str | None = None
    """Start from the weights of another run of the same architecture."""
    parts: str | None = None
    """Take parts of the model from this folder or Python file, which is run."""
    hook: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Switch a hook on, or add one: a name, or 'name setting=value ...'; may be repeated."""
    no_hook: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Switch a hook of the config off, by its name; may be repeated."""
    settings: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=Config
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    first = argparse.ArgumentParser(
        prog="tiny train", usage="tiny train [-h] [OPTIONS]", add_help=False, allow_abbrev=False
    )
    first.add_argument("--config")
    source = first.parse_known_args(arguments)[0].config
    default = Train(config=source, settings=load_config(source))
    options = parse(Train, arguments, "train", default=default)
    settings = options.settings
    with joined(settings.distributed.timeout) as ranks:
        begun = ranks.from_first(lambda: find_begun(settings))
        with ranks.together():
            if begun is None:
                refuse_taken_name(settings.runs_dir, settings.run_name)
            parts = load_parts(options.parts, settings.model)
            if parts is not None and ranks.first:
                tell_compared(parts, settings.model, str(options.parts))
        if begun is None or not begun.has_checkpoint:
            folder = None if begun is None else RunFolder(begun.path)
            train_and_show(build_trainer(options, parts, ranks, folder))
        elif begun.complete:
            default_reporter(ranks).message(f"The run {begun.path} is complete.")
        else:
            go_on(begun, parts, ranks, stop_at=settings.training.stop_at)
    return 0


def go_on(begun: Begun, parts: Parts | None, ranks: Ranks, *, stop_at: int | None) -> None:
    """Continue a run that was torn off, as torchrun starts it again, on what is there now."""
    trainer = Trainer.resume(
        begun.path, parts=parts, allow_numerics_change=True, stop_at=stop_at, ranks=ranks
    )
    trainer.reporter.message(f"Started again: continuing after step {trainer.step}.")
    train_and_show(trainer)


def build_trainer(
    options: Train,
    parts: Parts | None = None,
    ranks: Ranks | None = None,
    folder: RunFolder | None = None,
) -> Trainer:
    """Return the trainer that the flags ask for.

    Args:
        options: the flags.
        parts: classes to build the model from.
        ranks: the processes that train together.
        folder: of a run that was begun and has no checkpoint yet.

    Raises:
        TinyError: the settings cannot be used; nothing has been written then.
    """
    settings = options.settings
    hooks = switch_hooks(settings.hooks, options.hook, options.no_hook)
    config = dataclasses.replace(settings, hooks=hooks)
    try:
        return Trainer(config, parts=parts, init_from=options.init_from, ranks=ranks, folder=folder)
    except PromptError as error:  # its remedy names flags of `tiny generate`
        raise PromptError(
            f"sampling.prompt cannot be used. {error.problem}", "Give another --sampling.prompt."
        ) from None


def train_and_show(trainer: Trainer) -> None:
    """Say what is trained, train it, and show what came of it."""
    show_start(trainer)
    result = trainer.train()
    config = trainer.config
    if not trainer.ranks.first:
        return
    prompt, max_steps = config.sampling.prompt, config.training.max_steps
    own_parts = bool(describe_parts(trainer.state.parts))
    show_result(result, prompt, max_steps=max_steps, own_parts=own_parts)


def show_start(trainer: Trainer) -> None:
    """Say what is about to be trained, on what."""
    model, data, ranks = trainer.config.model, trainer.data, trainer.ranks
    strategy = trainer.config.distributed.strategy
    steps = data.loader.steps_per_epoch
    trainer.reporter.message(
        f"{trainer.model.n_parameters():,} parameters: {model.n_layers} layers, "
        f"{model.d_model} wide, {model.n_heads} heads, context {model.context_length}\n"
        f"corpus {trainer.config.data.corpus}: {steps} batches an epoch, "
        f"{len(data.validation):,} {data.tokenizer.unit}s for validation\n"
        f"device {trainer.device}, precision {trainer.precision}"
        + (f", {ranks.count} ranks ({strategy})" if ranks.count > 1 else "")
    )


def show_result(
    result: TrainingResult,
    prompt: str,
    console: Console | None = None,
    *,
    max_steps: int | None = None,
    own_parts: bool = False,
) -> None:
    """Show the text before and after, the validation loss, and what to type next.

    Args:
        result: what `Trainer.train` returned.
        prompt: of the samples.
        console: where to write; standard output by default.
        max_steps: the run's horizon; a run that stopped before it is offered the rest.
        own_parts: whether the model has a user's parts, which the commands then name.
    """
    console = console or Console()
    if result.first_sample is not None:
        console.print(show_panel("before training", prompt, result.first_sample))
    console.print(show_panel(f"after {result.step} steps", prompt, result.last_sample))
    path = shlex.quote(str(result.folder.path))
    since = f" since step {result.first_step}" if result.first_step else ""
    parts = f" --parts {shlex.quote(str(result.folder.path / FOLDER))}" if own_parts else ""
    longer = f" --training.max-steps {2 * result.step}"
    if max_steps is not None and result.step < max_steps:
        longer = ""
    console.print(
        Text(
            f"Validation loss {result.evaluation.loss:.4f} "
            f"(perplexity {result.evaluation.perplexity:.2f}) after {result.step} steps and "
            f"{result.train_seconds:.0f} s of training{since}.\n\n"
            f"Next:\n"
            f"  tiny generate {path} --prompt 'ROMEO:'{parts}\n"
            f"  tiny interactive {path}{parts}\n"
            f"  tiny resume {path}{parts}{longer}"
        ),
        soft_wrap=True,
    )


def show_panel(title: str, prompt: str, text: str) -> Panel:
    """Return a text that a model wrote, in a frame."""
    return Panel(Text((prompt + text).strip("\n")), title=title, title_align="left")
