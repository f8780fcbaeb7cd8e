"""`tiny export`: a run's model in another program's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_transformer.cli.options import FlatRun, parse
from tiny_transformer.interop.base import ExportError
from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.formats import FORMATS, find_format
from tiny_transformer.training.checkpoint import open_checkpoint


@dataclass(frozen=True)
class Export:
    """Write a run's model in another format: as a folder, and only if it computes the same."""

    run: FlatRun
    format: str
    """safetensors, huggingface, torch-export, torchscript, onnx or gguf."""
    out: str | None = None
    """The folder to make; none makes exports/RUN-FORMAT in the current one."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Export, arguments, "export")
    chosen = find_format(options.format)
    run, checkpoint = open_checkpoint(options.run.run, options.run.runs_dir)
    if options.out == "":
        raise ExportError("--out is empty; name the folder to make.")
    out = Path(options.out or f"exports/{run.run_id}-{chosen.name}")
    model, tokenizer = checkpoint.build_model(), checkpoint.tokenizer
    parity = export_model(model, tokenizer, chosen.name, out, name=run.run_id)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    print(
        f"Read back and compared: {parity.logits:,} logits, the largest difference "
        f"{parity.largest_difference:.1e} (allowed {parity.allowed:.1e})."
    )
    for note in FORMATS[chosen.name].notes:
        print(f"Note: {note}")
    return 0
