"""Folders as transformers writes them, of tiny models with random weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from tiny_transformer.interop.huggingface_tokenizer import tokenizer_files
from tiny_transformer.text.tokenizer import CharTokenizer

CONTEXT, CHARACTERS = 16, 99
_SIZES: dict[str, Any] = {
    "vocab_size": CHARACTERS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
}  # fmt: skip
_GPT2: dict[str, Any] = {
    "vocab_size": CHARACTERS, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 4,
}  # fmt: skip
KINDS: dict[str, Callable[..., PreTrainedConfig]] = {
    "gpt2": functools.partial(GPT2Config, **_GPT2),
    "llama": functools.partial(LlamaConfig, **_SIZES),
    "mistral": functools.partial(MistralConfig, **_SIZES, sliding_window=None),
    "qwen3": functools.partial(Qwen3Config, **_SIZES, head_dim=8),
}


def foreign_model(kind: str, *, seed: int = 3, **settings: Any) -> Any:
    """Return a model of transformers in which no weight is at its first value."""
    make = KINDS[kind]
    config = make(**settings)
    draws = torch.Generator().manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draws)
            parameter.copy_(noise * 0.3 + (1.0 if parameter.ndim == 1 else 0.0))
    return model


def write_characters(folder: Path) -> None:
    """Put the character vocabulary into a folder."""
    for name, text in tokenizer_files(CharTokenizer(), CONTEXT).items():
        (folder / name).write_text(text)


def foreign_folder(folder: Path, kind: str, *, shard: str = "1GB", **settings: Any) -> Any:
    """Write a tiny model with the character vocabulary; return it.

    Args:
        folder: where.
        kind: one of `KINDS`.
        shard: the largest size of a file.
        settings: of the config.
    """
    model = foreign_model(kind, **settings)
    model.save_pretrained(folder, max_shard_size=shard)
    write_characters(folder)
    return model


def edit_config(folder: Path, **changes: Any) -> None:
    """Change fields of a folder's config.json; `...` takes one out."""
    path = folder / "config.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Let `change` do something to the tensors of a folder's model.safetensors."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(whole, path, {"format": "pt"})


def byte_pairs(text: str, size: int) -> Tokenizer:
    """Return a byte-level encoding of `tokenizers`, as GPT-2 has one, with `<|endoftext|>`."""
    made: Any = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator([text], trainer)
    return made
