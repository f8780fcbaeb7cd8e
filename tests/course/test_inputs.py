"""Numbers that tests and probes draw, and gradients compared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tiny_transformer.course.expect import Mismatch, expect_gradients
from tiny_transformer.course.inputs import changed, draw


def test_drawn_numbers_are_equal_and_new_each_time() -> None:
    first, second = draw(2, 3, seed=1), draw(2, 3, seed=1)
    first.zero_()
    assert torch.equal(draw(2, 3, seed=1), second)
    assert not torch.equal(draw(2, 3, seed=2), second)
    assert draw(2, dtype=torch.float64).dtype == torch.float64
    assert changed(lambda a, b: a.add_(b), draw(2), draw(2, seed=1)) == [True, False]


def square(x: Tensor) -> Tensor:
    return x * x


@pytest.mark.requirement("course.expect")
def test_gradients_are_compared_and_missed() -> None:
    x = [draw(3, 2, dtype=torch.float64)]
    expect_gradients(lambda x: x.pow(2), square, x, "square")
    with pytest.raises(Mismatch, match="the gradient of square by input 0 differs"):
        expect_gradients(lambda x: x * x.detach(), square, x, "square")
    with pytest.raises(Mismatch, match="No gradient flows back through square"):
        expect_gradients(lambda x: square(x).detach(), square, x, "square")
    two = [draw(2, dtype=torch.float64), draw(2, seed=1, dtype=torch.float64)]
    with pytest.raises(Mismatch, match="No gradient of sum reaches input 1"):
        expect_gradients(lambda a, b: a + b.detach(), lambda a, b: a + b, two, "sum")
    assert not x[0].requires_grad
