"""The loss: cross-entropy by an independent formula, and its refusals."""

from __future__ import annotations

import math

import pytest
import torch
from tests.model.architectures import largest_difference

from tiny_transformer.model.loss import compute_loss
from tiny_transformer.runtime.errors import ConfigError

pytestmark = pytest.mark.requirement("training.loss")


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    return scale * torch.randn(shape, generator=draws, dtype=torch.float64)


TARGETS = torch.tensor([[0, 3, 6], [1, 1, 5]])


def by_hand(logits: torch.Tensor) -> list[float]:
    """-log softmax at each target, in plain Python numbers."""
    losses = []
    for row, targets in zip(logits.tolist(), TARGETS.tolist(), strict=True):
        for scores, target in zip(row, targets, strict=True):
            total = sum(math.exp(score) for score in scores)
            losses.append(-math.log(math.exp(scores[target]) / total))
    return losses


def test_the_loss_is_the_mean_negative_log_probability_of_the_targets() -> None:
    logits = draw(2, 3, 7, scale=3.0)
    losses = by_hand(logits)
    assert abs(compute_loss(logits, TARGETS).item() - sum(losses) / 6) < 1e-12
    assert abs(compute_loss(logits, TARGETS, reduction="sum").item() - sum(losses)) < 1e-12


def test_its_gradient_is_probability_minus_one_hot() -> None:
    logits = draw(2, 3, 7).requires_grad_()
    compute_loss(logits, TARGETS).backward()
    expected = logits.detach().softmax(-1)
    expected = (expected - torch.nn.functional.one_hot(TARGETS, 7)) / 6
    assert logits.grad is not None
    assert largest_difference(logits.grad, expected) < 1e-12


def test_it_is_a_float32_scalar_and_log_v_for_equal_logits() -> None:
    loss = compute_loss(torch.zeros(2, 3, 7), TARGETS)
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert abs(loss.item() - math.log(7)) < 1e-6


@pytest.mark.requirement("model.no-nan")
def test_extreme_logits_give_a_finite_loss_and_gradient() -> None:
    for scale in (1e4, 1e30):
        logits = draw(2, 3, 7, scale=scale).float().requires_grad_()
        loss = compute_loss(logits, TARGETS)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (6,), (2, 3, 1), (3, 2)])
def test_targets_of_another_shape_are_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        compute_loss(draw(2, 3, 7), torch.zeros(shape, dtype=torch.int64))
    for text in ("(2, 3, 7)", "(2, 3)", str(shape)):
        assert text in str(caught.value)
