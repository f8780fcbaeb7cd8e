"""Draw the pictures of the course's pages.

    python tools/course_figures.py

Each is written to `course/NN_name/figures/`; the pages show it where a reader has no notebook.
Equal code writes equal bytes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.depth import Placement, build_stack, direct_path, measure_depth
from tiny_transformer.model.attention import causal_mask, explicit_attention
from tiny_transformer.model.positional import rotary_angles, sinusoidal_table
from tiny_transformer.viz.attention_pictures import (
    draw_cost,
    draw_saturation,
    draw_temperatures,
    draw_weights,
)
from tiny_transformer.viz.block_pictures import (
    draw_bends,
    draw_blocks,
    draw_depth,
    draw_shared_statistics,
)
from tiny_transformer.viz.head_pictures import draw_groups, draw_split
from tiny_transformer.viz.memory import estimate_memory
from tiny_transformer.viz.model_pictures import (
    draw_forward_pass,
    draw_initial_loss,
    draw_memory_use,
    draw_parameters,
)
from tiny_transformer.viz.plots import save_figure
from tiny_transformer.viz.position_pictures import draw_by_distance, draw_heat, draw_turns
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


def code() -> Figure:
    """Return the sinusoidal code of 100 positions, in two widths."""
    panels = [(f"{width} channels", sinusoidal_table(100, width)) for width in (64, 16)]
    return draw_heat(panels, "position", "channel")


def shift() -> Figure:
    """Return the matrices that move a sinusoidal code of 12 channels by 1, 3 and 10 positions."""
    panels = []
    for offset in (1, 3, 10):
        angles = rotary_angles(torch.tensor([offset]), 12)[0].tolist()
        turns = [[[math.cos(b), math.sin(b)], [-math.sin(b), math.cos(b)]] for b in angles]
        panels.append((f"moves by {offset}", torch.block_diag(*map(torch.tensor, turns))))
    return draw_heat(panels, "channel after", "channel before")


def likeness() -> Figure:
    """Return the dot products of codes by distance: sinusoidal of two widths, and random."""
    random = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
    return draw_by_distance(
        [("sinusoidal, 64 channels", sinusoidal_table(128, 64)),
         ("sinusoidal, 8 channels", sinusoidal_table(128, 8)),
         ("learned, before it has learned", random)],
        around=64,
    )  # fmt: skip


def turning() -> Figure:
    """Return pairs of channels at several positions, and a query and a key two positions apart."""
    fast = [(str(p), 1.0 * p, 0) for p in range(6)]
    slow = [(str(p), 0.1 * p, 0) for p in range(6)]
    panels = [("a fast pair, positions 0 to 5", fast), ("a slow pair, positions 0 to 5", slow)]
    for m, n in [(3, 1), (6, 4)]:
        pair = [(f"q at {m}", 0.4 * m + 0.2, 0), (f"k at {n}", 0.4 * n + 1.5, 1)]
        panels.append((f"query at {m}, key at {n}", pair))
    return draw_turns(panels)


def one_or_two_heads() -> Figure:
    """Return what one head must do to look in two places, and what two heads do."""
    words = ["the", "dog", "bit", "the", "man"]
    eye = torch.eye(5)
    first, previous = eye[:1].expand(5, 5), eye[[0, 0, 1, 2, 3]]
    panels = [
        ("one head", (first + previous) / 2),
        ("head 0: the first", first),
        ("head 1: the one before", previous),
    ]
    return draw_weights(panels, words)


def parameters() -> Figure:
    """Return where the parameters are, by width and by depth, for 99 tokens and for 50,257."""
    widths, depths = (32, 64, 128, 256, 512, 1024), (1, 2, 4, 8, 16, 32)
    base = ModelConfig()
    wide = {str(w): dataclasses.replace(base, d_model=w) for w in widths}
    deep = {str(n): dataclasses.replace(base, n_layers=n) for n in depths}
    large = {name: dataclasses.replace(c, vocab_size=50_257) for name, c in wide.items()}
    return draw_parameters(
        [("by width, 4 layers, 99 tokens", wide), ("by depth, 256 wide, 99 tokens", deep),
         ("by width, 4 layers, 50,257 tokens", large)]
    )  # fmt: skip


def memory_use() -> Figure:
    """Return what training the base model holds in memory, by the size of the batch."""
    config = dataclasses.replace(ModelConfig(), dropout=0.0)
    return draw_memory_use(
        {f"batch {n}": estimate_memory(config, batch_size=n) for n in (1, 2, 4, 8, 16)}
    )


def stream() -> Figure:
    """Return the deviation of a Pre-LN stream along 48 blocks, plain and scaled."""
    plain, scaled = (measure_depth(build_stack(48, scaled=each)).stream for each in (False, True))
    curves = {"plain": plain, "scaled by 1 / √(2 L)": scaled}
    return draw_depth([("deviation of the stream", curves)], xlabel="blocks passed", log=False)


def gradients() -> Figure:
    """Return streams and gradients at each place of 48 blocks, for three places of the norms."""
    names: dict[str, Placement] = {"Pre-LN": "pre", "Post-LN": "post", "no norms": "none"}
    stacks = {label: build_stack(48, each) for label, each in names.items()}
    whole = {label: measure_depth(stack) for label, stack in stacks.items()}
    direct = {label: measure_depth(direct_path(stack)) for label, stack in stacks.items()}
    two = ("Pre-LN", "Post-LN")  # without norms, gradients leave the picture
    return draw_depth(
        [
            ("deviation of the stream", {label: m.stream for label, m in whole.items()}),
            ("norm of the gradient", {label: whole[label].gradients for label in two}),
            ("... by the stream alone", {label: direct[label].gradients for label in two}),
        ],
        xlabel="blocks passed",
    )


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
    "02_multi_head/figures/patterns.svg": one_or_two_heads,
    "02_multi_head/figures/split.svg": lambda: draw_split(3, 2, 2),
    "02_multi_head/figures/groups.svg": lambda: draw_groups(6, (6, 3, 1)),
    "03_transformer_block/figures/blocks.svg": draw_blocks,
    "03_transformer_block/figures/bends.svg": draw_bends,
    "03_transformer_block/figures/statistics.svg": draw_shared_statistics,
    "03_transformer_block/figures/stream.svg": stream,
    "03_transformer_block/figures/gradients.svg": gradients,
    "04_embeddings/figures/code.svg": code,
    "04_embeddings/figures/shift.svg": shift,
    "04_embeddings/figures/likeness.svg": likeness,
    "04_embeddings/figures/turning.svg": turning,
    "05_full_model/figures/forward.svg": lambda: draw_forward_pass(ModelConfig()),
    "05_full_model/figures/first_loss.svg": lambda: draw_initial_loss(
        99, tuple(i / 4 for i in range(13))
    ),
    "05_full_model/figures/parameters.svg": parameters,
    "05_full_model/figures/memory.svg": memory_use,
}


def main() -> None:
    """Write every picture."""
    for name, draw in FIGURES.items():
        print(save_figure(draw(), COURSE / name))


if __name__ == "__main__":
    main()
