"""The formats by name."""

from __future__ import annotations

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop import (
    gguf_file,
    huggingface,
    onnx_graph,
    safetensors_folder,
    torch_export,
    torchscript,
)
from tiny_transformer.interop.base import ExportError, Format
from tiny_transformer.interop.forms import nearest_form
from tiny_transformer.model.quantized import find_quantization
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import suggest

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        safetensors_folder,
        huggingface,
        torch_export,
        torchscript,
        onnx_graph,
        gguf_file,
    )
}


def find_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        ExportError: there is none of that name; the message has all of them.
    """
    if name not in FORMATS:
        near = suggest(name, FORMATS)
        known = "" if near.startswith("Valid") else f" The formats are: {', '.join(FORMATS)}."
        raise ExportError(f"{name!r} is not an export format. {near}{known}")
    return FORMATS[name]


def quantized_for(model: Transformer, chosen: Format, name: str) -> Transformer:
    """Return the copy of a model with int8 weights that a format stores as they are.

    Raises:
        ExportError: the format carries float weights alone, or not this model, or a package is
            missing.
        ConfigError: no quantisation has this name, or the model cannot be quantised.
    """
    find_quantization(name)
    check_quantized(chosen)
    check_carried(model.config, chosen)
    chosen.require_packages()
    assert chosen.quantize is not None
    return chosen.quantize(model)


def check_quantized(chosen: Format) -> None:
    """Refuse a format that carries no int8 weights.

    Raises:
        ExportError: names the formats that do.
    """
    if chosen.quantize is None:
        carriers = ", ".join(name for name, other in FORMATS.items() if other.quantize)
        raise ExportError(
            f"The format {chosen.name} carries float32 weights alone. Formats that carry int8: "
            f"{carriers}."
        )


def faults(config: ModelConfig, form: Format) -> dict[str, str]:
    """Return a few words on each setting that keeps a model out of a format."""
    return nearest_form(config, form.forms)[1] if form.forms else {}


def check_carried(config: ModelConfig, chosen: Format) -> None:
    """Refuse an architecture that the format cannot express.

    Raises:
        ExportError: names each setting in the way, its value, and the formats that carry it.
    """
    if not chosen.forms:
        return
    nearest, reasons = nearest_form(config, chosen.forms)
    if not reasons:
        return
    carriers = [name for name, other in FORMATS.items() if not faults(config, other)]
    raise ExportError(
        f"The format {chosen.name} cannot carry this model. Its nearest form is {nearest.name}: "
        f"{'; '.join(reasons.values())}. Formats that carry it: {', '.join(carriers)}."
    )
