"""From logits to a token: each strategy against a formula written another way."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.runtime.errors import DivergedError
from tiny_transformer.sampling.strategies import (
    draw,
    forbid,
    keep_top_k,
    keep_top_p,
    next_token_probabilities,
)

INF = float("inf")
# Few distinct values, so that ties are common; sums of their softmax are never on an edge
# of p by accident of rounding, because p is drawn with other digits.
ROWS = st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12)


def softmax(row: list[float]) -> list[float]:
    largest = max(row)
    weights = [math.exp(x - largest) for x in row]
    return [w / math.fsum(weights) for w in weights]


def likeliest_first(row: list[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda i: (-row[i], i))


def kept(logits: Tensor) -> list[set[int]]:
    return [{i for i, x in enumerate(row) if x != -INF} for row in logits.tolist()]


@given(row=ROWS, k=st.integers(1, 15))
@pytest.mark.requirement("generate.options")
def test_top_k_keeps_the_k_likeliest_and_of_equal_ones_the_lower_ids(
    row: list[float], k: int
) -> None:
    result = keep_top_k(torch.tensor([row]), k)
    assert kept(result) == [set(likeliest_first(row)[:k])]
    for index in kept(result)[0]:
        assert result[0, index].item() == row[index]


@given(row=ROWS, p=st.floats(0.0017, 0.9983))
@pytest.mark.requirement("generate.options")
def test_top_p_keeps_the_smallest_set_of_likeliest_that_reaches_p(
    row: list[float], p: float
) -> None:
    probabilities, order = softmax(row), likeliest_first(row)
    sums = [math.fsum(probabilities[i] for i in order[: n + 1]) for n in range(len(row))]
    if min(abs(total - p) for total in sums) < 1e-9:
        return  # on the edge either answer is right
    size = next((n + 1 for n, total in enumerate(sums) if total >= p), len(row))
    result = keep_top_p(torch.tensor([row], dtype=torch.float64), p)
    assert kept(result) == [set(order[:size])]
    for index in kept(result)[0]:
        assert result[0, index].item() == row[index]


def test_top_p_stops_exactly_where_the_sum_is_p() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    assert kept(keep_top_p(logits, 0.75)) == [{0, 1}]
    assert kept(keep_top_p(logits, 0.7500001)) == [{0, 1, 2}]


def test_top_p_of_one_keeps_everything_and_a_tiny_p_the_likeliest() -> None:
    logits = torch.tensor([[-1000.0, 0.0, 3.0, 3.0]])
    assert torch.equal(keep_top_p(logits, 1.0), logits)
    for p in (1e-12, 0.0):
        assert kept(keep_top_p(logits, p)) == [{2}]


def test_each_row_of_a_batch_is_cut_on_its_own() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 9.0]])
    assert kept(keep_top_k(logits, 1)) == [{0}, {2}]
    assert kept(keep_top_p(logits, 0.9)) == [{0, 1}, {2}]


def test_forbidden_tokens_get_probability_zero_and_no_others_change() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    result = forbid(logits, (0, 2))
    assert kept(result) == [{1, 3}, {1, 3}]
    assert torch.equal(result[:, [1, 3]], logits[:, [1, 3]])
    assert torch.equal(forbid(logits, ()), logits)
    assert logits[0, 0] == 1.0


@given(
    row=st.lists(st.floats(-20, 20), min_size=2, max_size=10),
    temperature=st.floats(0.05, 20),
)
@pytest.mark.requirement("generate.options")
def test_temperature_divides_the_logits(row: list[float], temperature: float) -> None:
    config = SamplingConfig(temperature=temperature)
    found = next_token_probabilities(torch.tensor([row], dtype=torch.float64), config)
    expected = softmax([x / temperature for x in row])
    assert found.dtype == torch.float64
    assert found[0].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.requirement("generate.options")
def test_temperature_zero_takes_the_likeliest_and_the_lowest_id_of_equals() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 2.0], [7.0, 5.0, 5.0, 7.0]])
    for config in (
        SamplingConfig(temperature=0),
        SamplingConfig(temperature=0, top_k=3),
        SamplingConfig(temperature=0, top_p=0.4),
    ):
        assert next_token_probabilities(logits, config).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


def test_temperature_zero_respects_what_is_forbidden() -> None:
    logits = torch.tensor([[9.0, 8.0, 1.0]])
    found = next_token_probabilities(logits, SamplingConfig(temperature=0), forbidden=(0, 1))
    assert found.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-8, 1e300])
def test_extreme_temperatures_give_a_distribution(temperature: float) -> None:
    logits = torch.tensor([[1e30, -1e30, 0.0], [2.0, 1.0, 2.0]])
    found = next_token_probabilities(logits, SamplingConfig(temperature=temperature))
    assert torch.isfinite(found).all()
    assert found.sum(dim=-1).tolist() == pytest.approx([1, 1])
    assert found.argmax(dim=-1).tolist() == [0, 0]


@pytest.mark.requirement("generate.options")
def test_the_order_is_forbidden_temperature_top_k_top_p() -> None:
    probabilities = [0.4, 0.3, 0.15, 0.1, 0.05]
    logits = torch.tensor([probabilities], dtype=torch.float64).log()
    # Without token 0, halving the temperature squares: 0.09, 0.0225, 0.01, 0.0025. The three
    # likeliest sum to 0.1225, of which the first is 73 % and the first two 92 %.
    config = SamplingConfig(temperature=0.5, top_k=3, top_p=0.8)
    found = next_token_probabilities(logits, config, forbidden=(0,))
    assert found[0].tolist() == pytest.approx([0, 0.8, 0.2, 0, 0], abs=1e-12)
    # A wider p takes the third, and top-k has cut the fourth.
    config = SamplingConfig(temperature=0.5, top_k=3, top_p=0.95)
    found = next_token_probabilities(logits, config, forbidden=(0,))
    expected = [0, 0.09 / 0.1225, 0.0225 / 0.1225, 0.01 / 0.1225, 0]
    assert found[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_default_is_pure_multinomial_sampling() -> None:
    logits = torch.tensor([[0.3, -2.0, 1.7, 0.0]], dtype=torch.float64)
    found = next_token_probabilities(logits, SamplingConfig())
    assert found[0].tolist() == pytest.approx(softmax(logits[0].tolist()), abs=1e-15)


def test_the_only_token_left_has_probability_one() -> None:
    logits = torch.tensor([[5.0, -3.0, 2.0]])
    for config in (
        SamplingConfig(top_k=1),
        SamplingConfig(top_p=1e-9),
        SamplingConfig(temperature=0),
        SamplingConfig(),
    ):
        found = next_token_probabilities(logits, config, forbidden=(0, 2))
        assert found.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("bad", [float("nan"), INF])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_logit_that_is_not_finite_is_refused_in_any_row(bad: float, temperature: float) -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    with pytest.raises(DivergedError, match="not finite"):
        next_token_probabilities(logits, SamplingConfig(temperature=temperature))


def test_all_tokens_forbidden_is_refused() -> None:
    with pytest.raises(DivergedError):
        next_token_probabilities(torch.zeros(1, 3), SamplingConfig(), forbidden=(0, 1, 2))


def test_the_given_logits_are_not_changed() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    before = logits.clone()
    config = SamplingConfig(temperature=0.5, top_k=2, top_p=0.5)
    next_token_probabilities(logits, config, forbidden=(0,))
    assert torch.equal(logits, before)


# Drawing

PROMISED = [0.0, 0.5, 0.0, 0.3, 0.15, 0.05, 0.0]


def chi_square(counts: Tensor, probabilities: list[float]) -> float:
    """Return Pearson's statistic over the tokens that can occur; others must not."""
    n, total = int(counts.sum()), 0.0
    for count, probability in zip(counts.tolist(), probabilities, strict=True):
        if probability == 0:
            if count:
                return INF
        else:
            total += (count - n * probability) ** 2 / (n * probability)
    return total


