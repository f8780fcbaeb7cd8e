"""Measure how far each export is from the model, and write the tables of docs/export.md.

    python tools/export_table.py

Every architecture choice is exported to every format, with random weights that are nowhere
zero or one, in a context of 16 tokens. A number is the largest difference of a logit that the
parity gate found; `no` is followed by the settings that keep the model out. A few architectures
are exported as int8 too, and compared with the quantised model. It takes some minutes.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop import gguf_file, huggingface
from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.formats import FORMATS, faults, quantized_for
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.text.tokenizer import CharTokenizer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "export.md"
SIZES: dict[str, Any] = {
    "n_layers": 2, "d_model": 32, "n_heads": 4, "d_ff": 48, "context_length": 16,
}  # fmt: skip
GPT2: dict[str, Any] = {"activation": "gelu_tanh"}
LLAMA: dict[str, Any] = {
    "norm": "rms_norm", "position": "rotary", "activation": "swiglu", "bias": False,
    "n_kv_heads": 2,
}  # fmt: skip

# Two published architectures, and what else can be chosen.
CHANGES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "GPT-2": (
        GPT2,
        [
            *({"activation": name} for name in ("gelu", "relu", "relu2", "swiglu")),
            *({"position": name} for name in ("sinusoidal", "rotary", "none")),
            {"norm": "rms_norm"},
            {"bias": False},
            {"tie_weights": False},
            {"n_kv_heads": 2},
            {"qk_norm": True},
            {"scale_embeddings": True},
            {"token_window": 4},
        ],
    ),
    "Llama": (LLAMA, [{"tie_weights": False}, {"bias": True}, {"qk_norm": True}]),
}


# Those that are exported as int8 too, with an MLP of whole blocks.
QUANTIZED = (
    "GPT-2",
    "GPT-2, `tie_weights: false`",
    "GPT-2, `token_window: 4`",
    "Llama",
    "Llama, `qk_norm: true`",
)
_D_FF = 64


def quantized_architectures() -> dict[str, ModelConfig]:
    """Return the architectures that are exported as int8 too, by what their rows are called."""
    every = architectures()
    return {row: dataclasses.replace(every[row], d_ff=_D_FF) for row in QUANTIZED}


def architectures() -> dict[str, ModelConfig]:
    """Return every row's architecture by what the row is called."""
    rows = {}
    for name, (base, changes) in CHANGES.items():
        rows[name] = ModelConfig(**SIZES, **base)
        for change in changes:
            ((setting, value),) = change.items()
            rows[f"{name}, `{setting}: {str(value).lower()}`"] = ModelConfig(
                **{**SIZES, **base, **change}
            )
    return rows


def refusal(config: ModelConfig, format_name: str) -> str:
    """Return the cell of a model that a format cannot carry; empty where it can."""
    reasons = faults(config, FORMATS[format_name])
    return f"no: {', '.join(reasons)}" if reasons else ""


def measure(config: ModelConfig, format_name: str, quantize: str | None = None) -> str:
    """Export a model, and return its cell."""
    chosen = FORMATS[format_name]
    refused = refusal(config, format_name)
    if refused:
        return refused
    if quantize is not None and chosen.quantize is None:
        return f"no: {quantize}"
    model = Transformer(config, seed=1).eval()
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.2)
    if quantize is not None:
        model = quantized_for(model, chosen, quantize)
    with tempfile.TemporaryDirectory() as folder:
        parity = export_model(model, CharTokenizer(), format_name, Path(folder) / "out")
    return f"{parity.largest_difference:.0e}" if parity.largest_difference else "0"


def _rows(cells: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


def forms_table() -> str:
    """Return what each form takes, for the formats that know architectures by name."""
    cells = [["format", "form", *(f"`{name}`" for name in huggingface.GPT2.takes)]]
    for name, module in (("huggingface", huggingface), ("gguf", gguf_file)):
        for form in module.FORMS:
            row = [_values(form.takes, setting) for setting in huggingface.GPT2.takes]
            cells.append([name, form.name, *row])
    return _rows(cells)


def _values(takes: Mapping[str, tuple[object, ...]], setting: str) -> str:
    if setting not in takes:
        return "any"
    words = ("n_heads" if value is None else str(value).lower() for value in takes[setting])
    return " ".join(words)


def parity_table(rows: Iterable[str], measured: Mapping[tuple[str, str], str]) -> str:
    """Return the table of cells by (row, format)."""
    cells = [["architecture", *FORMATS]]
    for row in rows:
        cells.append([row, *(measured[row, name] for name in FORMATS)])
    return _rows(cells)


def replace_section(page: str, name: str, content: str) -> str:
    """Return the page with what stands between a section's two marks replaced."""
    begin, end = f"<!-- {name}: python tools/export_table.py -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    assert pattern.search(page), name
    return pattern.sub(lambda _: f"{begin}\n\n{content}\n\n{end}", page)


def main() -> None:
    """Measure everything and write the page."""
    sections = {"forms": forms_table()}
    for section, quantize, rows in (
        ("parity", None, architectures()),
        ("int8", "int8", quantized_architectures()),
    ):
        measured = {}
        for row, config in rows.items():
            for name in FORMATS:
                measured[row, name] = measure(config, name, quantize)
                print(f"{section:<8}{row:<32}{name:<14}{measured[row, name]}", flush=True)
        sections[section] = parity_table(rows, measured)
    page = PAGE.read_text(encoding="utf-8")
    for section, table in sections.items():
        page = replace_section(page, section, table)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
