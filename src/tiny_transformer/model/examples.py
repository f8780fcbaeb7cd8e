"""A small example of each part, with its shapes and numbers.

    python -m tiny_transformer.model.attention

and the same for every other part. The models are random and tiny: 8 wide, with 2 heads.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.embeddings import Embeddings
from tiny_transformer.model.layer_norm import LayerNorm, RMSNorm
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.mlp import MLP
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.positional import apply_rotary, rotary_angles, sinusoidal_table
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.model.transformer_block import TransformerBlock
from tiny_transformer.runtime.random_state import forked_rng
from tiny_transformer.viz.shapes import ShapeTracer

CONFIG = ModelConfig(n_layers=2, d_model=8, n_heads=2, context_length=8, vocab_size=10, dropout=0.0)
_IDS = torch.tensor([[3, 1, 4, 1, 5]])


def show(path: str) -> None:
    """Print the example of a part.

    Args:
        path: of the part's file.
    """
    with forked_rng(0), torch.no_grad():
        _EXAMPLES[Path(path).stem]()


def _attention() -> None:
    part, x = MultiHeadAttention(CONFIG).eval(), torch.randn(1, 5, 8)
    _trace(part, x)
    _, weights = part.forward_with_weights(x)  # (1, 2, 5, 5)
    for head in range(2):
        _table(f"weights of head {head}", weights[0, head], "query", "key")
    _note("Each row sums to one; a query sees itself and the past.")


def _layer_norm() -> None:
    x = 3 * torch.randn(1, 3, 8) + 5
    for part in (LayerNorm(8), RMSNorm(8)):
        if isinstance(part, RMSNorm):
            print("\n")
        y = _trace(part, x)
        _table("in", _statistics(x[0]), "token", ("mean", "std", "rms"))
        _table("out", _statistics(y[0]), "token", ("mean", "std", "rms"))


def _mlp() -> None:
    part, x = MLP(CONFIG).eval(), torch.randn(1, 5, 8)
    y = _trace(part, x)
    change = (part(x[:, 2:3]) - y[:, 2:3]).abs().max().item()
    _note(f"Token 2 alone, without the others, comes out the same (difference {change:.0e}).")


def _positional() -> None:
    print("sinusoidal_table(5, 8): a wave for each pair of columns, slower and slower")
    _table("sines and cosines", sinusoidal_table(5, 8), "position", "column")
    q = torch.randn(1, 1, 1, 8)
    angles = rotary_angles(torch.arange(5), 8)  # (5, 4)
    turned = apply_rotary(q.expand(1, 1, 5, 8), angles.cos(), angles.sin())[0, 0]  # (5, 8)
    print("\napply_rotary: one vector at 5 positions, and the dot product of each two")
    _table("q q^T", turned @ turned.T, "position", "position")
    _note("The same along each diagonal: only the distance counts.")


def _embeddings() -> None:
    part = Embeddings(CONFIG, Parts()).eval()
    for parameter in part.parameters():
        parameter.normal_()
    y = _trace(part, _IDS)
    _table(f"the vectors of {_IDS[0].tolist()}", y[0], "token", "channel")
    _note("Tokens 1 and 3 are the same id at two positions: their vectors differ.")


def _transformer_block() -> None:
    part, x = TransformerBlock(CONFIG, Parts()).eval(), torch.randn(1, 5, 8)
    y = _trace(part, x)
    _table("what the block adds to x", (y - x)[0], "token", "channel")


def _transformer() -> None:
    model = Transformer(CONFIG).eval()
    logits = _trace(model, _IDS)
    _table("probabilities of the next token", logits[0].softmax(-1), "after", "id")
    _note("An untrained model finds all ids about equally likely.")


def _loss() -> None:
    logits, targets = torch.randn(1, 4, 10), torch.tensor([[1, 4, 1, 5]])
    print("compute_loss: -log of the probability of each token that came, on average")
    _table("probabilities", logits[0].softmax(-1), "after", "id")
    likely = logits[0].softmax(-1)[torch.arange(4), targets[0]]
    _note(f"Of the targets {targets[0].tolist()}: {', '.join(f'{p:.2f}' for p in likely)}.")
    terms = " + ".join(f"{-math.log(p):.2f}" for p in likely.tolist())
    _note(f"({terms}) / 4 = {compute_loss(logits, targets).item():.2f} nats; log 10 is 2.30.")


_EXAMPLES: dict[str, Callable[[], None]] = {
    "attention": _attention,
    "layer_norm": _layer_norm,
    "mlp": _mlp,
    "positional": _positional,
    "embeddings": _embeddings,
    "transformer_block": _transformer_block,
    "transformer": _transformer,
    "loss": _loss,
}


def _trace(part: nn.Module, *inputs: Tensor) -> Tensor:
    """Print what a part is and the shapes along its forward pass; return its output."""
    told = (inspect.getdoc(type(part)) or "").splitlines()[0]
    print(f"{type(part).__name__}: {told}\n")
    tracer: Any = ShapeTracer(part, parameters=True)
    with tracer:
        return part(*inputs)


def _statistics(x: Tensor) -> Tensor:
    deviation = x.std(-1, correction=0)
    return torch.stack([x.mean(-1), deviation, x.square().mean(-1).sqrt()], dim=-1)


def _table(title: str, values: Tensor, rows: str, columns: str | tuple[str, ...]) -> None:
    """Print a (rows, columns) tensor with its axes named."""
    n_rows, n_columns = values.shape
    heads = [f"{columns} {i}" if i == 0 else str(i) for i in range(n_columns)]
    if isinstance(columns, tuple):
        heads = list(columns)
    width = max(6, *map(len, heads))
    margin = len(f"{rows} {n_rows}")
    print(f"\n{title}")
    print(" " * margin + "".join(f" {head:>{width}}" for head in heads))
    for i, row in enumerate(values.tolist()):
        cells = "".join(f" {round(value, 2) + 0.0:>{width}.2f}" for value in row)
        print(f"{rows} {i}".ljust(margin) + cells)


def _note(text: str) -> None:
    print(f"\n{text}")
