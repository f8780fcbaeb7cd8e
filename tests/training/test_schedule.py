"""The learning rate at every step: formulas, edges, bounds."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.config import ScheduleConfig
from tiny_transformer.training.schedule import learning_rate_scale

pytestmark = pytest.mark.requirement("training.schedules")

Name = Literal["constant", "cosine", "linear"]
NAMES: list[Name] = ["constant", "cosine", "linear"]


def scales(name: Name, warmup: int, max_steps: int, final: float = 0.1, more: int = 5):
    config = ScheduleConfig(name=name, warmup_steps=warmup, final_fraction=final)
    return [learning_rate_scale(step, config, max_steps) for step in range(max_steps + more)]


def test_the_default_is_constant_from_the_first_update() -> None:
    assert ScheduleConfig().name == "constant"
    assert [learning_rate_scale(s, ScheduleConfig(), 4) for s in range(9)] == [1.0] * 9


def test_linear_falls_in_equal_parts_to_the_final_fraction_and_stays() -> None:
    assert scales("linear", 0, 4, 0.2) == pytest.approx([0.8, 0.6, 0.4, 0.2] + [0.2] * 5)


def test_cosine_falls_along_half_a_cosine_to_the_final_fraction_and_stays() -> None:
    half = math.sqrt(0.5)
    expected = [(1 + half) / 2, 0.5, (1 - half) / 2, 0, 0, 0, 0, 0, 0]
    assert scales("cosine", 0, 4, 0.0) == pytest.approx(expected)
    assert scales("cosine", 0, 4, 0.2) == pytest.approx([0.2 + 0.8 * x for x in expected])


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_rises_in_equal_parts_to_one_at_its_last_update(name: Name) -> None:
    found = scales(name, 4, 10)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_first_update_is_never_wasted(name: Name) -> None:
    for warmup in range(8):
        assert scales(name, warmup, 8)[0] > 0


@pytest.mark.parametrize(("name", "end"), [("constant", 1.0), ("cosine", 0.1), ("linear", 0.1)])
def test_warm_up_as_long_as_the_run_reaches_the_peak_at_its_last_update(
    name: Name, end: float
) -> None:
    expected = [0.2, 0.4, 0.6, 0.8, 1.0]
    assert scales(name, 5, 5, more=0) == pytest.approx(expected)
    assert scales(name, 5, 5)[5:] == pytest.approx([end] * 5)


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_longer_than_the_run_goes_on_rising(name: Name) -> None:
    assert scales(name, 10, 5) == pytest.approx([step / 10 for step in range(1, 11)])


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_the_last_update_has_the_final_fraction(name: Name) -> None:
    for max_steps in (1, 2, 7, 100):
        for warmup in range(0, max_steps, 3):
            assert scales(name, warmup, max_steps, 0.25)[max_steps - 1] == pytest.approx(0.25), (
                max_steps,
                warmup,
            )


@given(
    name=st.sampled_from(NAMES),
    warmup=st.integers(0, 60),
    max_steps=st.integers(1, 50),
    final=st.floats(0, 1),
)
def test_every_schedule_rises_then_falls_between_zero_and_one(
    name: Name, warmup: int, max_steps: int, final: float
) -> None:
    found = scales(name, warmup, max_steps, final, more=warmup + 10)
    assert all(0 <= scale <= 1 + 1e-12 for scale in found)
    rising, falling = found[:warmup], found[max(0, warmup - 1) :]
    assert all(a < b for a, b in itertools.pairwise(rising))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(falling))
    if name != "constant":
        assert min(found[warmup:], default=final) >= final - 1e-12


def test_a_scale_depends_on_the_step_alone() -> None:
    config = ScheduleConfig(name="cosine", warmup_steps=3)
    forwards = [learning_rate_scale(step, config, 20) for step in range(20)]
    backwards = [learning_rate_scale(step, config, 20) for step in reversed(range(20))]
    assert forwards == backwards[::-1]