def biased_draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw as `draw` does, but with a tenth of the first token's share given to the next."""
    wrong = probabilities.clone()
    wrong[:, 1] *= 0.9
    wrong[:, 3] += probabilities[:, 1] * 0.1
    return draw(wrong, uniforms)


def off_by_one_draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    return (draw(probabilities, uniforms) + 1) % probabilities.shape[-1]


@pytest.mark.requirement("generate.options")
@pytest.mark.parametrize(
    ("function", "accepted"), [(draw, True), (biased_draw, False), (off_by_one_draw, False)]
)
def test_tokens_are_drawn_as_often_as_promised(
    function: Callable[[Tensor, Tensor], Tensor], accepted: bool
) -> None:
    n = 20_000
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows = torch.tensor([PROMISED], dtype=torch.float64).expand(n, -1)
    counts = torch.bincount(function(rows, uniforms), minlength=len(PROMISED))
    # 3 degrees of freedom: the statistic exceeds 16.27 once in a thousand right draws.
    assert (chi_square(counts, PROMISED) < 16.27) == accepted


@given(
    weights=st.lists(st.sampled_from([0.0, 1.0, 2.0, 1e-9]), min_size=1, max_size=9).filter(sum),
    uniform=st.one_of(
        st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, math.nextafter(1, 0)])
    ),
)
def test_a_token_of_probability_zero_is_never_drawn(weights: list[float], uniform: float) -> None:
    probabilities = torch.tensor([weights], dtype=torch.float64) / math.fsum(weights)
    index = int(draw(probabilities, torch.tensor([uniform], dtype=torch.float64)))
    assert weights[index] > 0


def test_a_draw_inverts_the_cumulative_distribution() -> None:
    probabilities = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).expand(5, -1)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75], dtype=torch.float64)
    assert draw(probabilities, uniforms).tolist() == [0, 0, 1, 1, 2]


def test_a_sum_that_rounding_left_beside_one_changes_no_odds_and_is_never_overrun() -> None:
    rows = torch.tensor([[0.125, 0.375, 0.0]], dtype=torch.float64).expand(4, -1)
    uniforms = torch.tensor([0.2, 0.3, math.nextafter(1, 0), 1.0], dtype=torch.float64)
    assert draw(rows, uniforms).tolist() == [0, 1, 1, 1]


def test_a_row_is_drawn_the_same_alone_and_in_a_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.rand(50, 20, generator=generator, dtype=torch.float64).softmax(-1)
    uniforms = torch.rand(50, generator=generator, dtype=torch.float64)
    together = draw(rows, uniforms).tolist()
    assert together == [int(draw(rows[i : i + 1], uniforms[i : i + 1])) for i in range(50)]
