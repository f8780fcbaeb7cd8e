"""Dropout: each element zeroed with the stated probability, the others scaled up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.dropout import Dropout, dropout
from tiny_transformer.runtime.random_state import forked_rng


@pytest.mark.parametrize("zeroed", [1, 26, 128, 255])
def test_elements_are_zeroed_as_often_as_stated_and_the_mean_is_kept(zeroed: int) -> None:
    n, probability = 1 << 20, zeroed / 256
    with forked_rng(1):
        y = dropout(torch.ones(n), probability)
    spread = (probability * (1 - probability) / n) ** 0.5
    assert abs((y == 0).float().mean().item() - probability) < 5 * spread
    kept = y[y != 0]
    assert torch.allclose(kept, torch.full_like(kept, 256 / (256 - zeroed)))


def test_neighbouring_elements_are_dropped_independently() -> None:
    with forked_rng(2):
        dropped = (dropout(torch.ones(1 << 18, 8), 0.25) == 0).double()
    correlation = torch.corrcoef(dropped.T) - torch.eye(8)
    assert correlation.abs().max() < 5 / (1 << 18) ** 0.5


@given(shape=st.lists(st.integers(0, 5), max_size=3))
def test_every_shape_and_dtype_is_kept(shape: list[int]) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        y = dropout(torch.ones(shape, dtype=dtype), 0.5)
        assert (y.shape, y.dtype) == (torch.Size(shape), dtype)
        assert y.flatten().unique().tolist() in ([], [0.0], [2.0], [0.0, 2.0])


def test_the_gradient_passes_through_the_same_mask() -> None:
    x = torch.full((64, 64), 3.0, requires_grad=True)
    y = dropout(x, 0.5)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad * 3, y.detach())


def test_it_acts_in_training_only_and_repeats_in_a_forked_generator() -> None:
    layer, x = Dropout(0.5), torch.ones(100)
    outputs = []
    for seed in (1, 1, 2):
        with forked_rng(seed):
            outputs.append(layer(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert layer.eval()(x) is x


def test_no_probability_draws_nothing() -> None:
    before, x = torch.get_rng_state(), torch.ones(5)
    assert dropout(x, 0.0) is x
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("given_", "applied"), [(0.1, 26 / 256), (0.5, 0.5), (0.0, 0.0)])
def test_a_setting_is_rounded_to_a_multiple_of_one_in_256(given_: float, applied: float) -> None:
    assert ModelConfig(dropout=given_).dropout_probability == applied
