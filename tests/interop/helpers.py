"""Tiny models to export, and exports that are wrong on purpose."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.architectures import CHOICES, scramble, tiny_config

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop.base import Format, Subject
from tiny_transformer.interop.formats import FORMATS
from tiny_transformer.model.transformer import Transformer

GPT2 = {"activation": "gelu_tanh"}
LLAMA = CHOICES["llama"]
QWEN3 = CHOICES["qwen3"]
WINDOW = {"token_window": 4, "position": "rotary", "activation": "relu2", "n_kv_heads": 2}


def exportable(**settings: Any) -> Transformer:
    """Return a tiny model with the character vocabulary and no weight at zero or one."""
    model = Transformer(config_of(**settings), seed=1).eval()
    scramble(model)
    return model


def config_of(**settings: Any) -> ModelConfig:
    return tiny_config(**{"vocab_size": 99, **settings})


@torch.no_grad()
def with_one_weight_changed(model: Transformer) -> Transformer:
    """Return a copy whose first layer differs in one number."""
    other = copy.deepcopy(model)
    other.get_parameter("blocks.0.mlp.down_proj.weight")[3, 5] += 0.1
    return other


def write_another(format_name: str, patch: pytest.MonkeyPatch) -> None:
    """Let a format write a model that is not quite the one it is given."""
    honest = FORMATS[format_name]

    def write(subject: Subject, folder: Path) -> None:
        other = with_one_weight_changed(subject.model)
        honest.write(dataclasses.replace(subject, model=other), folder)

    dishonest: Format = dataclasses.replace(honest, write=write)
    patch.setitem(FORMATS, format_name, dishonest)
