"""Whether parts drop values where the reference does, and keep the mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.comparison import Divergence
from tiny_transformer.course.probes import DROPOUT, code_may_raise, part_input
from tiny_transformer.runtime.random_state import forked_rng

PATHS = {
    "token_embedding": "embeddings.token",
    "positional_embedding": "embeddings.position",
    "embeddings": "embeddings",
    "norm": "blocks.0.norm1",
    "attention": "blocks.0.attention",
    "mlp": "blocks.0.mlp",
    "block": "blocks.0",
    "model": "",
}
"""Where a part first stands in the model."""

_DRAWS = 64
_STRAYS = 0.25  # far beyond what the mean of so many draws strays


def compare_dropout(
    mine: nn.Module,
    reference: nn.Module,
    names: Sequence[str],
    config: ModelConfig,
    files: Sequence[Path],
) -> Divergence | None:
    """Look at parts in training mode: what draws, and what its draws come to on average.

    Args:
        mine: a model of somebody's parts.
        reference: with the same weights.
        names: of the parts that are somebody's.
        config: of both, with dropout.
        files: somebody's.
    """
    mine.train()
    reference.train()
    for name in names:
        path = PATHS[name]
        ours, theirs = reference.get_submodule(path), mine.get_submodule(path)
        args = part_input(name, config)
        wanted = _varies(ours, args)
        with code_may_raise("trains with dropout", files):
            got = _varies(theirs, args)
        if got != wanted:
            does = "nothing is dropped" if wanted else "something is dropped"
            return Divergence(
                "dropout",
                f"In training with dropout {DROPOUT}, {does} in the {name} part.",
                ("The reference's does the opposite: two passes over one input are "
                 + ("not equal." if wanted else "equal."),),
            )  # fmt: skip
        if wanted and name in ("attention", "embeddings"):
            mean = torch.stack([_draw(theirs, args, i) for i in range(_DRAWS)]).mean(0)
            with torch.no_grad():
                right = ours.eval()(*args)
            if float((mean - right).norm() / right.norm()) > _STRAYS:
                return Divergence(
                    "dropout",
                    f"With dropout, the {name} part's output is on average not what it is without.",
                    ("What stays must be divided by 1 - p, so that the mean is kept.",),
                )
    return None


def _varies(module: nn.Module, args: tuple[Any, ...]) -> bool:
    return not torch.equal(_draw(module, args, 0), _draw(module, args, 1))


def _draw(module: nn.Module, args: tuple[Any, ...], seed: int) -> Tensor:
    with torch.no_grad(), forked_rng("compare", seed):
        return module(*[a.clone() if isinstance(a, Tensor) else a for a in args])
