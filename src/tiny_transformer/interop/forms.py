"""Architectures that other programs know by name, and the settings that each takes.

A form carries a model only as what it is. A constant table of positions could be passed off
as a learned one, and a missing bias as a bias of zeros; but who then trained the copy would
train another model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tiny_transformer.config import ModelConfig


@dataclass(frozen=True)
class Form:
    """An architecture with a name of its own.

    Attributes:
        name: as its authors call it.
        takes: for each setting of `ModelConfig` that matters, the values that it can have.
    """

    name: str
    takes: Mapping[str, tuple[object, ...]]

    def faults(self, config: ModelConfig) -> dict[str, str]:
        """Return a few words on each setting of `config` that the form cannot have."""
        faults = {}
        for setting, values in self.takes.items():
            value = _value(config, setting)
            if value not in values:
                wanted = " or ".join("n_heads" if v is None else repr(v) for v in values)
                faults[setting] = f"model.{setting} is {value!r}, where it takes {wanted}"
        return faults


def _value(config: ModelConfig, setting: str) -> object:
    """Return a setting; None for as many key-value heads as heads, however that was said."""
    if setting == "n_kv_heads" and config.kv_heads == config.n_heads:
        return None
    return getattr(config, setting)


_PLAIN = {"token_window": (1,), "scale_embeddings": (False,)}

GPT2 = Form(
    "GPT-2",
    {
        "norm": ("layer_norm",),
        "position": ("learned",),
        "activation": ("gelu", "gelu_tanh", "relu", "relu2"),
        "bias": (True,),
        "n_kv_heads": (None,),
        "qk_norm": (False,),
        **_PLAIN,
    },
)
LLAMA = Form(
    "Llama",
    {
        "norm": ("rms_norm",),
        "position": ("rotary",),
        "activation": ("swiglu",),
        "qk_norm": (False,),
        **_PLAIN,
    },
)
QWEN3 = Form("Qwen3", {**LLAMA.takes, "bias": (False,), "qk_norm": (True,)})


def nearest_form(config: ModelConfig, forms: Sequence[Form]) -> tuple[Form, dict[str, str]]:
    """Return the form with the fewest faults, the first of equals, and its faults."""
    return min(((form, form.faults(config)) for form in forms), key=lambda pair: len(pair[1]))
