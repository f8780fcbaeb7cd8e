"""Positions: learned, sinusoidal, rotary, none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.model.architectures import (
    POSITIONS,
    largest_difference,
    tiny_config,
    tiny_model,
    token_ids,
)

from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.positional import (
    PositionalEmbedding,
    RotaryTable,
    apply_rotary,
    rotary_angles,
    sinusoidal_table,
)
from tiny_transformer.model.transformer import Transformer

pytestmark = pytest.mark.requirement("model.positions")


@pytest.mark.parametrize(("length", "width", "base"), [(50, 8, 10000.0), (3, 32, 100.0)])
def test_the_sinusoidal_table_is_that_of_the_paper(length: int, width: int, base: float) -> None:
    expected = np.empty((length, width))
    for p in range(length):
        for i in range(width // 2):
            expected[p, 2 * i] = np.sin(p / base ** (2 * i / width))
            expected[p, 2 * i + 1] = np.cos(p / base ** (2 * i / width))
    table = sinusoidal_table(length, width, base)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table.numpy(), expected, atol=1e-6)


def test_far_positions_keep_their_precision() -> None:
    table = sinusoidal_table(100_001, 6)
    for pair in range(3):
        angle = 100_000 / 10000.0 ** (2 * pair / 6)
        assert abs(table[100_000, 2 * pair].item() - np.sin(angle)) < 1e-6
    assert rotary_angles(torch.arange(3), 4).dtype == torch.float64


def test_rotary_angles_fall_with_the_pair_and_grow_with_the_position() -> None:
    angles = rotary_angles(torch.tensor([0, 1, 7]), 4, base=100.0)
    expected = [[0.0, 0.0], [1.0, 0.1], [7.0, 0.7]]
    assert largest_difference(angles, torch.tensor(expected).double()) < 1e-6


def test_rotary_turns_each_pair_of_the_two_halves_by_its_angle() -> None:
    table = RotaryTable(6, 12, base=50.0)
    x = torch.randn(1, 1, 12, 6, generator=torch.Generator().manual_seed(0))
    turned = table(x)[0, 0].numpy()
    for p in range(12):
        for i in range(3):
            angle = p / 50.0 ** (2 * i / 6)
            pair = complex(x[0, 0, p, i].item(), x[0, 0, p, i + 3].item())
            expected = pair * np.exp(1j * angle)
            np.testing.assert_allclose(turned[p, i], expected.real, atol=1e-5)
            np.testing.assert_allclose(turned[p, i + 3], expected.imag, atol=1e-5)


def test_rotary_dot_products_depend_on_the_distance_alone() -> None:
    draws = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 8, generator=draws, dtype=torch.float64) for _ in range(2))
    table = RotaryTable(8, 64)
    angles = rotary_angles(torch.arange(64), 8)
    table.cos, table.sin = angles.cos(), angles.sin()

    def dot(query_position: int, key_position: int) -> float:
        return (table(q, query_position) * table(k, key_position)).sum().item()

    for distance in (0, 1, 5, 30):
        dots = [dot(start + distance, start) for start in (0, 1, 10, 33)]
        assert max(dots) - min(dots) < 1e-10
    assert abs(dot(5, 0) - dot(0, 5)) > 1e-3
    assert abs(dot(5, 0) - dot(6, 0)) > 1e-3


def test_rotary_keeps_lengths_and_dtype_and_the_first_position() -> None:
    table = RotaryTable(8, 16)
    x = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    assert largest_difference(table(x).norm(dim=-1), x.norm(dim=-1)) < 1e-5
    assert torch.equal(table(x)[:, :, 0], x[:, :, 0])
    assert apply_rotary(x.bfloat16(), table.cos, table.sin).dtype == torch.bfloat16


def test_an_offset_continues_where_the_first_part_ended() -> None:
    table = RotaryTable(8, 16)
    x = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    parts = [table(x[:, :, :5]), table(x[:, :, 5:], offset=5)]
    assert torch.equal(torch.cat(parts, dim=2), table(x))
    for position in ("learned", "sinusoidal"):
        embedding = PositionalEmbedding(tiny_config(position=position))
        assert embedding(4, 7).shape == (4, 32)
        assert torch.equal(embedding(4, 7), embedding.weight[7:11])


@pytest.mark.parametrize("position", POSITIONS)
def test_only_learned_positions_are_parameters_and_no_table_is_saved(position: str) -> None:
    model = Transformer(tiny_config(position=position))
    assert model.state_dict().keys() == {n for n, _ in model.named_parameters()} | {
        "lm_head.weight"
    }
    names = [name for name, _ in model.named_parameters() if "position" in name]
    assert names == (["embeddings.position.weight"] if position == "learned" else [])
    if position == "learned":
        assert model.get_parameter(names[0]).shape == (16, 32)


def test_the_base_of_the_wavelengths_comes_from_the_config() -> None:
    for position in ("sinusoidal", "rotary"):
        outputs = [
            tiny_model(tiny_config(position=position, rotary_base=base))(token_ids())
            for base in (10.0, 10000.0)
        ]
        assert largest_difference(*outputs) > 1e-3
    table = PositionalEmbedding(tiny_config(position="sinusoidal", rotary_base=10.0)).weight
    assert torch.equal(table, sinusoidal_table(16, 32, 10.0))


@pytest.mark.parametrize("position", POSITIONS)
def test_the_order_of_earlier_tokens_matters_exactly_where_there_are_positions(
    position: str,
) -> None:
    model = tiny_model(tiny_config(position=position, n_layers=1), dtype=torch.float64)
    ids = token_ids(batch=1)
    swapped = ids.clone()
    swapped[0, [2, 9]] = ids[0, [9, 2]]
    assert ids[0, 2] != ids[0, 9]
    difference = largest_difference(model(ids)[:, -1], model(swapped)[:, -1])
    assert (difference < 1e-10) is (position == "none")


@pytest.mark.parametrize("position", POSITIONS)
def test_every_kind_of_position_trains_a_step(position: str) -> None:
    model = Transformer(tiny_config(position=position))
    ids = token_ids(length=17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        loss = compute_loss(model(ids[:, :-1]), ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
