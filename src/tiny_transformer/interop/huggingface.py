"""A folder that transformers loads: AutoModelForCausalLM and AutoTokenizer, without our code.

    config.json  generation_config.json  model.safetensors
    tokenizer.json  tokenizer_config.json

The model becomes a GPT-2, a Llama or a Qwen3. Their names of the weights stand in one table
each; GPT-2's matrices are stored the other way round, with queries, keys and values in one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop.base import CONFIG, ExportError, Format, Logits, Subject
from tiny_transformer.interop.forms import GPT2, LLAMA, QWEN3, nearest_form
from tiny_transformer.interop.huggingface_tokenizer import check_tokenizer, tokenizer_files
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.training.weights import named_weights

WEIGHTS, GENERATION = "model.safetensors", "generation_config.json"
FORMS = (GPT2, LLAMA, QWEN3)

_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "relu2": "relu2"}

# Parts of our names, and theirs.
_LLAMA_NAMES = {
    "embeddings.token": "model.embed_tokens",
    "blocks.": "model.layers.",
    "attention": "self_attn",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
    "final_norm": "model.norm",
}
_GPT2_NAMES = {
    "embeddings.token": "transformer.wte",
    "embeddings.position": "transformer.wpe",
    "blocks.": "transformer.h.",
    "attention.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "final_norm": "transformer.ln_f",
}
_TRANSPOSED = ("c_proj.weight", "c_fc.weight")  # Conv1D keeps (in, out)


def renamed(name: str, table: Mapping[str, str]) -> str:
    """Return a weight's name with each part that stands in `table` replaced."""
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return name


def joined_projections(model: Transformer, layer: int, kind: str) -> Tensor:
    """Return the weight or bias of queries, keys and values of a layer, one below the other."""
    prefix = f"blocks.{layer}.attention."
    names = (f"{prefix}{letter}_proj.{kind}" for letter in "qkv")
    return torch.cat([model.get_parameter(name).detach() for name in names])  # (3 C, C) or (3 C,)


def _gpt2_weights(model: Transformer) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in named_weights(model).items():
        if not name.split(".")[-2].startswith(("q_", "k_", "v_")):
            theirs = renamed(name, _GPT2_NAMES)
            weights[theirs] = tensor.T if theirs.endswith(_TRANSPOSED) else tensor
    for layer in range(model.config.n_layers):
        attention = f"transformer.h.{layer}.attn.c_attn"
        weights[f"{attention}.weight"] = joined_projections(model, layer, "weight").T
        weights[f"{attention}.bias"] = joined_projections(model, layer, "bias")
    return weights


def _llama_weights(model: Transformer) -> dict[str, Tensor]:
    return {renamed(name, _LLAMA_NAMES): tensor for name, tensor in named_weights(model).items()}


def _gpt2_config(config: ModelConfig) -> dict[str, Any]:
    dropout = config.dropout_probability
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.feed_forward_width,
        "activation_function": _ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), dropout),
    }


def _llama_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.feed_forward_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_base,  # where transformers before version 5 looks
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "attention_dropout": config.dropout_probability,
    }


def _qwen3_config(config: ModelConfig) -> dict[str, Any]:
    settings = _llama_config(config)
    del settings["mlp_bias"]
    return {**settings, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}


_CONFIGS = {"GPT-2": _gpt2_config, "Llama": _llama_config, "Qwen3": _qwen3_config}


def _write(subject: Subject, folder: Path) -> None:
    model, config = subject.model, subject.model.config
    form, _ = nearest_form(config, FORMS)
    weights = _gpt2_weights(model) if form is GPT2 else _llama_weights(model)
    stored = {name: tensor.contiguous() for name, tensor in weights.items()}
    files.write_bytes(folder / WEIGHTS, safetensors.torch.save(stored, {"format": "pt"}))
    settings = {
        **_CONFIGS[form.name](config),
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_weights,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
    }
    files.write_json(folder / CONFIG, settings)
    special = list(subject.tokenizer.special_ids)  # never generated, as with us
    generation = {"pad_token_id": subject.tokenizer.pad_id, "suppress_tokens": special}
    files.write_json(folder / GENERATION, generation)
    for name, content in tokenizer_files(subject.tokenizer, config.context_length).items():
        files.write_text(folder / name, content)


def _read(folder: Path) -> Mapping[str, Logits]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        check_tokenizer(tokenizer, CharTokenizer())
    model, found = loaded
    wrong = [name for names in found.values() for name in names]
    if wrong:  # transformers would fill in random weights
        raise ExportError(f"{WEIGHTS} was not kept: transformers does not find {wrong[0]} in it.")
    return {WEIGHTS: lambda ids: model(ids).logits}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars over our output."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


FORMAT = Format("huggingface", _write, _read, packages=("transformers", "tokenizers"), forms=FORMS)
