"""GGUF, the file of llama.cpp: a GPT-2, a Llama or a Qwen3.

Notable: llama.cpp turns a Llama's neighbouring pairs by the rotary angles, where ours are
half a head apart, so the rows of its query and key matrices change places. Its GPT-2 computes
the tanh form of GELU and no other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop.base import Format, Logits, Subject
from tiny_transformer.interop.forms import GPT2, LLAMA, QWEN3, Form, nearest_form
from tiny_transformer.interop.gguf_vocabulary import add_vocabulary
from tiny_transformer.interop.q8_0 import packed_weights, quantize_q8_0
from tiny_transformer.interop.weight_names import renamed
from tiny_transformer.model.quantized import is_quantized
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.training.weights import load_weights, named_weights

FILE = "model.gguf"
FORMS = (
    Form("GPT-2", {**GPT2.takes, "activation": ("gelu_tanh",)}),
    Form("Llama", {**LLAMA.takes, "bias": (False,)}),
    QWEN3,
)
_ARCHITECTURES = {"GPT-2": "gpt2", "Llama": "llama", "Qwen3": "qwen3"}

# Parts of our names, and theirs.
_NAMES = {
    "embeddings.token": "token_embd",
    "embeddings.position": "position_embd",
    "final_norm": "output_norm",
    "lm_head": "output",
    "blocks.": "blk.",
    "norm1": "attn_norm",
    "norm2": "ffn_norm",
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.o_proj": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
}


def _weights(model: Transformer, architecture: str) -> dict[str, Tensor]:
    weights = {renamed(name, _NAMES): tensor for name, tensor in packed_weights(model).items()}
    config = model.config
    for layer in range(config.n_layers):
        prefix = f"blk.{layer}.attn_"
        if architecture == "gpt2":
            for kind in ("weight", "bias"):
                parts = [weights.pop(f"{prefix}{letter}.{kind}") for letter in "qkv"]
                weights[f"{prefix}qkv.{kind}"] = torch.cat(parts)  # (3 C, ...)
        if architecture == "llama":
            for letter in "qk":
                name = f"{prefix}{letter}.weight"
                weights[name] = _to_neighbours(weights[name], config.head_dim)
    return weights


def _to_neighbours(weight: Tensor, head_dim: int) -> Tensor:
    """Move the rows i and i + D/2 of each head, a rotary pair of ours, next to each other."""
    heads = weight.unflatten(0, (-1, 2, head_dim // 2))  # (H, 2, D / 2, C)
    return heads.transpose(1, 2).flatten(0, 2).contiguous()


def _from_neighbours(weight: Tensor, head_dim: int) -> Tensor:
    heads = weight.unflatten(0, (-1, head_dim // 2, 2))  # (H, D / 2, 2, C)
    return heads.transpose(1, 2).flatten(0, 2).contiguous()


def _write(subject: Subject, folder: Path) -> None:
    import gguf

    config = subject.model.config
    architecture = _ARCHITECTURES[nearest_form(config, FORMS)[0].name]
    with tempfile.TemporaryDirectory() as elsewhere:
        path = Path(elsewhere) / FILE
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_name(subject.name)
        kinds = gguf.LlamaFileType
        writer.add_file_type(kinds.MOSTLY_Q8_0 if is_quantized(subject.model) else kinds.ALL_F32)
        _add_sizes(writer, config)
        add_vocabulary(writer, subject.tokenizer, config.vocab_size)
        for name, tensor in _weights(subject.model, architecture).items():
            kind = gguf.GGMLQuantizationType.Q8_0 if tensor.dtype == torch.uint8 else None
            writer.add_tensor(name, tensor.contiguous().numpy(), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files.write_bytes(folder / FILE, path.read_bytes())


def _add_sizes(writer: Any, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.feed_forward_width)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.kv_heads)
    if config.norm == "layer_norm":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rotary_base)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def load_gguf(path: Path) -> Transformer:
    """Return the model in a file that this module wrote, from what the file says alone."""
    import gguf

    reader = gguf.GGUFReader(path)

    def said(key: str, default: Any = None) -> Any:
        field = reader.get_field(key.replace("*", architecture))
        return default if field is None else field.contents()

    architecture = ""
    architecture = said("general.architecture")
    stored = {
        t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy())
        for t in reader.tensors
    }
    rms = architecture != "gpt2"
    config = ModelConfig(
        n_layers=said("*.block_count"),
        d_model=said("*.embedding_length"),
        n_heads=said("*.attention.head_count"),
        n_kv_heads=said("*.attention.head_count_kv"),
        d_ff=said("*.feed_forward_length"),
        context_length=said("*.context_length"),
        vocab_size=len(said("tokenizer.ggml.tokens")),
        activation="swiglu" if rms else "gelu_tanh",
        norm="rms_norm" if rms else "layer_norm",
        norm_eps=said(f"*.attention.layer_norm_{'rms_' if rms else ''}epsilon"),
        position="rotary" if rms else "learned",
        rotary_base=said("*.rope.freq_base", 10000.0),
        tie_weights="output.weight" not in stored,
        bias=not rms,
        qk_norm=architecture == "qwen3",
    )
    model = Transformer(config)
    weights = {}
    for name, tensor in named_weights(model).items():
        theirs = renamed(name, _NAMES)
        if theirs in stored:
            weights[name] = stored[theirs]
        else:  # one of queries, keys and values, which GPT-2 has in one
            parts = stored[theirs.replace(f"attn_{name.split('.')[3][0]}.", "attn_qkv.")].chunk(3)
            weights[name] = parts["qkv".index(name.split(".")[3][0])]
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] = _from_neighbours(weights[name], config.head_dim)
        assert weights[name].shape == tensor.shape, name
    load_weights(model, weights, where=str(path))
    return model.eval()


def _read(folder: Path) -> Mapping[str, Logits]:
    return {FILE: load_gguf(folder / FILE)}


FORMAT = Format(
    "gguf",
    _write,
    _read,
    packages=("gguf",),
    forms=FORMS,
    quantize=quantize_q8_0,
    notes=(
        "llama.cpp drops what the character vocabulary lacks; normalise a prompt first.",
        "llama.cpp keeps keys and values, and attends, in 16 bits unless it is told "
        "--cache-type-k f32 --cache-type-v f32 --flash-attn off.",
    ),
)
