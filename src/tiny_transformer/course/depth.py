"""What depth does to the residual stream and to gradients, measured on untrained stacks.

Module 03 asks why norms stand before the parts and why first weights shrink with depth. The
stacks here are made of the package's own parts, with the norm where one asks for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.config.checks import check
from tiny_transformer.model.initialization import RESIDUAL_PROJECTIONS, residual_std
from tiny_transformer.model.kv_cache import LayerCache
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer_block import TransformerBlock
from tiny_transformer.runtime.random_state import generator

Placement = Literal["pre", "post", "none"]


def gradient_norms(
    blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor, grad_output: Tensor
) -> list[float]:
    """Return the norm of the gradient at each place of a stream, from before to behind.

    Args:
        blocks: L functions or modules, each (..., C) to (..., C).
        x: (..., C), what goes into the first; neither it nor any parameter's `.grad` changes.
        grad_output: (..., C), the gradient of some loss by what comes out of the last.

    Returns:
        L + 1 norms: of the gradients by the input of each block, and of `grad_output`.
    """
    with torch.enable_grad():
        stream = [x.detach().requires_grad_()]
        for block in blocks:
            stream.append(block(stream[-1]))
    gradients = torch.autograd.grad(stream[-1], stream, grad_output)
    return [gradient.norm().item() for gradient in gradients]


class BlockWithoutNorms(TransformerBlock):
    """The package's block with nothing normalised: `x + attention(x)`, then `x + mlp(x)`."""

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Add what the two parts make of the stream as it is."""
        x = x + self.dropout(self.attention(x))
        return x + self.dropout(self.mlp(x))


class PostNormBlock(TransformerBlock):
    """The block of the first transformer: the norms stand after the sums.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.1.
    """

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Normalise the stream twice, each time after a part has added to it."""
        x = self.norm1(x + self.dropout(self.attention(x)))
        return self.norm2(x + self.dropout(self.mlp(x)))


BLOCKS: dict[Placement, type[TransformerBlock]] = {
    "pre": TransformerBlock,
    "post": PostNormBlock,
    "none": BlockWithoutNorms,
}
"""The block for each placement of the norms."""


def build_stack(
    n_layers: int,
    placement: Placement = "pre",
    *,
    width: int = 64,
    std: float | None = None,
    scaled: bool = False,
    seed: int = 0,
) -> nn.ModuleList:
    """Return untrained blocks with their first weights.

    Args:
        n_layers: number of blocks.
        placement: where the norms stand; `none` leaves them out.
        width: of the stream; there are four heads, and no dropout.
        std: standard deviation of every matrix; None means `1 / sqrt(inputs)`, by which a
            matrix keeps the size of what goes through it.
        scaled: divide that of matrices that write into the stream by `sqrt(2 n_layers)`.
        seed: of the draws; equal seeds give equal weights, whatever the placement.

    Raises:
        ConfigError: the placement is not one of the three.
    """
    check(
        placement in BLOCKS,
        f"placement is {placement!r}; expected {', '.join(BLOCKS)}.",
    )
    config = ModelConfig(n_layers=n_layers, d_model=width, n_heads=4, dropout=0.0)
    parts = Parts.for_config(config)
    blocks = nn.ModuleList(BLOCKS[placement](config, parts) for _ in range(n_layers))
    with torch.no_grad():
        for name, parameter in blocks.named_parameters():
            if parameter.ndim < 2:
                continue  # scales begin as ones; the shifts of norms, as zeros
            size = parameter.shape[1] ** -0.5 if std is None else std
            if scaled and name.endswith(RESIDUAL_PROJECTIONS):
                size = residual_std(n_layers, size)
            draws = torch.randn(parameter.shape, generator=generator(seed, "depth", name))
            parameter.copy_(draws * size)
        for name, parameter in blocks.named_parameters():
            if name.endswith("proj.bias"):
                parameter.zero_()
    return blocks


class WithoutGradients(nn.Module):
    """A part that computes what it did, and lets no gradient through.

    Args:
        part: maps (..., C) to (..., C).
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """Return the part's answer, cut off from where it came from."""
        return self.part(x).detach()


def direct_path(blocks: nn.ModuleList) -> nn.ModuleList:
    """Return the same blocks with no gradient through attention and MLP: the stream is left."""
    cut = copy.deepcopy(blocks)
    for block in cut:
        for name in ("attention", "mlp"):
            setattr(block, name, WithoutGradients(block.get_submodule(name)))
    return cut


@dataclass(frozen=True)
class Depth:
    """An untrained stack, measured with one batch of random vectors.

    Attributes:
        stream: standard deviation of the residual stream, before each block and behind the last.
        gradients: norm of the gradient there, where one of norm 1 arrives at the end.
        likeness: mean cosine of two tokens of one sequence there, 1 where all are alike.
        last_block: how much the last block changes the stream, as a share of its size.
    """

    stream: tuple[float, ...]
    gradients: tuple[float, ...]
    likeness: tuple[float, ...]
    last_block: float

    @property
    def ratio(self) -> float:
        """The gradient at the first block's input, where one of norm 1 arrives at the end."""
        return self.gradients[0]


def measure_depth(blocks: nn.ModuleList, *, n_tokens: int = 32, seed: int = 0) -> Depth:
    """Run random vectors of unit variance through blocks, and a random gradient back.

    Args:
        blocks: as `build_stack` returns them.
        n_tokens: in each of four sequences.
        seed: of the vectors.
    """
    width = next(blocks.parameters()).shape[-1]
    draws = generator(seed, "depth", "x")
    x = torch.randn(4, n_tokens, width, generator=draws)
    arriving = torch.randn(4, n_tokens, width, generator=draws)
    stream = [x]
    with torch.no_grad():
        for block in blocks:
            stream.append(block(stream[-1]))
    gradients = gradient_norms(list(blocks), x, arriving / arriving.norm())
    change = (stream[-1] - stream[-2]).norm() / stream[-2].norm()
    return Depth(
        stream=tuple(each.std().item() for each in stream),
        gradients=tuple(gradients),
        likeness=tuple(_likeness(each) for each in stream),
        last_block=change.item(),
    )


def _likeness(x: Tensor) -> float:
    """Return the mean cosine of the tokens of a sequence, each with every other."""
    unit = x / x.norm(dim=-1, keepdim=True)
    n = x.shape[-2]
    cosines = unit @ unit.mT  # (B, T, T), each token with itself among them
    return ((cosines.sum(dim=(-2, -1)) - n) / (n * (n - 1))).mean().item()
