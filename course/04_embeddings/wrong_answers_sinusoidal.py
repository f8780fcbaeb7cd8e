"""Module 04, wrong answers: angles, the sinusoidal table, and the matrix that shifts it."""

from __future__ import annotations

import math
from typing import Any

import torch
from my_transformer.positional import rotary_angles, shift_matrix, sinusoidal_table
from torch import Tensor

from tiny_transformer.course.inputs import changed
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

F64 = torch.float64


# rotary_angles


@probes("rotary_angles")
def _(f: Any) -> list[Any]:
    def at(*positions: int) -> Tensor:
        return torch.tensor(positions)

    return [
        lambda: f(at(0, 1, 30), 4, 100.0),
        lambda: f(at(1), 8, 16.0),
        lambda: f(at(1, 2), 2),
        lambda: f(at(3), 6),
        lambda: f(at(9, 0, 4, 4), 10, 500.0),
        lambda: f(at(5, 6, 7), 6),
        lambda: f(at(-3, 3), 6),
        lambda: tuple(f(at(1, 2, 3), 8).shape),
        lambda: f(at(1), 4).dtype,
        lambda: bool((f(at(1_000_003), 12)[0, 1] / 1_000_003 - 10000 ** (-1 / 6)).abs() < 1e-12),
        lambda: changed(lambda p: f(p, 4), at(2, 5)),
    ]


def pairs(head_dim: int) -> Tensor:
    return torch.arange(0, head_dim, 2, dtype=F64)  # 2 i


