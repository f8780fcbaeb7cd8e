"""`tiny export`: a run's model in another program's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_transformer.cli.options import FlatRun, parse
from tiny_transformer.cli.own_parts import tell_own_parts
from tiny_transformer.cli.quantizing import check_quantize
from tiny_transformer.evaluation.evaluator import compute_val_loss
from tiny_transformer.evaluation.quantization import QuantizationCost
from tiny_transformer.interop.base import ExportError
from tiny_transformer.interop.export import check_free, export_model
from tiny_transformer.interop.formats import FORMATS, find_format, quantized_for
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import TinyError
from tiny_transformer.training.checkpoint import Checkpoint, open_checkpoint
from tiny_transformer.training.run_data import load_validation

_MEASURED = 1 << 16  # tokens


@dataclass(frozen=True)
class Export:
    """Write a run's model in another format: as a folder, and only if it computes the same."""

    run: FlatRun
    format: str
    """safetensors, huggingface, torch-export, torchscript, onnx or gguf."""
    out: str | None = None
    """The folder to make; none makes exports/RUN-FORMAT in the current one."""
    quantize: str | None = None
    """int8 stores weights of 8 bits, where the format can, and says what that costs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Export, arguments, "export")
    chosen = find_format(options.format)
    check_quantize(options.quantize)
    run, checkpoint = open_checkpoint(options.run.run, options.run.runs_dir)
    if options.out == "":
        raise ExportError("--out is empty; name the folder to make.")
    suffix = "" if options.quantize is None else f"-{options.quantize}"
    out = Path(options.out or f"exports/{run.run_id}-{chosen.name}{suffix}")
    check_free(out)
    tell_own_parts(run, checkpoint)
    model, told, about = checkpoint.build_model(), [], {}
    if options.quantize is not None:
        quantized = quantized_for(model, chosen, options.quantize)
        cost, told = _cost(model, quantized, checkpoint)
        model, about = quantized, {"quantization": {"name": options.quantize, **cost.metrics()}}
    parity = export_model(
        model, checkpoint.tokenizer, chosen.name, out, name=run.run_id, about=about
    )
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    print(
        f"Read back and compared: {parity.logits:,} logits, the largest difference "
        f"{parity.largest_difference:.1e} (allowed {parity.allowed:.1e})."
    )
    for sentence in told:
        print(sentence)
    for note in FORMATS[chosen.name].notes:
        print(f"Note: {note}")
    return 0


def _cost(
    model: Transformer, quantized: Transformer, checkpoint: Checkpoint
) -> tuple[QuantizationCost, list[str]]:
    """Return what quantising costs on the run's own corpus, and the sentences that say so."""
    context, tokenizer = checkpoint.config.model.context_length, checkpoint.tokenizer
    data = checkpoint.config.data
    try:
        tokens = load_validation(data, tokenizer, context)[: _MEASURED + 1]
    except TinyError as error:
        cost = QuantizationCost.of(model, quantized)
        return cost, [*cost.sentences(), f"What the loss gains was not measured: {error}"]
    evaluations = [
        compute_val_loss(one, tokens, context_length=context, tokenizer=tokenizer)
        for one in (model, quantized)
    ]
    cost = QuantizationCost.of(model, quantized, *evaluations)
    where = f"They are the first of the validation part of {data.corpus}."
    return cost, [*cost.sentences(), where]
