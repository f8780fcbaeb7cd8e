"""Pictures of a whole model: what they show is what was computed."""

from __future__ import annotations

import dataclasses
import math

import pytest
from matplotlib.figure import Figure

from tiny_transformer.config import ModelConfig
from tiny_transformer.viz.memory import estimate_memory, format_bytes
from tiny_transformer.viz.model_pictures import (
    draw_forward_pass,
    draw_initial_loss,
    draw_memory_use,
    draw_parameters,
    measure_initial_loss,
)
from tiny_transformer.viz.parameters import count_parameters

pytestmark = pytest.mark.requirement("viz.model-pictures")
SMALL = ModelConfig(n_layers=3, d_model=32, dropout=0.0)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def heights(figure: Figure) -> list[list[float]]:
    """Return the heights of every stack of bars, part by part."""
    return [
        [bar.get_height() for bar in container]  # pyright: ignore[reportAttributeAccessIssue]
        for axes in figure.axes
        for container in axes.containers
    ]


def test_the_forward_pass_has_its_parts_its_blocks_and_its_tie() -> None:
    shown = texts(draw_forward_pass(SMALL))
    assert {"norm1", "attention", "norm2", "mlp", "final_norm", "lm_head"} <= set(shown)
    assert "block, 3 times" in shown
    assert "one table, (V, C)" in shown
    untied = texts(draw_forward_pass(dataclasses.replace(SMALL, tie_weights=False, n_layers=1)))
    assert "one table, (V, C)" not in untied
    assert "1 block" in untied


def test_shares_of_parameters_are_those_that_are_counted() -> None:
    wide = dataclasses.replace(SMALL, d_model=64, tie_weights=False)
    figure = draw_parameters([("two models", {"32": SMALL, "64": wide})])
    stacks = heights(figure)
    counts = [count_parameters(config) for config in (SMALL, wide)]
    fields = ("token_embedding", "positions", "attention", "mlp", "norms", "output_head")
    wanted = [[100 * getattr(c, field) / c.total for c in counts] for field in fields]
    assert stacks == [pytest.approx(each) for each in wanted]
    assert [sum(stack[i] for stack in stacks) for i in (0, 1)] == pytest.approx([100, 100])
    assert len(heights(draw_parameters([("one", {"32": SMALL})]))) == 5  # no head of its own


def test_bars_of_memory_are_what_is_estimated() -> None:
    estimates = {str(n): estimate_memory(SMALL, batch_size=n) for n in (1, 4)}
    figure = draw_memory_use(estimates)
    totals = [sum(stack[i] for stack in heights(figure)) for i in (0, 1)]
    assert totals == pytest.approx([e.total / 2**20 for e in estimates.values()])
    assert texts(figure) == [format_bytes(e.total) for e in estimates.values()]


def test_the_first_loss_is_measured_as_the_theory_says() -> None:
    assert measure_initial_loss(99, 0.0) == pytest.approx(math.log(99))
    assert measure_initial_loss(99, 1.0) == pytest.approx(math.log(99) + 0.5, abs=0.05)
    axes = draw_initial_loss(99, (0.0, 0.5, 1.0)).axes[0]
    by_name = {str(line.get_label()): line for line in axes.lines}
    formula, measured = by_name["log V + s² / 2"], by_name["measured"]
    assert list(formula.get_ydata()) == pytest.approx(list(measured.get_ydata()), abs=0.05)  # pyright: ignore[reportArgumentType]
