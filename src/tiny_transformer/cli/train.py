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
from tiny_transformer.runtime.errors import PromptError
from tiny_transformer.tracking.run_folder import refuse_taken_name
from tiny_transformer.training.trainer import Trainer, TrainingResult


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
    refuse_taken_name(options.settings.runs_dir, options.settings.run_name)
    parts = load_parts(options.parts, options.settings.model)
    if parts is not None:
        tell_compared(parts, options.settings.model, str(options.parts))
    train_and_show(build_trainer(options, parts))
    return 0


def build_trainer(options: Train, parts: Parts | None = None) -> Trainer:
    """Return the trainer that the flags ask for.

    Raises:
        TinyError: the settings cannot be used; nothing has been written then.
    """
    settings = options.settings
    hooks = switch_hooks(settings.hooks, options.hook, options.no_hook)
    config = dataclasses.replace(settings, hooks=hooks)
    try:
        return Trainer(config, parts=parts, init_from=options.init_from)
    except PromptError as error:  # its remedy names flags of `tiny generate`
        raise PromptError(
            f"sampling.prompt cannot be used. {error.problem}", "Give another --sampling.prompt."
        ) from None


def train_and_show(trainer: Trainer) -> None:
    """Say what is trained, train it, and show what came of it."""
    show_start(trainer)
    result = trainer.train()
    config = trainer.config
    show_result(result, config.sampling.prompt, max_steps=config.training.max_steps)


def show_start(trainer: Trainer) -> None:
    """Say what is about to be trained, on what."""
    model, data = trainer.config.model, trainer.data
    steps = data.loader.steps_per_epoch
    trainer.reporter.message(
        f"{trainer.model.n_parameters():,} parameters: {model.n_layers} layers, "
        f"{model.d_model} wide, {model.n_heads} heads, context {model.context_length}\n"
        f"corpus {trainer.config.data.corpus}: {steps} batches an epoch, "
        f"{len(data.validation):,} {data.tokenizer.unit}s for validation\n"
        f"device {trainer.device}, precision {trainer.precision}"
    )


def show_result(
    result: TrainingResult,
    prompt: str,
    console: Console | None = None,
    *,
    max_steps: int | None = None,
) -> None:
    """Show the text before and after, the validation loss, and what to type next.

    Args:
        result: what `Trainer.train` returned.
        prompt: of the samples.
        console: where to write; standard output by default.
        max_steps: the run's horizon; a run that stopped before it is offered the rest.
    """
    console = console or Console()
    if result.first_sample is not None:
        console.print(show_panel("before training", prompt, result.first_sample))
    console.print(show_panel(f"after {result.step} steps", prompt, result.last_sample))
    path = shlex.quote(str(result.folder.path))
    longer = f" --training.max-steps {2 * result.step}"
    if max_steps is not None and result.step < max_steps:
        longer = ""
    console.print(
        Text(
            f"Validation loss {result.evaluation.loss:.4f} "
            f"(perplexity {result.evaluation.perplexity:.2f}) after {result.step} steps and "
            f"{result.train_seconds:.0f} s of training.\n\n"
            f"Next:\n"
            f"  tiny generate {path} --prompt 'ROMEO:'\n"
            f"  tiny interactive {path}\n"
            f"  tiny resume {path}{longer}"
        ),
        soft_wrap=True,
    )


def show_panel(title: str, prompt: str, text: str) -> Panel:
    """Return a text that a model wrote, in a frame."""
    return Panel(Text((prompt + text).strip("\n")), title=title, title_align="left")
