"""GPT-2, Llama, Mistral and Qwen3 as transformers describes them, in our settings.

Notable: a field that a `config.json` leaves out has the value that transformers gives it,
which depends on the model type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tiny_transformer.interop.foreign_fields import Fields
from tiny_transformer.interop.forms import GPT2, LLAMA, QWEN3, Form
from tiny_transformer.interop.huggingface import ACTIVATIONS

_THEIR_ACTIVATIONS = {
    **{theirs: ours for ours, theirs in ACTIVATIONS.items()},
    "gelu_pytorch_tanh": "gelu_tanh",
}
_ROTARY_FIELDS = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
_LLAMA_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "max_position_embeddings": "context_length",
}
_GPT2_SIZES = {
    "vocab_size": "vocab_size",
    "n_embd": "d_model",
    "n_layer": "n_layers",
    "n_head": "n_heads",
    "n_positions": "context_length",
}


@dataclass(frozen=True)
class Family:
    """What a model type's `config.json` may hold.

    Attributes:
        form: the architecture that it is one of.
        context: the field that has the number of positions.
        defaults: carried fields, and the value that transformers gives those left out.
        settings: turns them into settings of `ModelConfig`.
        fixed: other fields, with the values that they may have.
        harmless: other fields that do not change the logits.
        aliases: other names of carried fields.
    """

    form: Form
    context: str
    defaults: Mapping[str, Any]
    settings: Callable[[Fields], dict[str, Any]]
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    harmless: Iterable[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


def _gpt2_settings(fields: Fields) -> dict[str, Any]:
    activation = fields.get("activation_function")
    if not isinstance(activation, str) or activation not in _THEIR_ACTIVATIONS:
        fields.refuse("activation_function", f"carried are {', '.join(_THEIR_ACTIVATIONS)}")
    inner = None if fields.get("n_inner") is None else fields.integer("n_inner")
    return {
        **fields.sizes(_GPT2_SIZES),
        "d_ff": inner,
        "activation": _THEIR_ACTIVATIONS[activation],
        "norm_eps": fields.number("layer_norm_epsilon"),
        "dropout": max(map(fields.number, DROPOUTS)),
        "norm": "layer_norm",
        "position": "learned",
        "bias": True,
    }


def _llama_settings(fields: Fields) -> dict[str, Any]:
    sizes = fields.sizes(_LLAMA_SIZES)
    if fields.get("hidden_act") not in ("silu", "swish"):
        fields.refuse("hidden_act", "carried is 'silu'")
    bias = fields.flag("attention_bias")
    if bias != fields.flag("mlp_bias"):
        fields.refuse(
            "attention_bias" if bias else "mlp_bias",
            "here attention and MLP have biases both, or neither",
        )
    width = fields.get("head_dim")
    if width is not None and fields.integer("head_dim") * sizes["n_heads"] != sizes["d_model"]:
        fields.refuse(
            "head_dim",
            f"here the {sizes['n_heads']} heads share the width, hidden_size, which is "
            f"{sizes['d_model']}",
        )
    kv_heads = fields.get("num_key_value_heads")
    _check_window(fields, sizes["context_length"])
    return {
        **sizes,
        "n_kv_heads": None if kv_heads is None else fields.integer("num_key_value_heads"),
        "norm_eps": fields.number("rms_norm_eps"),
        "rotary_base": _rotary_base(fields),
        "dropout": fields.number("attention_dropout"),
        "activation": "swiglu",
        "norm": "rms_norm",
        "position": "rotary",
        "bias": bias,
    }


def _qwen3_settings(fields: Fields) -> dict[str, Any]:
    kinds = fields.get("layer_types")
    every = isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)
    if kinds is not None and not every:
        fields.refuse("layer_types", "here every layer attends to the whole context")
    return {**_llama_settings(fields), "qk_norm": True}


def _check_window(fields: Fields, context: int) -> None:
    """Refuse a window that is shorter than the context: tokens beyond it would not be seen."""
    window = fields.get("sliding_window")
    if window is None or not fields.get("use_sliding_window"):
        return
    if fields.integer("sliding_window") < context:
        fields.refuse(
            "sliding_window",
            f"here every token sees all before it, and the context is {context}. With a context "
            f"no longer than the window it is the same: --context-length {window}",
        )


def _rotary_base(fields: Fields) -> float:
    """Return the base of the rotary angles, wherever transformers wrote it; refuse any scaling."""
    bases = {} if fields.get("rope_theta") is None else {"rope_theta": fields.number("rope_theta")}
    if fields.get("partial_rotary_factor") not in (None, 1):
        fields.refuse("partial_rotary_factor", "here all of a head is turned")
    for name in ("rope_parameters", "rope_scaling"):
        inner = fields.get(name)
        if inner is None:
            continue
        if not isinstance(inner, dict):
            fields.refuse(name, "it must be null, or hold rope_type and rope_theta")
        plain = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}
        rest = [k for k, v in inner.items() if v is not None and k != "rope_theta"]
        if any(inner[key] != plain.get(key) for key in rest):
            fields.refuse(name, "here rotary angles are not scaled, only rope_theta is carried")
        if inner.get("rope_theta") is not None:
            bases[name] = Fields(fields.path, inner, {}, None).number("rope_theta")
    if len(set(bases.values())) > 1:
        fields.refuse("rope_theta", f"two are given: {bases}")
    return next(iter(bases.values()), 10_000.0)


_LLAMA_CONTEXT = "max_position_embeddings"
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
_LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    **dict.fromkeys(_ROTARY_FIELDS),
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "head_dim": None,
}
# The last computes the same in float32, in another order.
_GPT2_HARMLESS = (
    "n_ctx", "n_special", "predict_special_tokens", "summary_type", "summary_use_proj",
    "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
    "reorder_and_upcast_attn",
)  # fmt: skip
FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        GPT2,
        "n_positions",
        {
            "vocab_size": 50_257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            **dict.fromkeys(DROPOUTS, 0.1),
        },
        _gpt2_settings,
        fixed={"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)},
        harmless=_GPT2_HARMLESS,
        aliases={
            "hidden_size": "n_embd",
            "max_position_embeddings": "n_positions",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
        },
    ),
    "llama": Family(
        LLAMA,
        _LLAMA_CONTEXT,
        _LLAMA_DEFAULTS,
        _llama_settings,
        fixed={"rope_interleaved": (False,)},
        harmless=("pretraining_tp", "max_sequence_length"),  # the first is how it was computed
    ),
    "mistral": Family(
        LLAMA,
        _LLAMA_CONTEXT,
        {
            **_LLAMA_DEFAULTS,
            "intermediate_size": 14_336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
            "use_sliding_window": True,
        },
        _llama_settings,
        fixed={"attention_bias": (False,), "mlp_bias": (False,), "use_sliding_window": (True,)},
    ),
    "qwen3": Family(
        QWEN3,
        _LLAMA_CONTEXT,
        {
            **_LLAMA_DEFAULTS,
            "vocab_size": 151_936,
            "intermediate_size": 22_016,
            "num_key_value_heads": 32,
            "max_position_embeddings": 32_768,
            "head_dim": 128,
            "sliding_window": 4096,
            "use_sliding_window": False,
            "layer_types": None,
        },
        _qwen3_settings,
        fixed={"attention_bias": (False,), "mlp_bias": (False,)},
        harmless=("max_window_layers",),
    ),
}
