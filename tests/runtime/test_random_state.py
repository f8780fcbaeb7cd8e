"""Randomness that is a function of its names, and leaves no trace."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.runtime.random_state import (
    derive_seed,
    forked_rng,
    generator,
    generator_states,
    restore_generator_states,
)

part = st.integers() | st.text(alphabet=st.characters(exclude_characters="\x1f"))


@given(first=st.lists(part, max_size=4), second=st.lists(part, max_size=4))
def test_seeds_are_equal_only_for_equal_parts(
    first: list[int | str], second: list[int | str]
) -> None:
    assert (derive_seed(*first) == derive_seed(*second)) == (first == second)
    assert 0 <= derive_seed(*first) < 2**63


def test_a_seed_depends_on_the_kind_and_the_order_of_its_parts() -> None:
    seeds = {
        derive_seed(1, 2), derive_seed(2, 1), derive_seed(12), derive_seed("1", 2),
        derive_seed(1, "2"), derive_seed("12"), derive_seed(1, 2, 0), derive_seed(),
    }  # fmt: skip
    assert len(seeds) == 8


def test_a_seed_is_the_head_of_a_sha256_and_so_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(b"int:3\x1fstr:dropout").digest()
    assert derive_seed(3, "dropout") == int.from_bytes(digest[:8], "big") // 2


def test_a_generator_repeats_for_equal_parts_and_differs_for_others() -> None:
    def draws(*parts: int | str) -> list[float]:
        return torch.rand(4, generator=generator(*parts)).tolist()

    assert draws(1, "a") == draws(1, "a")
    assert draws(1, "a") != draws(1, "b")


def test_a_generator_does_not_touch_the_global_one() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_a_fork_repeats_and_restores(device: torch.device | None) -> None:
    before = torch.get_rng_state()
    with forked_rng(1, "step", device=device):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    with forked_rng(1, "step", device=device):
        assert torch.equal(torch.rand(3), first)
    with forked_rng(2, "step", device=device):
        assert not torch.equal(torch.rand(3), first)


def test_a_fork_restores_after_an_exception_and_inside_another_fork() -> None:
    before = torch.get_rng_state()
    with forked_rng(1):
        expected = torch.rand(4)
    with forked_rng(1):
        first = torch.rand(2)
        with pytest.raises(RuntimeError), forked_rng(2):
            torch.rand(1)
            raise RuntimeError
        assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fork_of_the_accelerator_repeats_and_restores() -> None:
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state()
    with forked_rng(1, device=device):
        first = torch.rand(3, device=device)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with forked_rng(1, device=device):
        assert torch.equal(torch.rand(3, device=device), first)


def _draws() -> list[float]:
    """Odd numbers of normal draws, so that a spare one is waiting between calls."""
    return [
        *torch.rand(3).tolist(),
        *torch.randn(3).tolist(),
        *np.random.rand(3).tolist(),
        *np.random.randn(3).tolist(),
        *(random.random() for _ in range(3)),
        *(random.gauss(0, 1) for _ in range(3)),
    ]


@pytest.mark.parametrize("draws_before", [0, 1, 2, 3])
def test_restored_generators_go_on_exactly_where_they_were(draws_before: int) -> None:
    for _ in range(draws_before):
        _draws()
    states = generator_states()
    expected = _draws()
    assert _draws() != expected
    restore_generator_states(states)
    assert _draws() == expected
    restore_generator_states({name: state.clone() for name, state in states.items()})
    assert _draws() == expected


def test_looking_at_the_states_changes_nothing() -> None:
    first, second = generator_states(), generator_states()
    assert first.keys() == second.keys() >= {"torch", "numpy", "python"}
    assert all(torch.equal(first[name], second[name]) for name in first)
