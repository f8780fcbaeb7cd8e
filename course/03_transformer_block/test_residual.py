"""Module 03, what is promised: residuals, norms before and after, and gradients at depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from my_transformer import transformer_block
from torch import Tensor, nn

from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_gradients,
    expect_raises,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw


class Counted:
    """A part that counts how often it is called, and remembers with what."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.inputs: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.inputs.append(x.clone())
        return self.function(x)


def expect_called(part: Counted, wanted: Tensor, what: str, dims: str = "") -> None:
    """Ask that a part was called once, with what it should read."""
    n = len(part.inputs)
    expect(n == 1, f"{what} was called {n} times: once is enough.")
    expect_equal(part.inputs[0], wanted, f"what {what} reads", dims=dims)


# add_residual


def test_add_residual__adds_what_the_part_returns():
    got = transformer_block.add_residual(torch.tensor([1.0, 2.0]), lambda x: 10 * x)
    expect_equal(got, torch.tensor([11.0, 22.0]), "add_residual([1, 2], 10 x)", dims="C")
    got = transformer_block.add_residual(torch.tensor([3.0, 4.0]), lambda x: x * x - 1)
    expect_equal(got, torch.tensor([11.0, 19.0]), "add_residual([3, 4], x² - 1)", dims="C")


def test_add_residual__leaves_the_stream_as_it_is_where_a_part_adds_nothing():
    x = draw(2, 3, 4)
    got = transformer_block.add_residual(x.clone(), torch.zeros_like)
    expect_equal(got, x, "add_residual with a part that answers zeros", dims="B T C")


def test_add_residual__calls_the_part_once_with_the_stream():
    x, part = draw(2, 3, 4), Counted(lambda x: x.flip(-1) + 1)
    got = transformer_block.add_residual(x.clone(), part)
    expect_called(part, x, "the part", "B T C")
    expect_equal(got, x + x.flip(-1) + 1, "add_residual", dims="B T C")


def test_add_residual__keeps_the_dtype_and_its_input():
    for dtype in (torch.float64, torch.bfloat16):
        x = draw(2, 3, 4, dtype=dtype)
        before = x.clone()
        got = transformer_block.add_residual(x, lambda x: 2 * x)
        expect_equal(got, before + 2 * before, f"add_residual in {dtype}", tolerance=1e-6)
        expect_unchanged(before, x, "x")


def test_add_residual__lets_gradients_through_both_ways():
    w = draw(4, 4, seed=2, dtype=torch.float64)
    inputs = [draw(3, 4, dtype=torch.float64)]
    expect_gradients(
        lambda x: transformer_block.add_residual(x, lambda s: torch.tanh(s @ w)),
        lambda x: x + torch.tanh(x @ w),
        inputs,
        "add_residual",
    )


# normalised_residual


def by_ten(x: Tensor) -> Tensor:
    return x / 10


def plus_one(x: Tensor) -> Tensor:
    return x + 1


def test_normalised_residual__normalises_before_the_part_for_pre():
    x = torch.tensor([10.0, 20.0])
    got = transformer_block.normalised_residual(x, plus_one, by_ten, "pre")
    wanted = torch.tensor([12.0, 23.0])
    what = 'normalised_residual([10, 20], x + 1, x / 10, "pre"), 10 + (10 / 10 + 1) and so on,'
    expect_equal(got, wanted, what, dims="C")


def test_normalised_residual__normalises_after_the_sum_for_post():
    x = torch.tensor([10.0, 20.0])
    got = transformer_block.normalised_residual(x, plus_one, by_ten, "post")
    wanted = torch.tensor([2.1, 4.1])
    what = 'normalised_residual([10, 20], x + 1, x / 10, "post"), (10 + 11) / 10 and so on,'
    expect_equal(got, wanted, what, dims="C")


def test_normalised_residual__stands_before_the_part_where_nothing_is_said():
    x = torch.tensor([10.0, 20.0])
    got = transformer_block.normalised_residual(x, plus_one, by_ten)
    expect_equal(got, torch.tensor([12.0, 23.0]), "normalised_residual without placement", dims="C")


