"""The tiny models that are compared: their sizes, weights and input, and what their code raises."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.graft import where_of
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.errors import TinyError
from tiny_transformer.runtime.random_state import generator

SIZES = {"B": 2, "T": 5, "past": 4}
DROPOUT = 0.5


class CodeError(Exception):
    """Somebody's code raised; the text says what and where."""


def probe_config(config: ModelConfig) -> ModelConfig:
    """Return a tiny model of the same kind, in which every axis has another size."""
    heads, kv_heads, width = 3, None, 24  # (B 2, T 5, H 3, D 8, C 24)
    if config.n_heads == 1:
        heads = 1
    elif config.kv_heads != config.n_heads:
        heads, kv_heads = 6, 1 if config.kv_heads == 1 else 3
    return dataclasses.replace(
        config,
        n_layers=2,
        d_model=width,
        n_heads=heads,
        n_kv_heads=kv_heads,
        d_ff=None if config.d_ff is None else 70,
        context_length=11,
        vocab_size=37,
        dropout=DROPOUT,
        norm_eps=0.05,  # so that an epsilon in the wrong place is seen
    )


def probe_ids(config: ModelConfig) -> Tensor:
    """Return ids, `(B, context_length)` int64."""
    size = (SIZES["B"], config.context_length)
    return torch.randint(0, config.vocab_size, size, generator=generator("compare", "ids"))


def part_input(name: str, config: ModelConfig) -> tuple[Any, ...]:
    """Return what a part is called with."""
    if name in ("embeddings", "token_embedding", "model"):
        return (probe_ids(config)[:, : SIZES["T"]],)
    if name == "positional_embedding":
        return (SIZES["T"],)
    size = (SIZES["B"], SIZES["T"], config.d_model)
    return (torch.randn(size, generator=generator("compare", "x")),)


def give_weights(mine: nn.Module, reference: nn.Module) -> None:
    """Give both models the same weights: biases and norms too are not what they begin as."""
    with torch.no_grad():
        theirs = dict(mine.named_parameters())
        for name, parameter in reference.named_parameters():
            draws = torch.randn(parameter.shape, generator=generator("compare", name))
            if parameter.ndim < 2:
                draws = 0.3 * draws + (0.0 if name.endswith("bias") else 1.0)
            elif "embeddings" not in name:
                draws = draws / math.sqrt(parameter.shape[1])
            parameter.copy_(draws)
            theirs[name].copy_(draws)


@contextlib.contextmanager
def code_may_raise(when: str, files: Sequence[Path]) -> Iterator[None]:
    """Turn what somebody's code raises into a `CodeError` with the place.

    Args:
        when: `is built`, `is evaluated` and so on.
        files: theirs.
    """
    try:
        yield
    except TinyError:
        raise
    except (Exception, SystemExit) as error:
        where = next((w for f in files if (w := where_of(error, f.parent))), "")
        if isinstance(error, NotImplementedError):
            text = f"It uses what is not written yet{where}: {error or 'NotImplementedError'}."
        else:
            said = " ".join(str(error).split())
            text = f"It raised {type(error).__name__} while it {when}{where}: {said}"
        raise CodeError(text) from None


def source_files(parts: Parts, names: Sequence[str]) -> list[Path]:
    """Return the Python files of the folders in which parts are written."""
    found = []
    for name in names:
        try:
            file = inspect.getsourcefile(getattr(parts, name))
        except TypeError:
            continue
        if file is not None:
            found += sorted(Path(file).resolve().parent.glob("*.py"))
    return list(dict.fromkeys(found))
