"""Module 04, what is promised: angles, the sinusoidal table, and the matrix that shifts it."""

from __future__ import annotations

import math

import torch
from my_transformer import positional
from torch import Tensor

from tiny_transformer.course.expect import expect, expect_equal, expect_shape, expect_unchanged
from tiny_transformer.course.inputs import draw

BASE = 10000.0


def angles_by_loops(positions: list[int], width: int, base: float = BASE) -> Tensor:
    rows = [[p / base ** (2 * i / width) for i in range(width // 2)] for p in positions]
    return torch.tensor(rows, dtype=torch.float64)


def table_by_loops(positions: list[int], width: int, base: float = BASE) -> Tensor:
    """Return the sinusoidal code of positions, float64."""
    table = torch.zeros(len(positions), width, dtype=torch.float64)
    for row, p in enumerate(positions):
        for i in range(width // 2):
            angle = p / base ** (2 * i / width)
            table[row, 2 * i], table[row, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


# rotary_angles


def test_rotary_angles__turns_the_first_hand_by_one_a_token_and_the_next_more_slowly():
    wanted = torch.tensor([[0, 0], [1, 0.1], [30, 3]], dtype=torch.float64)
    got = positional.rotary_angles(torch.tensor([0, 1, 30]), 4, base=100.0)
    expect_equal(got, wanted, "rotary_angles([0, 1, 30], 4, base=100)", dims="position pair")


def test_rotary_angles__slows_down_by_the_same_factor_each_time():
    got = positional.rotary_angles(torch.tensor([1]), 8, base=16.0)
    wanted = torch.tensor([[1, 1 / 2, 1 / 4, 1 / 8]], dtype=torch.float64)
    expect_equal(
        got,
        wanted,
        "the angles of position 1, with 8 channels and the base 16,",
        dims="position pair",
        note="16^(2/8) = 2: each hand turns at half the speed of the one before.",
    )


def test_rotary_angles__is_what_the_formula_says_for_every_width_and_base():
    for width, base in [(2, BASE), (4, BASE), (6, 500.0), (64, BASE), (10, 1e6)]:
        positions = [0, 1, 2, 5, 17]
        expect_equal(
            positional.rotary_angles(torch.tensor(positions), width, base),
            angles_by_loops(positions, width, base),
            f"the angles of width {width} with base {base:g}",
            dims="position pair",
            tolerance=1e-9,
        )
    expect_equal(
        positional.rotary_angles(torch.tensor([3]), 6),
        angles_by_loops([3], 6),
        "the angles with no base given, which means 10000,",
        dims="position pair",
        tolerance=1e-9,
    )


def test_rotary_angles__takes_the_positions_that_are_given_in_their_order():
    for positions in ([7], [5, 6, 7], [9, 0, 4, 4], [-3, 3]):
        expect_equal(
            positional.rotary_angles(torch.tensor(positions), 6),
            angles_by_loops(positions, 6),
            f"the angles of the positions {positions}",
            dims="position pair",
            tolerance=1e-9,
        )


def test_rotary_angles__has_the_digits_for_large_positions():
    positions = [100_003, 1_000_003]
    got = positional.rotary_angles(torch.tensor(positions), 12)
    expect_equal(
        got,
        angles_by_loops(positions, 12),
        "the angles of large positions",
        dims="position pair",
        tolerance=1e-10,
        note="float32 has 7 digits, and these need more: compute in float64 from the start.",
    )


def test_rotary_angles__keeps_its_positions():
    positions = torch.tensor([4, 1])
    before = positions.clone()
    positional.rotary_angles(positions, 4)
    expect_unchanged(before, positions, "positions")


# sinusoidal_table


def test_sinusoidal_table__begins_with_the_sines_and_cosines_of_nothing():
    got = positional.sinusoidal_table(1, 6)
    wanted = torch.tensor([[0.0, 1, 0, 1, 0, 1]])
    expect_equal(got, wanted, "the code of position 0", dims="position C")


def test_sinusoidal_table__has_sine_and_cosine_of_an_angle_side_by_side():
    got = positional.sinusoidal_table(2, 4, base=100.0)
    wanted = torch.tensor(
        [[0, 1, 0, 1], [math.sin(1), math.cos(1), math.sin(0.1), math.cos(0.1)]],
    )
    expect_equal(got, wanted, "sinusoidal_table(2, 4, base=100)", dims="position C")


def test_sinusoidal_table__is_what_loops_give_for_every_size():
    for length, width, base in [
        (3, 2, BASE),
        (5, 4, BASE),
        (4, 8, 50.0),
        (6, 6, BASE),
        (40, 16, 300.0),
    ]:
        expect_equal(
            positional.sinusoidal_table(length, width, base),
            table_by_loops(list(range(length)), width, base).float(),
            f"sinusoidal_table({length}, {width}, {base:g})",
            dims="position C",
            tolerance=1e-4,
        )
    expect_equal(
        positional.sinusoidal_table(7, 10),
        table_by_loops(list(range(7)), 10).float(),
        "the table with no base given, which means 10000,",
        dims="position C",
        tolerance=1e-4,
    )


def test_sinusoidal_table__gives_all_positions_the_same_length_and_different_codes():
    got = positional.sinusoidal_table(50, 12)
    expect_shape(got, (50, 12), "sinusoidal_table(50, 12)", "position C")
    expect_equal(
        got.square().sum(dim=1),
        torch.full((50,), 6.0),
        "the squared length of each code, which is C / 2,",
        dims="position",
        tolerance=1e-4,
    )
    apart = torch.cdist(got.double(), got.double()) + 10 * torch.eye(50).double()
    expect(apart.min() > 0.1, "Two positions have nearly the same code.")


def test_sinusoidal_table__moves_slowly_in_its_last_columns():
    got = positional.sinusoidal_table(20, 8)
    wanted = torch.arange(20) / BASE ** (6 / 8)
    expect_equal(
        got[:, 6],
        wanted.sin(),
        "the last column of sines, with 8 channels,",
        dims="position",
        tolerance=1e-4,
    )


# shift_matrix


def test_shift_matrix__turns_one_pair_by_one_radian():
    got = positional.shift_matrix(1, 2)
    c, s = math.cos(1), math.sin(1)
    wanted = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    expect_equal(got, wanted, "shift_matrix(1, 2)", dims="to from")


def test_shift_matrix__moves_the_code_of_every_position():
    for width, base in [(4, BASE), (6, 100.0), (10, BASE)]:
        for offset in (1, 3, 12):
            matrix = positional.shift_matrix(offset, width, base)
            expect_shape(matrix, (width, width), f"shift_matrix({offset}, {width})", "to from")
            for p in (0, 1, 5, 40):
                code, moved = table_by_loops([p, p + offset], width, base)
                expect_equal(
                    matrix.double() @ code,
                    moved,
                    f"shift_matrix({offset}, {width}, {base:g}) @ code({p}), which should be "
                    f"code({p + offset}),",
                    dims="C",
                )


def test_shift_matrix__moves_back_where_the_offset_is_below_zero():
    matrix = positional.shift_matrix(-4, 6)
    expect_shape(matrix, (6, 6), "shift_matrix(-4, 6)", "to from")
    moved, code = table_by_loops([3, 7], 6)
    expect_equal(matrix.double() @ code, moved, "shift_matrix(-4, 6) @ code(7)", dims="C")


def test_shift_matrix__has_a_block_for_each_pair_and_zeros_elsewhere():
    for offset, width, base in [(1, 4, BASE), (2, 6, 64.0), (0, 8, BASE), (-3, 4, 10.0)]:
        wanted = torch.zeros(width, width, dtype=torch.float64)
        for i in range(width // 2):
            b = offset / base ** (2 * i / width)
            at = slice(2 * i, 2 * i + 2)
            rows = [[math.cos(b), math.sin(b)], [-math.sin(b), math.cos(b)]]
            wanted[at, at] = torch.tensor(rows, dtype=torch.float64)
        expect_equal(
            positional.shift_matrix(offset, width, base),
            wanted,
            f"shift_matrix({offset}, {width}, {base:g})",
            dims="to from",
            tolerance=1e-6,
        )


def test_shift_matrix__twice_is_a_shift_by_both():
    one, two = positional.shift_matrix(2, 8), positional.shift_matrix(5, 8)
    expect_equal(
        one @ two,
        positional.shift_matrix(7, 8),
        "a shift by 5 and then by 2, against one by 7,",
        dims="to from",
        tolerance=1e-6,
    )
    code = draw(8, dtype=torch.float64)
    expect_equal((one @ code).norm(), code.norm(), "the length of a shifted vector", tolerance=1e-6)