def test_normalised_residual__uses_each_once_and_in_its_place():
    x, norm = draw(2, 3, 5), nn.LayerNorm(5)
    with torch.no_grad():
        norm.weight.copy_(draw(5, seed=1))
        norm.bias.copy_(draw(5, seed=2))
        w = draw(5, 5, seed=3)
        normed, both = norm(x), x + torch.tanh(x @ w)
        for placement, read, wanted in [
            ("pre", (normed, x), x + torch.tanh(normed @ w)),
            ("post", (x, both), norm(both)),
        ]:
            part, counted = Counted(lambda s: torch.tanh(s @ w)), Counted(norm)
            got = transformer_block.normalised_residual(x.clone(), part, counted, placement)
            expect_called(part, read[0], f'the part, for "{placement}",', "B T C")
            expect_called(counted, read[1], f'the norm, for "{placement}",', "B T C")
            what = f'normalised_residual with a LayerNorm, "{placement}",'
            expect_equal(got, wanted, what, dims="B T C")


def test_normalised_residual__leaves_the_stream_alone_for_pre():
    x = 100 * draw(2, 3, 4)
    got = transformer_block.normalised_residual(x.clone(), torch.zeros_like, nn.LayerNorm(4), "pre")
    what = 'the output for "pre", where the part answers zeros,'
    expect_equal(got, x, what, dims="B T C", note="No norm stands on the stream itself.")


def test_normalised_residual__refuses_another_placement():
    x = draw(2, 4)
    for placement in ("before", "Pre", "", "postnorm"):
        expect_raises(
            ValueError,
            lambda p=placement: transformer_block.normalised_residual(x, plus_one, by_ten, p),
            f"normalised_residual with the placement {placement!r}",
        )


def test_normalised_residual__keeps_the_dtype_and_its_input():
    for placement in ("pre", "post"):
        for dtype in (torch.float64, torch.bfloat16):
            x = draw(2, 3, 4, dtype=dtype)
            before = x.clone()
            got = transformer_block.normalised_residual(x, plus_one, by_ten, placement)
            expect(got.dtype == dtype, f"The output should be {dtype}, and is {got.dtype}.")
            expect_unchanged(before, x, "x")


def test_normalised_residual__lets_gradients_through():
    w = draw(4, 4, seed=2, dtype=torch.float64)

    def part(s: Tensor) -> Tensor:
        return torch.tanh(s @ w)

    def norm(s: Tensor) -> Tensor:
        return s / (1 + s.square().mean(-1, keepdim=True)).sqrt()

    for placement, wanted in [
        ("pre", lambda x: x + part(norm(x))),
        ("post", lambda x: norm(x + part(x))),
    ]:
        expect_gradients(
            lambda x, p=placement: transformer_block.normalised_residual(x, part, norm, p),
            wanted,
            [draw(3, 4, dtype=torch.float64)],
            f'normalised_residual, "{placement}",',
        )


# gradient_norms


def expect_norms(got: Any, wanted: list[float], what: str, tolerance: float = 1e-5) -> None:
    expect(
        isinstance(got, (list, tuple)) and len(got) == len(wanted),
        f"{what} should be a list of {len(wanted)} numbers, one for each place of the stream, the "
        f"end included; it is {got if not hasattr(got, 'shape') else tuple(got.shape)}.",
    )
    plain = all(isinstance(number, float) for number in got)
    expect(plain, f"{what} should be plain floats: .item() makes one of a tensor.")
    numbers = torch.tensor(got, dtype=torch.float64)
    right = torch.tensor(wanted, dtype=torch.float64)
    expect_equal(numbers, right, what, dims="place", tolerance=tolerance)


def test_gradient_norms__doubles_going_back_through_blocks_that_double():
    blocks = [lambda x: 2 * x, lambda x: 2 * x]
    got = transformer_block.gradient_norms(blocks, torch.ones(2), torch.tensor([3.0, 4.0]))
    expect_norms(got, [20.0, 10.0, 5.0], "gradient_norms of two blocks that double")


def test_gradient_norms__has_the_first_place_first():
    blocks = [lambda x: 10 * x, lambda x: 3 * x, lambda x: x / 2]
    got = transformer_block.gradient_norms(blocks, torch.ones(1, 2), torch.tensor([[0.6, 0.8]]))
    what = "gradient_norms of blocks that multiply by 10, 3 and 1/2"
    expect_norms(got, [15.0, 1.5, 0.5, 1.0], what)


