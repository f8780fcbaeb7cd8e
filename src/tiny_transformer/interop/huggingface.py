"""A folder that transformers loads: AutoModelForCausalLM and AutoTokenizer, without our code.

    config.json  generation_config.json  model.safetensors
    tokenizer.json  tokenizer_config.json

The model becomes a GPT-2, a Llama or a Qwen3; `weight_names` has what each calls its weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop.base import CONFIG, ExportError, Format, Logits, Subject
from tiny_transformer.interop.forms import GPT2, LLAMA, QWEN3, nearest_form
from tiny_transformer.interop.huggingface_tokenizer import check_tokenizer, tokenizer_files
from tiny_transformer.interop.weight_names import layout
from tiny_transformer.runtime import files
from tiny_transformer.runtime.quiet import quiet
from tiny_transformer.sampling.sampler import forbidden_ids
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer
from tiny_transformer.training.weights import named_weights

WEIGHTS, GENERATION = "model.safetensors", "generation_config.json"
FORMS = (GPT2, LLAMA, QWEN3)

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "relu2": "relu2"}


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
        "activation_function": ACTIVATIONS[config.activation],
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
    weights = named_weights(model)
    stored = {name: kept.pack(weights) for name, kept in layout(form, weights).items()}
    files.write_bytes(folder / WEIGHTS, safetensors.torch.save(stored, {"format": "pt"}))
    settings = {
        **_CONFIGS[form.name](config),
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_weights,
        "bos_token_id": None,
        "eos_token_id": next(iter(subject.tokenizer.end_ids), None),
        "dtype": "float32",
    }
    files.write_json(folder / CONFIG, settings)
    files.write_json(folder / GENERATION, _generation(subject))
    for name, content in tokenizer_files(subject.tokenizer, config.context_length).items():
        files.write_text(folder / name, content)
    _check_tokenizer(folder, subject.tokenizer)


def _generation(subject: Subject) -> dict[str, Any]:
    """Return what `generate` must know: what ends a text, and what is never generated."""
    tokenizer = subject.tokenizer
    ends = list(tokenizer.end_ids)
    pad = tokenizer.pad_id if isinstance(tokenizer, CharTokenizer) else next(iter(ends), None)
    settings: dict[str, Any] = {"pad_token_id": pad}
    if ends:
        settings["eos_token_id"] = ends
    if forbidden := forbidden_ids(subject.model, tokenizer):
        settings["suppress_tokens"] = list(forbidden)
    return settings


def _check_tokenizer(folder: Path, ours: Tokenizer) -> None:
    """Read the tokenizer back as a stranger would, and compare it with ours."""
    from transformers import AutoTokenizer

    with quiet_transformers():
        theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Transliteration is left out of the file.
        check_tokenizer(theirs, CharTokenizer() if isinstance(ours, CharTokenizer) else ours)


def _read(folder: Path) -> Mapping[str, Logits]:
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    model, found = loaded
    wrong = [name for names in found.values() for name in names]
    if wrong:  # transformers would fill in random weights
        raise ExportError(f"{WEIGHTS} was not kept: transformers does not find {wrong[0]} in it.")
    return {WEIGHTS: lambda ids: model(ids).logits}


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers, and what it imports, from writing and drawing over our output."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


FORMAT = Format("huggingface", _write, _read, packages=("transformers", "tokenizers"), forms=FORMS)
