"""Module 04, what is promised: rotary positions."""

from __future__ import annotations

import math

import torch
from my_transformer import positional
from torch import Tensor

from tiny_transformer.course.devices import expect_follows_device
from tiny_transformer.course.expect import (
    expect_equal,
    expect_gradients,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw

DIMS = "B H T D"
SCORES = "B H queries keys"
BASE = 10000.0


def angles(positions: list[int], width: int, base: float = BASE) -> Tensor:
    rows = [[p / base ** (2 * i / width) for i in range(width // 2)] for p in positions]
    return torch.tensor(rows, dtype=torch.float64)


def turned_by_loops(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    y, half = torch.zeros_like(x), x.shape[-1] // 2
    for t in range(x.shape[2]):
        for i in range(half):
            a, b = x[:, :, t, i], x[:, :, t, i + half]
            y[:, :, t, i] = a * cos[t, i] - b * sin[t, i]
            y[:, :, t, i + half] = b * cos[t, i] + a * sin[t, i]
    return y


def scores_by_loops(q: Tensor, k: Tensor, base: float = BASE) -> Tensor:
    """Return the scores in float64, from the angle of each pair of positions alone."""
    (B, H, Tq, D), Tk, half = q.shape, k.shape[2], q.shape[3] // 2
    scores = torch.zeros(B, H, Tq, Tk, dtype=torch.float64)
    for m in range(Tq):
        for n in range(Tk):
            between = angles([Tk - Tq + m - n], D, base)[0]
            a, b = q[:, :, m].double(), k[:, :, n].double()  # (B, H, D)
            along = a[..., :half] * b[..., :half] + a[..., half:] * b[..., half:]
            across = a[..., :half] * b[..., half:] - a[..., half:] * b[..., :half]
            products = along * between.cos() + across * between.sin()
            scores[:, :, m, n] = products.sum(-1) / math.sqrt(D)
    return scores


# apply_rotary


def test_apply_rotary__turns_one_pair_by_a_quarter():
    x = torch.tensor([[[[1.0, 0.0], [3.0, 4.0]]]])
    cos, sin = torch.zeros(2, 1), torch.ones(2, 1)
    wanted = torch.tensor([[[[0.0, 1.0], [-4.0, 3.0]]]])
    got = positional.apply_rotary(x, cos, sin)
    expect_equal(got, wanted, "(1, 0) and (3, 4), each turned by a quarter,", dims=DIMS)


def test_apply_rotary__pairs_a_channel_with_the_one_half_a_head_further():
    x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    cos, sin = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    got = positional.apply_rotary(x, cos, sin)
    expect_equal(
        got,
        torch.tensor([[[[-3.0, 2.0, 1.0, 4.0]]]]),
        "(1, 2, 3, 4) with channels 0 and 2 turned by a quarter",
        dims=DIMS,
        note="Channel i makes a pair with channel i + D/2.",
    )


def test_apply_rotary__turns_each_pair_of_each_token_by_its_own_angle():
    for B, H, T, D in [(1, 1, 1, 2), (2, 3, 5, 8), (3, 2, 4, 6), (2, 4, 4, 4), (1, 5, 3, 10)]:
        x, a = draw(B, H, T, D, seed=1), 2 * draw(T, D // 2, seed=2)
        expect_equal(
            positional.apply_rotary(x, a.cos(), a.sin()),
            turned_by_loops(x, a.cos(), a.sin()),
            f"apply_rotary of ({B}, {H}, {T}, {D})",
            dims=DIMS,
        )


def test_apply_rotary__keeps_the_length_of_every_pair():
    x, a = draw(2, 3, 4, 6, seed=1), angles([0, 3, 11, 200], 6)
    got = positional.apply_rotary(x, a.cos(), a.sin())
    expect_shape(got, (2, 3, 4, 6), "apply_rotary of (2, 3, 4, 6)", DIMS)
    lengths = [y[..., :3].square() + y[..., 3:].square() for y in (got, x)]
    expect_equal(lengths[0], lengths[1], "the squared lengths of the turned pairs", dims=DIMS)


def test_apply_rotary__leaves_position_nought_alone():
    x, a = draw(2, 1, 2, 4, seed=1), angles([0, 1], 4)
    got = positional.apply_rotary(x, a.cos(), a.sin())
    expect_equal(got[:, :, 0], x[:, :, 0], "the vector at position 0", dims="B H D")


def test_apply_rotary__makes_dot_products_of_the_distance_alone():
    q, k = draw(1, 1, 1, 8, seed=1), draw(1, 1, 1, 8, seed=2)
    for m, n in [(0, 3), (1, 7), (4, 4)]:
        products = []
        for moved in (0, 5, 30):
            a, b = angles([m + moved], 8), angles([n + moved], 8)
            x = positional.apply_rotary(q, a.cos(), a.sin())
            y = positional.apply_rotary(k, b.cos(), b.sin())
            products.append((x * y).sum())
        expect_equal(
            torch.stack(products),
            products[0].expand(3).clone(),
            f"q at {m} times k at {n}, and both 5 and 30 positions further,",
            tolerance=1e-4,
        )


def test_apply_rotary__keeps_the_dtype_and_its_inputs():
    for dtype, tolerance in [(torch.float64, 1e-6), (torch.bfloat16, 4e-2)]:
        for given in (torch.float64, torch.float32):
            x, a = draw(2, 2, 3, 4, seed=1, dtype=dtype), draw(3, 2, seed=2, dtype=given)
            cos, sin = a.cos(), a.sin()
            before = [tensor.clone() for tensor in (x, cos, sin)]
            wanted = turned_by_loops(before[0].double(), before[1], before[2]).to(dtype)
            expect_equal(
                positional.apply_rotary(x, cos, sin),
                wanted,
                f"apply_rotary in {dtype}, with {given} angles",
                dims=DIMS,
                tolerance=tolerance,
            )
            for name, old, new in zip(("x", "cos", "sin"), before, (x, cos, sin), strict=True):
                expect_unchanged(old, new, name)


def test_apply_rotary__lets_gradients_through():
    a = draw(3, 2, seed=2, dtype=torch.float64)
    expect_gradients(
        lambda x: positional.apply_rotary(x, a.cos(), a.sin()),
        lambda x: turned_by_loops_for_autograd(x, a.cos(), a.sin()),
        [draw(2, 2, 3, 4, seed=1, dtype=torch.float64)],
        "apply_rotary",
    )


def turned_by_loops_for_autograd(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    firsts = [x[..., i] * cos[:, i] - x[..., i + half] * sin[:, i] for i in range(half)]
    seconds = [x[..., i + half] * cos[:, i] + x[..., i] * sin[:, i] for i in range(half)]
    return torch.stack(firsts + seconds, dim=-1)


def test_apply_rotary__stays_on_the_device_of_its_inputs():
    x, a = draw(1, 2, 3, 4), draw(3, 2, seed=2)
    cos, sin = a.cos(), a.sin()
    expect_follows_device(
        lambda: positional.apply_rotary(x, cos, sin), [x, cos, sin], "apply_rotary"
    )


# rotary_scores


def test_rotary_scores__of_one_pair_are_cosines_of_the_distance():
    ones = torch.tensor([1.0, 0.0]).expand(1, 1, 3, 2) * 2**0.25
    wanted = torch.tensor([[math.cos(m - n) for n in range(3)] for m in range(3)])
    got = positional.rotary_scores(ones, ones)
    expect_equal(got, wanted[None, None], "the scores of one vector with itself", dims=SCORES)


def test_rotary_scores__are_equal_along_every_diagonal():
    q = draw(2, 3, 1, 8, seed=1).expand(2, 3, 6, 8)
    k = draw(2, 3, 1, 8, seed=2).expand(2, 3, 6, 8)
    got = positional.rotary_scores(q, k)
    expect_shape(got, (2, 3, 6, 6), "the scores of 6 tokens", SCORES)
    for distance in range(-5, 6):
        diagonal = got.diagonal(-distance, dim1=-2, dim2=-1)
        expect_equal(
            diagonal,
            diagonal[..., :1].expand_as(diagonal).clone(),
            f"the scores at a distance of {distance}, of one query and one key at all positions,",
            dims="B H place",
            note="A score depends on the distance alone.",
        )


def test_rotary_scores__turn_towards_the_key():
    q, k = draw(2, 2, 5, 6, seed=1), draw(2, 2, 5, 6, seed=2)
    expect_equal(
        positional.rotary_scores(q, k),
        scores_by_loops(q, k).float(),
        "the scores, from the angle between each two positions,",
        dims=SCORES,
        tolerance=1e-4,
    )


def test_rotary_scores__hold_for_every_size_and_base():
    for B, H, Tq, Tk, D, base in [
        (1, 1, 1, 1, 2, BASE),
        (2, 3, 4, 4, 4, BASE),
        (3, 2, 7, 7, 8, 50.0),
        (2, 5, 3, 3, 10, 1e6),
    ]:
        q, k = draw(B, H, Tq, D, seed=3), draw(B, H, Tk, D, seed=4)
        expect_equal(
            positional.rotary_scores(q, k, base),
            scores_by_loops(q, k, base).float(),
            f"the scores of ({B}, {H}, {Tq}, {D}) with base {base:g}",
            dims=SCORES,
            tolerance=1e-4,
        )


def test_rotary_scores__take_the_queries_to_be_the_last_positions():
    q, k = draw(2, 3, 7, 6, seed=5), draw(2, 3, 7, 6, seed=6)
    whole = positional.rotary_scores(q, k)
    for n_queries in (1, 2, 6):
        got = positional.rotary_scores(q[:, :, 7 - n_queries :], k)
        expect_equal(
            got,
            whole[:, :, 7 - n_queries :],
            f"the scores of the last {n_queries} of 7 tokens, as when a cache has the other keys,",
            dims=SCORES,
            note="The queries are the last positions, not the first.",
        )
    wanted = scores_by_loops(q[:, :, 4:], k).float()
    got = positional.rotary_scores(q[:, :, 4:], k)
    expect_equal(got, wanted, "the scores of 3 queries and 7 keys", dims=SCORES, tolerance=1e-4)


def test_rotary_scores__at_one_position_are_those_without_positions():
    q, k = draw(2, 3, 1, 4, seed=1), draw(2, 3, 1, 4, seed=2)
    wanted = q @ k.mT / 2
    got = positional.rotary_scores(q, k)
    expect_equal(got, wanted, "the score of a token with itself", dims=SCORES)


def test_rotary_scores__keep_the_dtype_and_the_inputs():
    for dtype, tolerance in [(torch.float64, 1e-6), (torch.bfloat16, 1e-1)]:
        q, k = draw(1, 2, 4, 4, seed=1, dtype=dtype), draw(1, 2, 4, 4, seed=2, dtype=dtype)
        before = q.clone(), k.clone()
        wanted = scores_by_loops(*before).to(dtype)
        got = positional.rotary_scores(q, k)
        expect_equal(got, wanted, f"the scores in {dtype}", dims=SCORES, tolerance=tolerance)
        expect_unchanged(before[0], q, "q")
        expect_unchanged(before[1], k, "k")


def test_rotary_scores__let_gradients_through_and_stay_on_the_device():
    inputs = [draw(1, 2, 3, 4, dtype=torch.float64), draw(1, 2, 3, 4, seed=1, dtype=torch.float64)]

    def wanted(q: Tensor, k: Tensor) -> Tensor:
        a = angles([0, 1, 2], 4)
        x, y = (turned_by_loops_for_autograd(z, a.cos(), a.sin()) for z in (q, k))
        return x @ y.mT / 2

    expect_gradients(positional.rotary_scores, wanted, inputs, "rotary_scores")
    q, k = inputs
    expect_follows_device(lambda: positional.rotary_scores(q, k), [q, k], "rotary_scores")
