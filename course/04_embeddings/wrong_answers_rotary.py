"""Module 04, wrong answers: rotary positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from my_transformer.positional import apply_rotary, rotary_angles, sinusoidal_table
from torch import Tensor

from tiny_transformer.course.devices import expect_follows_device
from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite


def right(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


# apply_rotary


@probes("apply_rotary")
def _(f: Any) -> list[Any]:
    def case(B: int, H: int, T: int, D: int, dtype: Any = torch.float32) -> Any:
        a = 2 * draw(T, D // 2, seed=2, dtype=torch.float64)
        return f(draw(B, H, T, D, seed=1, dtype=dtype), a.cos(), a.sin())

    def one(angle: float) -> Any:
        a = torch.full((1, 2), angle)
        return f(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), a.cos(), a.sin())

    def gradient() -> Any:
        x, a = draw(2, 2, 3, 4, seed=1).requires_grad_(), draw(3, 2, seed=2)
        f(x, a.cos(), a.sin()).square().sum().backward()
        return "none" if x.grad is None else x.grad

    def on_its_device() -> bool:
        x, a = draw(1, 2, 3, 4), draw(3, 2, seed=2)
        cos, sin = a.cos(), a.sin()
        expect_follows_device(lambda: f(x, cos, sin), [x, cos, sin], "")
        return True

    a = draw(3, 2, seed=2)
    return [
        lambda: one(math.pi / 2),
        lambda: one(0.0),
        lambda: one(0.3),
        lambda: case(1, 1, 1, 2),
        lambda: case(2, 3, 5, 8),
        lambda: case(3, 2, 4, 6),
        lambda: case(2, 4, 4, 4),
        lambda: case(4, 3, 4, 4),
        lambda: case(2, 2, 3, 4, torch.float64),
        lambda: case(2, 2, 3, 4, torch.bfloat16).dtype,
        lambda: f(draw(1, 2, 3, 4), a.cos(), a.sin()),
        lambda: changed(f, draw(1, 2, 3, 4), a.cos(), a.sin()),
        gradient,
        on_its_device,
    ]


@mutant(
    "apply_rotary",
    "You pair neighbours, channels 2i and 2i + 1. Here channel i makes a pair with channel "
    "i + D/2: cut the vector in two halves. (Both forms are in use, and weights of one do not fit "
    "the other.)",
)
def pairs_of_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


@mutant(
    "apply_rotary",
    "You take halves apart and put neighbours together: join the turned halves one after the other "
    "again.",
)
def halves_put_together_as_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.stack(right(x, cos, sin).chunk(2, dim=-1), dim=-1).flatten(-2)


@mutant(
    "apply_rotary",
    "You turn the other way: the signs of the two sines are exchanged.",
)
def turned_the_other_way(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return right(x, cos, -sin)


@mutant("apply_rotary", "Both sines have a plus: the first half has a minus.")
def both_plus(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos + second * sin, second * cos + first * sin], dim=-1)


@mutant("apply_rotary", "Both sines have a minus: the second half has a plus.")
def both_minus(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos - first * sin], dim=-1)


@mutant("apply_rotary", "Sine and cosine are exchanged.")
def sine_for_cosine(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return right(x, sin, cos)


@mutant(
    "apply_rotary",
    "Each half is multiplied by its cosine and the other half is left out: a turn mixes the two.",
)
def cosines_alone(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * torch.cat([cos, cos], dim=-1).to(x.dtype)


@mutant(
    "apply_rotary",
    "You use the first half after you have turned it: the second needs it as it was. Keep both "
    "under names of their own.",
)
def first_half_used_after_its_turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first = first * cos - second * sin
    second = second * cos + first * sin
    return torch.cat([first, second], dim=-1)


@mutant("apply_rotary", "The two halves have changed places: join the first one first.")
def halves_exchanged(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = right(x, cos, sin).chunk(2, dim=-1)
    return torch.cat([second, first], dim=-1)


@mutant("apply_rotary", "You turn the first half only: the second changes as well.")
def first_half_only(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat([right(x, cos, sin)[..., :half], x[..., half:]], dim=-1)


@mutant("apply_rotary", "You turn the second half only: the first changes as well.")
def second_half_only(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat([x[..., :half], right(x, cos, sin)[..., half:]], dim=-1)


@mutant(
    "apply_rotary",
    "You turn every token by the angles of the first one: each has a row of its own.",
)
def angles_of_the_first_token(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return right(x, cos[:1], sin[:1])


@mutant("apply_rotary", "You turn every pair by the angle of the first one.")
def angle_of_the_first_pair(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return right(x, cos[:, :1], sin[:, :1])


@mutant(
    "apply_rotary",
    "The angles meet the heads and not the tokens: x is (B, H, T, D), and (T, D/2) angles "
    "broadcast over the axes in front.",
)
def turned_along_the_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return right(x.transpose(1, 2), cos, sin).transpose(1, 2)


@mutant(
    "apply_rotary",
    "You return the dtype of the angles: convert them to that of x.",
)
def dtype_of_the_angles(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return right(x.to(torch.promote_types(x.dtype, cos.dtype)), cos, sin)


@mutant("apply_rotary", "You always return float32: keep the dtype of x.")
def always_in_float32(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return right(x, cos, sin).float()


@mutant(
    "apply_rotary",
    "You add to x: a turn replaces it.",
)
def added_to_x(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x + right(x, cos, sin)


@mutant("apply_rotary", "You add the cosines and sines to x: it is multiplied by them.")
def cosines_added(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x + torch.cat([cos, sin], dim=-1).to(x.dtype)


@mutant(
    "apply_rotary",
    "You write into the vectors of your caller: make new ones.",
)
def written_into_x(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = right(x, cos, sin)
    with torch.no_grad():
        x.copy_(turned.detach())
    return turned


@mutant("apply_rotary", "No gradient flows back: leave out detach(), .data and no_grad().")
def without_gradients(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return right(x.detach(), cos, sin)


@rewrite("apply_rotary")
def by_rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    other = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)
    return x * cos.to(x.dtype) + other * sin.to(x.dtype)


@rewrite("apply_rotary")
def as_complex_numbers(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.to(torch.float64).chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.complex(cos.double(), sin.double())
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


@rewrite("apply_rotary")
def by_matrices(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pairs = x.unflatten(-1, (2, -1))  # (B, H, T, 2, half)
    turn = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])]).to(x.dtype)
    return torch.einsum("ijth,bntjh->bntih", turn, pairs).flatten(-2)


@rewrite("apply_rotary")
def into_an_empty_tensor(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.size(-1) // 2
    turned = torch.empty_like(x)
    c, s = cos.to(x.dtype), sin.to(x.dtype)
    turned[..., :half] = x[..., :half] * c - x[..., half:] * s
    turned[..., half:] = x[..., half:] * c + x[..., :half] * s
    return turned


# rotary_scores


@probes("rotary_scores")
def _(f: Any) -> list[Any]:
    def case(
        B: int, H: int, Tq: int, Tk: int, D: int, base: float = 10000.0, dtype: Any = torch.float32
    ) -> Any:
        q = draw(B, H, Tk, D, seed=1, dtype=dtype)[:, :, Tk - Tq :]
        return f(q, draw(B, H, Tk, D, seed=2, dtype=dtype), base)

    def gradients() -> list[Any]:
        q, k = draw(1, 2, 3, 4).requires_grad_(), draw(1, 2, 3, 4, seed=1).requires_grad_()
        f(q, k).square().sum().backward()
        return ["none" if x.grad is None else x.grad for x in (q, k)]

    def on_its_device() -> bool:
        q, k = draw(1, 2, 3, 4), draw(1, 2, 3, 4, seed=2)
        expect_follows_device(lambda: f(q, k), [q, k], "")
        return True

    return [
        lambda: case(1, 1, 1, 1, 2),
        lambda: case(1, 1, 3, 3, 2),
        lambda: case(2, 3, 4, 4, 4),
        lambda: case(3, 2, 7, 7, 8, 50.0),
        lambda: case(2, 5, 3, 3, 10),
        lambda: case(2, 3, 3, 7, 6),
        lambda: case(2, 3, 1, 7, 6),
        lambda: f(draw(2, 3, 4, 6, seed=1), draw(2, 3, 4, 6, seed=2)),
        lambda: case(2, 2, 3, 3, 4, dtype=torch.float64),
        lambda: case(2, 2, 3, 3, 4, dtype=torch.bfloat16).dtype,
        lambda: changed(f, draw(1, 2, 3, 4), draw(1, 2, 3, 4, seed=1)),
        gradients,
        on_its_device,
    ]


def turned(x: Tensor, first: int = 0, base: float = 10000.0, speed: float = 1.0) -> Tensor:
    """Turn vectors, the first of which stands at `first`."""
    positions = torch.arange(first, first + x.shape[-2])
    a = speed * rotary_angles(positions, x.shape[-1], base).to(x.device)
    return apply_rotary(x, a.cos(), a.sin())


def past(q: Tensor, k: Tensor) -> int:
    return k.shape[-2] - q.shape[-2]


@mutant(
    "rotary_scores",
    "You take the queries to be the first positions. They are the last: with a cache, the first "
    "query stands at Tk - Tq.",
)
def queries_at_the_beginning(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(q, 0, base) @ turned(k, 0, base).mT / math.sqrt(q.shape[-1])


@mutant(
    "rotary_scores",
    "Your queries are one position too far: the last query stands where the last key does.",
)
def queries_one_too_far(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(q, past(q, k) + 1, base) @ turned(k, 0, base).mT / math.sqrt(q.shape[-1])


@mutant(
    "rotary_scores",
    "Your queries are one position too near: the last query stands where the last key does.",
)
def queries_one_too_near(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(q, past(q, k), base) @ turned(k, 1, base).mT / math.sqrt(q.shape[-1])


@mutant("rotary_scores", "You turn the queries only: turn the keys too.")
def queries_only(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(q, past(q, k), base) @ k.mT / math.sqrt(q.shape[-1])


@mutant("rotary_scores", "You turn the keys only: turn the queries too.")
def keys_only(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return q @ turned(k, 0, base).mT / math.sqrt(q.shape[-1])


@mutant(
    "rotary_scores",
    "Nothing is turned, or queries and keys all by one angle, as where heads are counted for "
    "positions: these are scores without positions.",
)
def nothing_turned(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return q @ k.mT / math.sqrt(q.shape[-1])


@mutant(
    "rotary_scores",
    "You turn the keys the other way, so that the score knows the sum of the positions and not "
    "their difference: turn both the same way, the dot product subtracts.",
)
def keys_the_other_way(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(q, past(q, k), base) @ turned(k, 0, base, -1.0).mT / math.sqrt(q.shape[-1])


@mutant(
    "rotary_scores",
    "You turn both the wrong way round: a score then depends on n - m where it should on m - n. "
    "Turn by plus the position.",
)
def both_the_other_way(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    x, y = turned(q, past(q, k), base, -1.0), turned(k, 0, base, -1.0)
    return x @ y.mT / math.sqrt(q.shape[-1])


@mutant("rotary_scores", "You turn twice as far: by the position, once.")
def twice_as_far(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    x, y = turned(q, past(q, k), base, 2.0), turned(k, 0, base, 2.0)
    return x @ y.mT / math.sqrt(q.shape[-1])


@mutant("rotary_scores", "The scale is missing: divide by the root of D.")
def without_the_scale(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(q, past(q, k), base) @ turned(k, 0, base).mT


@mutant("rotary_scores", "You divide by D: divide by its square root.")
def divided_by_the_width(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(q, past(q, k), base) @ turned(k, 0, base).mT / q.shape[-1]


@mutant(
    "rotary_scores",
    "You divide by the root of the number of pairs, D/2: the dot product sums over D numbers.",
)
def root_of_the_pairs(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(q, past(q, k), base) @ turned(k, 0, base).mT / math.sqrt(q.shape[-1] // 2)


@mutant("rotary_scores", "You use the base 10000 whatever is given: hand it on.")
def scores_at_one_base(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(q, past(q, k)) @ turned(k).mT / math.sqrt(q.shape[-1])


@mutant("rotary_scores", "Your table is on its side: a row for each query.")
def keys_in_rows(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    return turned(k, 0, base) @ turned(q, past(q, k), base).mT / math.sqrt(q.shape[-1])


@mutant(
    "rotary_scores",
    "You take the angles for the width of half a head: hand on D, all of it.",
)
def angles_of_half_a_head(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    def turn(x: Tensor, first: int) -> Tensor:
        half = x.shape[-1] // 2
        positions = torch.arange(first, first + x.shape[-2])
        i = torch.arange(half, dtype=torch.float64)
        a = positions.double()[:, None] * base ** (-2 * i / half)
        return apply_rotary(x, a.cos(), a.sin())

    return turn(q, past(q, k)) @ turn(k, 0).mT / math.sqrt(q.shape[-1])


@mutant("rotary_scores", "You add the code of the position to queries and keys: turn them.")
def codes_added(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    code = sinusoidal_table(k.shape[-2], k.shape[-1], base).to(k.dtype)
    return (q + code[past(q, k) :]) @ (k + code).mT / math.sqrt(q.shape[-1])


@mutant(
    "rotary_scores",
    "You return weights: the softmax comes later, after the mask.",
)
def weights_for_scores(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    scores = turned(q, past(q, k), base) @ turned(k, 0, base).mT / math.sqrt(q.shape[-1])
    return scores.softmax(-1)


@mutant(
    "rotary_scores",
    "You hide later keys: there is no mask here, it comes after.",
)
def masked_already(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    scores = turned(q, past(q, k), base) @ turned(k, 0, base).mT / math.sqrt(q.shape[-1])
    hidden = torch.ones_like(scores, dtype=torch.bool).triu(past(q, k) + 1)
    return scores.masked_fill(hidden, -math.inf)


@mutant("rotary_scores", "You return float32: keep the dtype of the queries.")
def scores_in_float32(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    x, y = turned(q, past(q, k), base), turned(k, 0, base)
    return x.float() @ y.float().mT / math.sqrt(q.shape[-1])


@mutant(
    "rotary_scores",
    "Your cosines and sines stay on the CPU when queries and keys are on a GPU: move them with "
    "`.to(q.device)`.",
)
def angles_that_stay_behind(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    n = k.shape[-2]
    a = rotary_angles(torch.arange(n), k.shape[-1], base)
    x = apply_rotary(q, a.cos()[past(q, k) :], a.sin()[past(q, k) :])
    return x @ apply_rotary(k, a.cos(), a.sin()).mT / math.sqrt(q.shape[-1])


@mutant(
    "rotary_scores",
    "You write into the queries of your caller: `q / ...` makes a new tensor, `q /= ...` does not.",
)
def queries_divided_in_place(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    scores = turned(q, past(q, k), base) @ turned(k, 0, base).mT / math.sqrt(q.shape[-1])
    with torch.no_grad():
        q.mul_(0.5)
    return scores


@rewrite("rotary_scores")
def each_by_its_position(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    x, y = turned(q, past(q, k), base), turned(k, 0, base)
    return torch.einsum("bhqd,bhkd->bhqk", x, y) * q.shape[-1] ** -0.5


@rewrite("rotary_scores")
def counted_back_from_the_last(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    Tq, Tk, D = q.size(-2), k.size(-2), q.size(-1)
    x = turned(q / math.sqrt(D), 1 - Tq, base)  # the last query and the last key at position 0
    return torch.matmul(x, turned(k, 1 - Tk, base).transpose(-1, -2))


@rewrite("rotary_scores")
def by_the_angle_between(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    (Tq, D), Tk = q.shape[-2:], k.shape[-2]
    apart = (torch.arange(Tk - Tq, Tk)[:, None] - torch.arange(Tk)).flatten()
    a = rotary_angles(apart, D, base).view(Tq, Tk, -1).to(q)
    (q1, q2), (k1, k2) = q.chunk(2, dim=-1), k.chunk(2, dim=-1)
    along = torch.einsum("bhqi,bhki,qki->bhqk", q1, k1, a.cos())
    along = along + torch.einsum("bhqi,bhki,qki->bhqk", q2, k2, a.cos())
    across = torch.einsum("bhqi,bhki,qki->bhqk", q1, k2, a.sin())
    across = across - torch.einsum("bhqi,bhki,qki->bhqk", q2, k1, a.sin())
    return (along + across) / math.sqrt(D)
