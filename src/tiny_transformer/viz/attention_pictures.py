"""Pictures that explain attention: weights, masks, the softmax's saturation, and the cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tiny_transformer.runtime.errors import DataError

_BLUE, _ORANGE = "#2f6fb0", "#d9822b"
_MOST = 12  # rows or columns whose numbers can still be read


def draw_weights(
    panels: Sequence[tuple[str, Tensor]], queries: Sequence[str], keys: Sequence[str] | None = None
) -> Figure:
    """Draw tables of attention weights or masks side by side, the larger the darker.

    Args:
        panels: each a title and a (queries, keys) tensor, float from 0 to 1 or bool; where there
            are at most 12 of each, the numbers stand in the cells (masks have none).
        queries: what each row is called.
        keys: what each column is called; the same as the rows if it is left out.

    Raises:
        DataError: a tensor has another shape than there are names.
    """
    keys = queries if keys is None else keys
    for title, table in panels:
        if tuple(table.shape) != (len(queries), len(keys)):
            raise DataError(
                f"{title!r} has the shape {tuple(table.shape)}, and there are {len(queries)} names "
                f"of queries and {len(keys)} of keys."
            )
    width, height = 0.55 * len(keys) + 1.1, 0.5 * len(queries) + 1.1
    figure = Figure(figsize=(max(width, 2.4) * len(panels), max(height, 2.2)), layout="constrained")
    for axes, (title, table) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        _draw_table(axes, table, queries, keys)
        axes.set_title(title, fontsize=9)
    return figure


def _draw_table(axes: Axes, table: Tensor, queries: Sequence[str], keys: Sequence[str]) -> None:
    is_mask = table.dtype == torch.bool
    values = table.float().cpu()
    axes.imshow(values.numpy() * (0.6 if is_mask else 1.0), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(keys)), list(keys), fontsize=8)
    axes.set_yticks(range(len(queries)), list(queries), fontsize=8)
    axes.set_xticks([i - 0.5 for i in range(1, len(keys))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(queries))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("key: is looked at", fontsize=8)
    axes.set_ylabel("query: looks", fontsize=8)
    if is_mask or max(table.shape) > _MOST:
        return
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7,
                      color="white" if value > 0.6 else "black")  # fmt: skip


def draw_temperatures(scores: Tensor, temperatures: Sequence[float]) -> Figure:
    """Draw the softmax of a row of scores at several temperatures, as bars.

    Args:
        scores: (keys,), float.
        temperatures: each above 0.
    """
    figure = Figure(figsize=(2.1 * len(temperatures), 2.2), layout="constrained")
    panels = figure.subplots(1, len(temperatures), squeeze=False, sharey=True)[0]
    for axes, temperature in zip(panels, temperatures, strict=True):
        weights = torch.softmax(scores.double() / temperature, dim=0)
        entropy = torch.special.entr(weights).sum().item()
        axes.bar(range(len(weights)), weights.tolist(), color=_BLUE)
        axes.set_title(
            f"temperature {temperature:g}\nlooks at {math.exp(entropy):.1f} keys", fontsize=8
        )
        axes.set_xticks(range(len(weights)), [f"{score:g}" for score in scores.tolist()])
        axes.set_xlabel("score", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("weight", fontsize=8)
    panels[0].set_ylim(0, 1)
    return figure


@dataclass(frozen=True)
class Saturation:
    """What a softmax over random scores is like.

    Attributes:
        width: components of each query and key.
        variance: of the scores.
        largest: the largest weight of a row, on average.
        n_keys: how many keys a row looks at, exp(entropy), on average.
        gradient: length of the gradient that reaches a row of scores, for a gradient of unit
            variance at each weight: the median of the rows.
    """

    width: int
    variance: float
    largest: float
    n_keys: float
    gradient: float


def measure_saturation(width: int, *, scaled: bool, n_keys: int = 64, seed: int = 0) -> Saturation:
    """Measure the softmax of dot products of random queries and keys of unit variance.

    Args:
        width: components of each.
        scaled: divide the scores by the root of the width.
        n_keys: keys that each query is compared with; there are 256 queries.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(256, width, generator=generator, dtype=torch.float64)
    k = torch.randn(n_keys, width, generator=generator, dtype=torch.float64)
    arriving = torch.randn(256, n_keys, generator=generator, dtype=torch.float64)
    scores = q @ k.T / (math.sqrt(width) if scaled else 1.0)
    weights = torch.softmax(scores, dim=-1)
    gradient = weights * (arriving - (weights * arriving).sum(dim=-1, keepdim=True))
    return Saturation(
        width=width,
        variance=scores.var().item(),
        largest=weights.amax(dim=-1).mean().item(),
        n_keys=torch.special.entr(weights).sum(dim=-1).exp().mean().item(),
        gradient=gradient.norm(dim=-1).median().item(),
    )


def draw_saturation(widths: Sequence[int]) -> Figure:
    """Draw how the softmax saturates with the width, with and without the scale.

    Args:
        widths: of queries and keys, in rising order.
    """
    figure = Figure(figsize=(9.6, 2.7), layout="constrained")
    panels = figure.subplots(1, 3)
    for scaled, label, colour in [(False, "q k", _ORANGE), (True, "q k / √d", _BLUE)]:
        measured = [measure_saturation(width, scaled=scaled) for width in widths]
        for axes, name in zip(panels, ("variance", "n_keys", "gradient"), strict=True):
            axes.plot(widths, [getattr(m, name) for m in measured], "o-", color=colour,
                      label=label, markersize=4)  # fmt: skip
    titles = ("variance of the scores", "keys looked at, of 64", "gradient at the scores, median")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(widths), [str(width) for width in widths])
        axes.set_xlabel("width d", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yscale("log")
    panels[0].set_ylim(0.5, 2 * max(widths))
    panels[1].set_ylim(0)
    panels[2].set_ylim(0)
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def draw_cost(d_model: int, context_length: int, most_tokens: int) -> Figure:
    """Draw the operations of projections and of mixing against the number of tokens.

    Args:
        d_model: the width C; projections take `8 T C^2`, mixing `4 T^2 C`.
        context_length: a length to mark.
        most_tokens: where the axis ends.
    """
    figure = Figure(figsize=(5.4, 3.0), layout="constrained")
    axes = figure.subplots()
    lengths = [2**i for i in range(4, int(math.log2(most_tokens)) + 1)]
    projections = [8 * t * d_model**2 / 1e6 for t in lengths]
    mixing = [4 * t**2 * d_model / 1e6 for t in lengths]
    axes.plot(lengths, projections, "o-", color=_BLUE, markersize=3, label="projections, 8 T C²")
    axes.plot(lengths, mixing, "o-", color=_ORANGE, markersize=3, label="mixing, 4 T² C")
    for length, text in [(context_length, "our context"), (2 * d_model, "T = 2 C")]:
        axes.axvline(length, color="#9a9a9a", linewidth=0.8, linestyle=":")
        axes.text(length, 0.06, f" {text}", fontsize=7, color="#555555",
                  rotation=90, va="bottom", ha="right")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(0.05)
    axes.set_xticks(lengths, [str(t) for t in lengths])
    axes.set_xlabel("tokens T", fontsize=8)
    axes.set_ylabel("million operations", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
