"""Strategies beside Hugging Face's logits processors, on random logits; and what they promise.

The last tests draw from each strategy and hold the counts against the distribution that its
paper states, worked out by hand; a wrong variant of each strategy must fail there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tiny_transformer.config import SamplingConfig
from tiny_transformer.sampling import strategies
from tiny_transformer.sampling.strategies import (
    Counts,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token_probabilities,
    penalize_counts,
    penalize_repetition,
)

pytestmark = pytest.mark.requirement("generate.strategies")

INF = float("inf")
B, V = 6, 40


def random_logits(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, V, generator=generator, dtype=torch.float64) * (1 + seed % 4)


def random_ids(seed: int, length: int = 12) -> Any:
    return torch.randint(0, V, (B, length), generator=torch.Generator().manual_seed(seed))


def counted(ids: Tensor) -> Tensor:
    return torch.stack([torch.bincount(row, minlength=V) for row in ids])


@pytest.mark.parametrize("seed", range(8))
def test_each_strategy_gives_what_transformers_gives(seed: int) -> None:
    logits, ids = random_logits(seed), random_ids(seed)
    for k in (1, 3, V, V + 5):
        assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(ids, logits))
    for p in (0.03, 0.5, 0.9, 0.999):
        assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(ids, logits))
        assert torch.equal(keep_min_p(logits, p), MinPLogitsWarper(p)(ids, logits))
    for penalty in (0.5, 1.0, 1.3):
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
        assert torch.equal(penalize_repetition(logits, counted(ids), penalty), theirs)


@pytest.mark.parametrize("seed", range(8))
def test_together_they_are_applied_in_the_order_of_transformers(seed: int) -> None:
    logits, ids = random_logits(seed), random_ids(seed)
    config = SamplingConfig(
        repetition_penalty=1.3, temperature=0.7, top_k=20, top_p=0.8, min_p=0.05
    )
    theirs = logits
    for process in (
        RepetitionPenaltyLogitsProcessor(1.3),
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(20),
        TopPLogitsWarper(0.8),
        MinPLogitsWarper(0.05),
    ):
        theirs = process(ids, theirs)
    counts = Counts(counted(ids[:, :5]), counted(ids[:, 5:]))
    found = next_token_probabilities(logits, config, counts=counts)
    torch.testing.assert_close(found, theirs.softmax(-1), rtol=0, atol=1e-12)


def test_presence_counts_once_and_frequency_each_time() -> None:
    counts = torch.tensor([[0, 1, 3]])
    logits = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    found = penalize_counts(logits, counts, presence=0.5, frequency=0.25)
    assert found.tolist() == [[1.0, 0.25, -0.25]]
    prompt_only = Counts(counts, torch.zeros_like(counts))
    config = SamplingConfig(presence_penalty=9.0, frequency_penalty=9.0)
    found = next_token_probabilities(logits, config, counts=prompt_only)
    assert found.tolist() == [pytest.approx([1 / 3] * 3)]  # the prompt does not count


def test_penalties_without_counts_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="counts"):
        next_token_probabilities(torch.zeros(1, 3), SamplingConfig(presence_penalty=1.0))


@pytest.mark.parametrize("p", [0.0, 1e-300, 0.5, 1.0])
def test_min_p_keeps_the_likeliest_and_its_equals(p: float) -> None:
    logits = torch.tensor([[2.0, -INF, 2.0, -800.0], [-INF, 3.0, -INF, -INF]])
    kept = (keep_min_p(logits, p) > -INF).tolist()
    assert kept[0] == [True, False, True, p == 0.0]
    assert kept[1] == [False, True, False, False]


# What is promised, by the formulas, for these odds

ODDS = [0.4, 0.25, 0.2, 0.1, 0.05]
OCCURRED = [1, 0, 2, 0, 0]


def normalised(weights: list[float]) -> list[float]:
    return [w / sum(weights) for w in weights]


def wrong_top_k(logits: Tensor, k: int) -> Tensor:
    return keep_top_k(logits, k + 1)


def wrong_top_p(logits: Tensor, p: float) -> Tensor:
    """Leave out the token that reaches p."""
    ordered, order = logits.softmax(-1).sort(dim=-1, descending=True)
    late = ordered.cumsum(-1) > p
    return logits.masked_fill(torch.zeros_like(late).scatter_(-1, order, late), -INF)


def wrong_min_p(logits: Tensor, p: float) -> Tensor:
    """Compare with p itself, not with p times the largest."""
    return logits.masked_fill(logits.softmax(-1) < p, -INF)


def wrong_repetition(logits: Tensor, counts: Tensor, penalty: float) -> Tensor:
    """Divide negative logits too, which favours what occurred."""
    return torch.where(counts > 0, logits / penalty, logits)


def wrong_counts(logits: Tensor, counts: Tensor, *, presence: float, frequency: float) -> Tensor:
    """Subtract the frequency once."""
    return logits - (presence + frequency) * (counts > 0)


PROMISES: list[tuple[dict[str, Any], list[float], str, Callable[..., Tensor]]] = [
    ({"top_k": 2}, normalised([0.4, 0.25, 0, 0, 0]), "keep_top_k", wrong_top_k),
    ({"top_p": 0.7}, normalised([0.4, 0.25, 0.2, 0, 0]), "keep_top_p", wrong_top_p),
    ({"min_p": 0.3}, normalised([0.4, 0.25, 0.2, 0, 0]), "keep_min_p", wrong_min_p),
    (
        # Logits are logarithms of the odds, all negative: multiplied by 2, the odds are squared.
        {"repetition_penalty": 2.0},
        normalised([0.16, 0.25, 0.04, 0.1, 0.05]),
        "penalize_repetition",
        wrong_repetition,
    ),
    (
        {"frequency_penalty": 0.6931471805599453, "presence_penalty": 0.6931471805599453},
        normalised([0.1, 0.25, 0.025, 0.1, 0.05]),
        "penalize_counts",
        wrong_counts,
    ),
]


def statistic(config: SamplingConfig, promised: list[float], n: int = 20_000) -> float:
    """Draw n tokens; return Pearson's chi-square against what is promised."""
    logits = torch.tensor([ODDS], dtype=torch.float64).log()
    occurred = torch.tensor([OCCURRED])
    counts = Counts(torch.zeros_like(occurred), occurred)
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    probabilities = next_token_probabilities(logits, config, counts=counts)
    found = torch.bincount(draw(probabilities.expand(n, -1), uniforms), minlength=len(ODDS))
    expected = torch.tensor(promised, dtype=torch.float64) * n
    if (found[expected == 0] > 0).any():
        return INF
    possible = expected > 0
    return ((found - expected)[possible] ** 2 / expected[possible]).sum().item()


@pytest.mark.parametrize(("settings", "promised", "name", "wrong"), PROMISES)
def test_tokens_come_as_often_as_the_paper_says_and_not_with_a_wrong_variant(
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    promised: list[float],
    name: str,
    wrong: Callable[..., Tensor],
) -> None:
    config = SamplingConfig(**settings)
    limit = 18.5  # chi-square of 4 degrees of freedom: exceeded once in a thousand
    assert statistic(config, promised) < limit
    monkeypatch.setattr(strategies, name, wrong)
    assert statistic(config, promised) > limit
