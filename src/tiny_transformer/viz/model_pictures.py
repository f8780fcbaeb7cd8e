"""Pictures of a whole model: its forward pass, its parameters, its memory, and its first loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from tiny_transformer.config import ModelConfig
from tiny_transformer.viz.memory import MemoryEstimate, format_bytes, format_count
from tiny_transformer.viz.parameters import count_parameters

_COLOURS = ("#2f6fb0", "#d9822b", "#5f9e6e", "#9a6fb0", "#b0b0b0")
_GREY, _PALE = "#555555", "#eef3f8"


def draw_forward_pass(config: ModelConfig) -> Figure:
    """Draw the way from ids to logits, with the shape of what passes along.

    Args:
        config: the architecture, for the number of blocks and the tie.
    """
    figure = Figure(figsize=(10.4, 3.1), layout="constrained")
    axes = figure.subplots()
    stream, above = 1.0, 2.25
    _arrow(axes, (0.3, stream), (15.75, stream))
    for left, width, text, colour in [
        (1.0, 1.7, "embeddings\n(tokens + places)", _COLOURS[0]),
        (11.2, 1.3, "final_norm", _COLOURS[4]),
        (13.6, 1.3, "lm_head", _COLOURS[0]),
    ]:
        _box(axes, left, stream - 0.36, width, text, colour)
    axes.add_patch(
        Rectangle((3.75, 0.45), 6.5, 2.5, facecolor="none", edgecolor=_GREY, linestyle=":")
    )
    times = "1 block" if config.n_layers == 1 else f"block, {config.n_layers} times"
    axes.text(7.0, 3.02, times, ha="center", va="bottom", fontsize=8, color=_GREY)
    for left, norm, part, colour in [
        (3.95, "norm1", "attention", _COLOURS[2]),
        (7.15, "norm2", "mlp", _COLOURS[3]),
    ]:
        _arrow(axes, (left + 0.1, stream), (left + 0.1, above))
        _box(axes, left + 0.3, above - 0.36, 0.9, norm, _COLOURS[4])
        _box(axes, left + 1.4, above - 0.36, 1.2, part, colour)
        axes.plot([left + 0.1, left + 2.8], [above, above], color=_GREY, linewidth=1, zorder=0)
        _arrow(axes, (left + 2.8, above), (left + 2.8, stream + 0.17))
        circle = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": _GREY}
        axes.text(left + 2.8, stream, "+", ha="center", va="center", fontsize=10, bbox=circle)
    places = [(0.45, "ids\n(B, T)"), *((x, "(B, T, C)") for x in (3.2, 8.6, 10.7, 13.05))]
    for x, text in [*places, (15.5, "logits\n(B, T, V)")]:
        axes.text(x, stream - 0.1, text, ha="center", va="top", fontsize=7, color=_GREY)
    if config.tie_weights:
        axes.plot([1.85, 1.85, 14.25, 14.25], [0.6, 0.05, 0.05, 0.6], color=_COLOURS[0],
                  linewidth=1, linestyle="--")  # fmt: skip
        axes.text(7.85, 0.1, "one table, (V, C)", ha="center", va="bottom", fontsize=8,
                  color=_COLOURS[0])  # fmt: skip
    axes.set_xlim(0, 16.1)
    axes.set_ylim(-0.1, 3.4)
    axes.set_axis_off()
    return figure


def draw_parameters(panels: Sequence[tuple[str, Mapping[str, ModelConfig]]]) -> Figure:
    """Draw where the parameters of models are, as shares, with the number of all on top.

    Args:
        panels: each a title and models by the name under their bar.
    """
    figure = Figure(figsize=(4.6 * len(panels), 2.9), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, configs) in zip(all_axes, panels, strict=True):
        counts = {name: count_parameters(config) for name, config in configs.items()}
        parts = {
            "token table": [c.token_embedding for c in counts.values()],
            "positions": [c.positions for c in counts.values()],
            "attention": [c.attention for c in counts.values()],
            "MLP": [c.mlp for c in counts.values()],
            "norms": [c.norms for c in counts.values()],
        }
        totals = [c.total for c in counts.values()]
        if any(c.output_head for c in counts.values()):
            parts["head"] = [c.output_head for c in counts.values()]
        shares = {name: [100 * n / t for n, t in zip(each, totals, strict=True)]
                  for name, each in parts.items()}  # fmt: skip
        _stack(axes, list(counts), shares, [format_count(total) for total in totals])
        axes.set_title(title, fontsize=9)
        axes.set_ylim(0, 112)
    all_axes[0].set_ylabel("share of the parameters (%)", fontsize=8)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def draw_memory_use(estimates: Mapping[str, MemoryEstimate]) -> Figure:
    """Draw what training holds in memory, stacked, with the sum on top.

    Args:
        estimates: by the name under their bar.
    """
    figure = Figure(figsize=(5.4, 3.0), layout="constrained")
    axes = figure.subplots()
    names = ("weights", "gradients", "optimizer", "activations")
    parts = {name: [getattr(e, name) / 2**20 for e in estimates.values()] for name in names}
    _stack(axes, list(estimates), parts, [format_bytes(e.total) for e in estimates.values()])
    axes.set_ylabel("MiB", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    return figure


def measure_initial_loss(vocab_size: int, logit_std: float, *, n: int = 2000) -> float:
    """Return the mean cross-entropy of logits drawn from a normal distribution around 0.

    Args:
        vocab_size: number of logits for each guess.
        logit_std: their standard deviation.
        n: guesses; the target of each is token 0.
    """
    generator = torch.Generator().manual_seed(0)
    logits = logit_std * torch.randn(n, vocab_size, generator=generator, dtype=torch.float64)
    return (logits.logsumexp(dim=-1) - logits[:, 0]).mean().item()


def draw_initial_loss(vocab_size: int, stds: Sequence[float]) -> Figure:
    """Draw the loss of random logits against how far they stray, and `log V + s^2 / 2`.

    Args:
        vocab_size: V.
        stds: standard deviations s, in rising order.
    """
    figure = Figure(figsize=(4.6, 2.8), layout="constrained")
    axes = figure.subplots()
    level = math.log(vocab_size)
    axes.axhline(level, color=_GREY, linewidth=0.8, linestyle=":")
    axes.text(stds[-1], level, f"log {vocab_size}", ha="right", va="bottom", fontsize=8,
              color=_GREY)  # fmt: skip
    axes.plot(stds, [level + s**2 / 2 for s in stds], color=_COLOURS[1], label="log V + s² / 2")
    axes.plot(stds, [measure_initial_loss(vocab_size, s) for s in stds], "o", color=_COLOURS[0],
              markersize=4, label="measured")  # fmt: skip
    axes.set_xlabel("standard deviation s of the logits", fontsize=8)
    axes.set_ylabel("loss, nats", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _stack(
    axes: Axes, names: Sequence[str], parts: Mapping[str, Sequence[float]], tops: Sequence[str]
) -> None:
    """Draw a bar of parts for each name, and a text on top of each."""
    heights = [0.0] * len(names)
    for (part, values), colour in zip(parts.items(), (*_COLOURS, "#d6b656"), strict=False):
        axes.bar(range(len(names)), values, bottom=heights, color=colour, label=part, width=0.7)
        heights = [height + value for height, value in zip(heights, values, strict=True)]
    for place, (height, text) in enumerate(zip(heights, tops, strict=True)):
        axes.text(place, height, text, ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(names)), list(names), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _box(axes: Axes, left: float, bottom: float, width: float, text: str, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            0.72,
            boxstyle="round,pad=0.02",
            facecolor=_PALE,
            edgecolor=colour,
            linewidth=1.3,
            zorder=2,
        )
    )
    axes.text(left + width / 2, bottom + 0.36, text, ha="center", va="center", fontsize=7.5,
              zorder=3)  # fmt: skip


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            color=_GREY,
            linewidth=1,
            shrinkA=0,
            shrinkB=0,
            zorder=1,
        )
    )
