"""Draw the pictures of the course's pages.

    python tools/course_figures.py

Each is written to `course/NN_name/figures/`; the pages show it where a reader has no notebook.
Equal code writes equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from tiny_transformer.model.attention import causal_mask, explicit_attention
from tiny_transformer.viz.attention_pictures import (
    draw_cost,
    draw_saturation,
    draw_temperatures,
    draw_weights,
)
from tiny_transformer.viz.plots import save_figure
from tiny_transformer.viz.tensor_pictures import draw_broadcast, draw_memory

COURSE = Path(__file__).resolve().parents[1] / "course"


def memory() -> Figure:
    """Return a table and its transpose, with the memory that both look at."""
    table = torch.arange(12).view(3, 4)
    return draw_memory([("table", table), ("table.T", table.T)])


def broadcast() -> Figure:
    """Return a column and a row, and the table of their sums."""
    return draw_broadcast(torch.tensor([[0], [4], [1]]), torch.arange(4))


def weights() -> Figure:
    """Return the weights of the worked example in the theory, without and with a mask."""
    q = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    k = torch.tensor([[1.0, 1.0], [0.0, 2.0], [3.0, 0.0]])
    everything = torch.softmax(q @ k.T / math.sqrt(2), dim=-1)
    _, causal = explicit_attention(q[None, None], k[None, None], k[None, None])
    panels = [("without a mask", everything), ("with the causal mask", causal[0, 0])]
    return draw_weights(panels, ["token 0", "token 1", "token 2"])


def masks() -> Figure:
    """Return two masks over six keys, and one that is wrong."""
    words = ["the", "cat", "sat", "on", "the", "mat"]
    padded = causal_mask(6, 6) & torch.tensor([True] * 4 + [False] * 2)
    ahead = torch.ones(6, 6).bool().tril(1)
    panels = [("causal", causal_mask(6, 6)), ("causal, the last two keys are padding", padded),
              ("a mistake: sees the next token", ahead)]  # fmt: skip
    return draw_weights(panels, words)


FIGURES: dict[str, Callable[[], Figure]] = {
    "00_setup/figures/memory.svg": memory,
    "00_setup/figures/broadcast.svg": broadcast,
    "01_attention/figures/weights.svg": weights,
    "01_attention/figures/masks.svg": masks,
    "01_attention/figures/temperature.svg": lambda: draw_temperatures(
        torch.tensor([0.0, 1.0, 2.0, 3.0]), (0.25, 1, 4)
    ),
    "01_attention/figures/saturation.svg": lambda: draw_saturation((1, 4, 16, 64, 256)),
    "01_attention/figures/cost.svg": lambda: draw_cost(256, 256, 4096),
}


def main() -> None:
    """Write every picture."""
    for name, draw in FIGURES.items():
        print(save_figure(draw(), COURSE / name))


if __name__ == "__main__":
    main()