def chain(n: int, width: int = 4) -> tuple[list[Callable[[Tensor], Tensor]], list[Tensor]]:
    matrices = [draw(width, width, seed=50 + i, dtype=torch.float64) for i in range(n)]
    return [lambda x, w=w: x + torch.tanh(x @ w) for w in matrices], matrices


def test_gradient_norms__is_the_root_of_the_sum_of_all_squares():
    blocks, matrices = chain(3)
    x = draw(2, 3, 4, seed=1, dtype=torch.float64)
    back = draw(2, 3, 4, seed=2, dtype=torch.float64)
    stream = [x]
    for w in matrices:
        stream.append(stream[-1] + torch.tanh(stream[-1] @ w))
    got = transformer_block.gradient_norms(blocks, x, back)
    wanted = [math.sqrt(sum(g * g for g in back.flatten().tolist()))]
    for w, at in zip(matrices[::-1], stream[-2::-1], strict=True):
        back = back + ((1 - torch.tanh(at @ w).square()) * back) @ w.T
        wanted.insert(0, math.sqrt(sum(g * g for g in back.flatten().tolist())))
    expect_norms(got, wanted, "gradient_norms of three blocks x + tanh(x w)", 1e-9)


def test_gradient_norms__depends_on_the_gradient_that_arrives():
    blocks, _ = chain(2)
    x, gradient = draw(3, 4, dtype=torch.float64), draw(3, 4, seed=5, dtype=torch.float64)
    one = transformer_block.gradient_norms(blocks, x, gradient)
    three = transformer_block.gradient_norms(blocks, x, 3 * gradient)
    expect_norms(three, [3 * norm for norm in one], "gradient_norms for 3 times the gradient")
    none = transformer_block.gradient_norms(blocks, x, 0 * gradient)
    expect_norms(none, [0.0, 0.0, 0.0], "gradient_norms where no gradient arrives")


def test_gradient_norms__takes_modules_and_no_block_at_all():
    blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)) for _ in range(2))
    x, gradient = draw(3, 4), draw(3, 4, seed=5)
    leaves = [x.clone().requires_grad_()]
    for block in blocks:
        leaves.append(block(leaves[-1]))
    wanted = [g.norm().item() for g in torch.autograd.grad(leaves[-1], leaves, gradient)]
    got = transformer_block.gradient_norms(blocks, x, gradient)
    expect_norms(got, wanted, "gradient_norms of two modules")
    got = transformer_block.gradient_norms([], torch.ones(2), torch.tensor([3.0, 4.0]))
    expect_norms(got, [5.0], "gradient_norms of no block")


def test_gradient_norms__runs_through_each_block_once():
    counted = [Counted(lambda x: 2 * x), Counted(lambda x: x + 1)]
    transformer_block.gradient_norms(counted, torch.ones(3), torch.ones(3))
    for block, reads in zip(counted, (1.0, 2.0), strict=True):
        expect_called(block, torch.full((3,), reads), "a block", "C")


def test_gradient_norms__leaves_gradients_of_parameters_and_of_x_as_they_were():
    block = nn.Linear(3, 3)
    block.weight.grad = torch.full((3, 3), 7.0)
    x, gradient = draw(2, 3), draw(2, 3, seed=1)
    before = x.clone(), gradient.clone()
    transformer_block.gradient_norms([block, block], x, gradient)
    what = "the .grad of a block's weight, which was 7 before,"
    expect_equal(block.weight.grad, torch.full((3, 3), 7.0), what)
    expect(block.bias.grad is None, "A block's bias has a .grad that it had not before.")
    expect(not x.requires_grad, "x requires gradients afterwards, and did not before.")
    expect(x.grad is None, "x has a .grad that it had not before.")
    expect_unchanged(before[0], x, "x")
    expect_unchanged(before[1], gradient, "grad_output")


def test_gradient_norms__takes_an_x_that_was_computed():
    leaf = draw(2, 3).requires_grad_()
    got = transformer_block.gradient_norms([lambda x: 2 * x], 5 * leaf, torch.ones(2, 3))
    root = math.sqrt(6)
    expect_norms(got, [2 * root, root], "gradient_norms where x was computed from something")
    expect(leaf.grad is None, "A gradient has gone beyond x, into what x was computed from.")