@mutant(
    "rotary_angles",
    "Your exponent is i / head_dim: the formula has 2 i. Let the numerator run 0, 2, 4, ...",
)
def half_the_exponent(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return positions.double()[:, None] * base ** (-pairs(head_dim) / 2 / head_dim)


@mutant(
    "rotary_angles",
    "Your exponent is twice too large: with a numerator that runs 0, 2, 4, ... the 2 is in it "
    "already.",
)
def twice_the_exponent(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return positions.double()[:, None] * base ** (-2 * pairs(head_dim) / head_dim)


@mutant(
    "rotary_angles",
    "Your hands turn faster and faster: divide by the power of the base, do not multiply.",
)
def faster_and_faster(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return positions.double()[:, None] * base ** (pairs(head_dim) / head_dim)


@mutant(
    "rotary_angles",
    "Your hands come in the opposite order: the first is the fastest, at one radian a token.",
)
def slowest_first(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return rotary_angles(positions, head_dim, base).flip(1)


@mutant(
    "rotary_angles",
    "You divide the exponent by the number of pairs less one, so that the last hand is exactly "
    "`base` times as slow. The formula divides 2 i by head_dim.",
)
def last_hand_at_the_base(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    share = torch.arange(head_dim // 2, dtype=F64) / max(1, head_dim // 2 - 1)
    return positions.double()[:, None] * base**-share


@mutant(
    "rotary_angles",
    "Your first hand is slower than one radian a token: count i from 0.",
)
def counted_from_one(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return positions.double()[:, None] * base ** (-(pairs(head_dim) + 2) / head_dim)


@mutant(
    "rotary_angles",
    "You multiply by 2 pi: the first hand turns by one radian a token, not by a whole turn.",
)
def whole_turns(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return 2 * math.pi * rotary_angles(positions, head_dim, base)


@mutant("rotary_angles", "You use 10000 whatever `base` is.")
def one_base_for_all(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return rotary_angles(positions, head_dim)


@mutant(
    "rotary_angles",
    "You count the positions yourself, 0, 1, 2, ...: take those that are given.",
)
def counts_for_itself(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return rotary_angles(torch.arange(len(positions)), head_dim, base)


@mutant("rotary_angles", "Your positions are one too large: position 0 has the angles 0.")
def one_further(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return rotary_angles(positions + 1, head_dim, base)


@mutant(
    "rotary_angles",
    "You have an angle for each channel: there is one for each pair, head_dim / 2 of them.",
)
def one_for_each_channel(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    angles = rotary_angles(positions, head_dim, base)
    return torch.cat([angles, angles], dim=1)


@mutant(
    "rotary_angles",
    "You have an angle for each channel, each of another speed: the two of a pair share theirs, so "
    "there are head_dim / 2.",
)
def another_for_each_channel(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return positions.double()[:, None] * base ** (-torch.arange(head_dim, dtype=F64) / head_dim)


@mutant("rotary_angles", "Your table is on its side: a row for each position.")
def pairs_in_rows(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return rotary_angles(positions, head_dim, base).T


@mutant(
    "rotary_angles",
    "You return float32, which has 7 digits: convert the positions with `.double()` before you "
    "multiply.",
)
def in_float32(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return rotary_angles(positions, head_dim, base).float()


@mutant(
    "rotary_angles",
    "You compute in float32 and convert at the end, when the digits are gone: make the exponents "
    "in float64.",
)
def float32_until_the_end(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return (positions.float()[:, None] * base ** (-pairs(head_dim).float() / head_dim)).double()


@mutant(
    "rotary_angles",
    "Your hands slow down by equal steps: divide by a power of the base, not by a multiple.",
)
def slower_by_equal_steps(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return positions.double()[:, None] / (1 + base * pairs(head_dim) / head_dim)


@mutant("rotary_angles", "Your angles have the wrong sign: a hand turns forward.")
def backwards(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return -rotary_angles(positions, head_dim, base)


@mutant("rotary_angles", "You return the frequencies: multiply them by the positions.")
def frequencies_alone(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    return rotary_angles(torch.ones_like(positions), head_dim, base)


@rewrite("rotary_angles")
def by_exponentials(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    i = torch.arange(head_dim // 2, dtype=F64)
    frequencies = torch.exp(-2 * i / head_dim * math.log(base))
    return torch.outer(positions.to(F64), frequencies)


@rewrite("rotary_angles")
def number_by_number(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    rows = [
        [p / base ** (2 * i / head_dim) for i in range(head_dim // 2)] for p in positions.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64)


@rewrite("rotary_angles")
def by_einsum(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    inverse = 1.0 / torch.pow(
        torch.tensor(base, dtype=F64), torch.arange(0, head_dim, 2).double() / head_dim
    )
    return torch.einsum("t,i->ti", positions.double(), inverse)


# sinusoidal_table


@probes("sinusoidal_table")
def _(f: Any) -> list[Any]:
    return [
        lambda: f(1, 6),
        lambda: f(2, 4, 100.0),
        lambda: f(5, 4),
        lambda: f(4, 8, 50.0),
        lambda: f(6, 6),
        lambda: f(3, 2),
        lambda: f(30, 16, 300.0),
        lambda: tuple(f(3, 8).shape),
        lambda: f(3, 8).dtype,
    ]


def waves(length: int, d_model: int, base: float) -> tuple[Tensor, Tensor]:
    """Return the sines and the cosines, each (length, C / 2), float32."""
    angles = rotary_angles(torch.arange(length), d_model, base)
    return angles.sin().float(), angles.cos().float()


def woven(even: Tensor, odd: Tensor) -> Tensor:
    return torch.stack([even, odd], dim=-1).flatten(1)


@mutant(
    "sinusoidal_table",
    "Sine and cosine are exchanged: even columns are sines, odd ones cosines.",
)
def sine_and_cosine_exchanged(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    sin, cos = waves(length, d_model, base)
    return woven(cos, sin)


@mutant(
    "sinusoidal_table",
    "All sines come first and all cosines after them: they take turns, column by column. "
    "`torch.stack` on a new last axis and `flatten` weave them.",
)
def sines_first(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    return torch.cat(waves(length, d_model, base), dim=1)


@mutant(
    "sinusoidal_table",
    "Your positions are mixed up: stacked on a new first axis and then reshaped, all sines of all "
    "positions come before the cosines. Stack on a new last axis, and flatten the last two.",
)
def stacked_on_the_first_axis(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    return torch.stack(waves(length, d_model, base), dim=0).reshape(length, d_model)


@mutant("sinusoidal_table", "All your columns are sines: odd ones are cosines.")
def sines_only(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    sin, _ = waves(length, d_model, base)
    return woven(sin, sin)


@mutant("sinusoidal_table", "All your columns are cosines: even ones are sines.")
def cosines_only(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    _, cos = waves(length, d_model, base)
    return woven(cos, cos)


@mutant(
    "sinusoidal_table",
    "The two of a pair have different angles: your exponent counts columns, and should count "
    "pairs. Column 2i and column 2i + 1 share the angle of pair i.",
)
def an_angle_for_each_column(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    columns = torch.arange(d_model, dtype=F64)
    angles = torch.arange(length).double()[:, None] * base ** (-columns / d_model)
    return woven(angles[:, 0::2].sin(), angles[:, 1::2].cos()).float()


@mutant(
    "sinusoidal_table",
    "Your exponent is twice too large: it should run from 0 to nearly 1.",
)
def twice_the_exponent_in_the_table(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    columns = torch.arange(0, d_model, 2, dtype=F64)
    angles = torch.arange(length).double()[:, None] * base ** (-2 * columns / d_model)
    return woven(angles.sin(), angles.cos()).float()


@mutant(
    "sinusoidal_table",
    "Your positions begin at 1: the first row is position 0, (0, 1, 0, 1, ...).",
)
def positions_from_one(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    return sinusoidal_table(length + 1, d_model, base)[1:]


@mutant("sinusoidal_table", "You use 10000 whatever `base` is: hand it on.")
def base_not_handed_on(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    return sinusoidal_table(length, d_model)


@mutant("sinusoidal_table", "Your table is on its side: a row for each position.")
def positions_in_columns(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    return sinusoidal_table(length, d_model, base).T


@mutant("sinusoidal_table", "The two sizes are exchanged: `length` rows, `d_model` columns.")
def sizes_exchanged(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    even = length + length % 2
    return sinusoidal_table(d_model, even, base)


@mutant(
    "sinusoidal_table",
    "You return float64: convert to float32 at the end.",
)
def table_in_float64(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = rotary_angles(torch.arange(length), d_model, base)
    return woven(angles.sin(), angles.cos())


@mutant(
    "sinusoidal_table",
    "You take the angles for degrees: torch's sine and cosine want radians, which they are.",
)
def taken_for_degrees(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = torch.deg2rad(rotary_angles(torch.arange(length), d_model, base))
    return woven(angles.sin(), angles.cos()).float()


@mutant("sinusoidal_table", "You return the angles themselves: take their sine and cosine.")
def angles_for_waves(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = rotary_angles(torch.arange(length), d_model, base).float()
    return woven(angles, angles)


@mutant(
    "sinusoidal_table",
    "You scale the code by the root of d_model: sines and cosines stay between -1 and 1.",
)
def code_scaled(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    return sinusoidal_table(length, d_model, base) * math.sqrt(d_model)


@mutant("sinusoidal_table", "There is an axis for the batch: return (length, d_model).")
def an_axis_for_the_batch(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    return sinusoidal_table(length, d_model, base)[None]


@rewrite("sinusoidal_table")
def by_slices(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    positions = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    speeds = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(base) / d_model))
    table = torch.zeros(length, d_model)
    table[:, 0::2] = torch.sin(positions * speeds)
    table[:, 1::2] = torch.cos(positions * speeds)
    return table


@rewrite("sinusoidal_table")
def by_the_formula(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    rows = []
    for p in range(length):
        row = []
        for i in range(d_model // 2):
            angle = p / base ** (2 * i / d_model)
            row += [math.sin(angle), math.cos(angle)]
        rows.append(row)
    return torch.tensor(rows)


@rewrite("sinusoidal_table")
def as_complex_numbers(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = rotary_angles(torch.arange(length), d_model, base)
    turned = torch.polar(torch.ones_like(angles), angles)  # cos + i sin
    return torch.view_as_real(turned).flip(-1).reshape(length, d_model).to(torch.float32)


# shift_matrix


@probes("shift_matrix")
def _(f: Any) -> list[Any]:
    return [
        lambda: f(1, 2),
        lambda: f(3, 4),
        lambda: f(2, 6, 64.0),
        lambda: f(-3, 4, 10.0),
        lambda: f(0, 8),
        lambda: f(12, 10),
        lambda: f(5, 8) @ f(2, 8),
        lambda: f(3, 4).dtype,
        lambda: tuple(f(1, 6).shape),
    ]


def blocks(offset: int, width: int, base: float, make: Any) -> Tensor:
    """Return a block for each pair, given its cosine and sine."""
    angles = rotary_angles(torch.tensor([offset]), width, base)[0]
    return torch.block_diag(
        *(torch.tensor(make(math.cos(b), math.sin(b)), dtype=F64) for b in angles.tolist())
    )


@mutant(
    "shift_matrix",
    "Your matrix moves the other way: the signs of the two sines are exchanged. The sine of a pair "
    "comes first here, so its row is (cos b, sin b).",
)
def moves_the_other_way(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return shift_matrix(-offset, d_model, base)


@mutant(
    "shift_matrix",
    "Both sines have a plus. cos(a + b) has a minus: its row is (-sin b, cos b).",
)
def both_sines_plus(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return blocks(offset, d_model, base, lambda c, s: [[c, s], [s, c]])


@mutant(
    "shift_matrix",
    "Your blocks have cosines alone: sin(a + b) = sin a cos b + cos a sin b has a sine too.",
)
def cosines_alone(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return blocks(offset, d_model, base, lambda c, s: [[c, 0.0], [0.0, c]])


@mutant(
    "shift_matrix",
    "Sine and cosine of the offset have changed places: on the diagonal stands the cosine.",
)
def sine_on_the_diagonal(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return blocks(offset, d_model, base, lambda c, s: [[s, c], [c, -s]])


@mutant(
    "shift_matrix",
    "Your pairs are channel i and channel i + C/2. In the sinusoidal table, the two of a pair lie "
    "side by side: 2 i and 2 i + 1.",
)
def pairs_half_a_width_apart(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = rotary_angles(torch.tensor([offset]), d_model, base)[0]
    c, s = torch.diag(angles.cos()), torch.diag(angles.sin())
    return torch.cat([torch.cat([c, s], 1), torch.cat([-s, c], 1)])


@mutant(
    "shift_matrix",
    "All your blocks turn at the speed of the first pair: each pair has its own angle.",
)
def one_speed_for_all(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return torch.block_diag(*[shift_matrix(offset, 2, base)] * (d_model // 2))


@mutant(
    "shift_matrix",
    "Your pairs come in the opposite order: the fastest is first.",
)
def slowest_block_first(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = rotary_angles(torch.tensor([offset]), d_model, base)[0].flip(0)
    turns = [[[math.cos(b), math.sin(b)], [-math.sin(b), math.cos(b)]] for b in angles.tolist()]
    return torch.block_diag(*(torch.tensor(turn, dtype=F64) for turn in turns))


@mutant("shift_matrix", "You use 10000 whatever `base` is: hand it on.")
def shift_at_one_base(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return shift_matrix(offset, d_model)


@mutant("shift_matrix", "You always shift by one: use the offset.")
def always_by_one(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return shift_matrix(1, d_model, base)


@mutant("shift_matrix", "You lose the sign of the offset: below 0 it moves back.")
def sign_of_the_offset_lost(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return shift_matrix(abs(offset), d_model, base)


@mutant(
    "shift_matrix",
    "You move the channels, or rows of a table. The matrix turns each pair by the angle of the "
    "offset.",
)
def channels_moved(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return torch.eye(d_model, dtype=F64).roll(offset, 0)


@mutant("shift_matrix", "You shift by one more than you should.")
def one_too_far(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return shift_matrix(offset + 1, d_model, base)


@mutant("shift_matrix", "You return float32: the result is float64.")
def shift_in_float32(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    return shift_matrix(offset, d_model, base).float()


@mutant(
    "shift_matrix",
    "You return the blocks one by one, (C/2, 2, 2): put them on the diagonal of a (C, C) matrix.",
)
def blocks_one_by_one(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    whole = shift_matrix(offset, d_model, base)
    return torch.stack([whole[i : i + 2, i : i + 2] for i in range(0, d_model, 2)])


@mutant(
    "shift_matrix",
    "You return a difference of codes. It is right for one position only; a matrix is right for "
    "all.",
)
def difference_of_codes(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    table = sinusoidal_table(abs(offset) + 1, d_model, base).double()
    return torch.eye(d_model, dtype=F64) + torch.diag(table[-1] - table[0])


@rewrite("shift_matrix")
def entry_by_entry(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    matrix = torch.zeros(d_model, d_model, dtype=torch.float64)
    for i in range(0, d_model, 2):
        b = offset / base ** (i / d_model)
        matrix[i, i] = matrix[i + 1, i + 1] = math.cos(b)
        matrix[i, i + 1], matrix[i + 1, i] = math.sin(b), -math.sin(b)
    return matrix


@rewrite("shift_matrix")
def by_diagonals(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = rotary_angles(torch.tensor([offset]), d_model, base)[0]
    between = torch.zeros(d_model - 1, dtype=F64)
    between[0::2] = angles.sin()
    diagonal = torch.diag(angles.cos().repeat_interleave(2))
    return diagonal + torch.diag(between, 1) - torch.diag(between, -1)


@rewrite("shift_matrix")
def as_an_exponential(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = rotary_angles(torch.tensor([offset]), d_model, base)[0]
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    return torch.linalg.matrix_exp(torch.block_diag(*(b * turn for b in angles)))
