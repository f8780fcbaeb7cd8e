"""`tiny import`: a model of another program becomes a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from tiny_transformer.cli.options import parse
from tiny_transformer.config import Config
from tiny_transformer.interop.base import INSTALL
from tiny_transformer.interop.bring_in import Imported, import_folder
from tiny_transformer.viz.memory import estimate_memory, format_bytes

_MUCH = 4 << 30  # bytes


@dataclass(frozen=True)
class Import:
    """Bring in a GPT-2 or Llama-style model from a local Hugging Face folder, as a run."""

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """config.json, safetensors and tokenizer.json, as transformers' save_pretrained writes them."""
    run_name: str | None = None
    """Name of the run; none makes one from the time and six hex digits."""
    runs_dir: str = "runs"
    """Folder in which runs are kept."""
    context_length: int | None = None
    """A shorter context than the model's."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Import, arguments, "import")
    made = import_folder(
        options.folder,
        runs_dir=options.runs_dir,
        run_name=options.run_name,
        context_length=options.context_length,
    )
    print("\n".join(describe(made)))
    return 0


def describe(made: Imported) -> list[str]:
    """Return what was brought in, how it was checked and what to type next, line by line."""
    foreign, model = made.foreign, made.foreign.config
    lines = [
        f"{made.folder.path}: {foreign.model_type}, {model.n_layers} layers, {model.d_model} wide, "
        f"{model.n_heads} heads, context {model.context_length}, {model.vocab_size:,} tokens",
        _checked(made),
        *(f"Note: {note}" for note in foreign.notes),
        _cost(made),
    ]
    run = shlex.quote(str(made.folder.path))
    config = shlex.quote(str(made.folder.path / "config.yaml"))
    return [
        *lines,
        "",
        "Next:",
        f"  tiny generate {run} --prompt 'Once upon a time'",
        f"  tiny train --config {config} --init-from {run} --data.corpus my.txt",
    ]


def _checked(made: Imported) -> str:
    if made.parity is None:
        return (
            "Its logits were not compared with transformers', which is not installed. To compare, "
            f"install it and import again: {INSTALL}"
        )
    return (
        f"Compared with transformers: {made.parity.logits:,} logits, the largest difference "
        f"{made.parity.largest_difference:.1e} (allowed {made.parity.allowed:.1e})."
    )


def _cost(made: Imported) -> str:
    model, windows = made.foreign.config, Config().training.batch_size
    update = estimate_memory(model, batch_size=windows).total
    less = "."
    if update > _MUCH:
        less = (
            f"; --training.accumulation-steps {windows} there, or a shorter --context-length "
            "here, takes less."
        )
    return (
        f"Fine-tuning with {windows} windows of {model.context_length} tokens an update takes "
        f"about {format_bytes(update)} of memory{less}"
    )
