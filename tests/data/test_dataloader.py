from __future__ import annotations

import itertools
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.data import DataLoader, WindowDataset
from tiny_transformer.data.permutation import Permutation
from tiny_transformer.runtime.errors import ConfigError, DataError


def loader(n: int = 1000, batch_size: int = 16, **options: object) -> DataLoader:
    return DataLoader(WindowDataset(np.arange(n), 4), batch_size, **options)  # type: ignore[arg-type]


@pytest.mark.requirement("data.loader-order")
@given(st.integers(1, 700), st.integers(0, 2**63))
def test_the_permutation_is_a_bijection(n: int, key: int) -> None:
    assert np.array_equal(np.sort(Permutation(n, key)(np.arange(n))), np.arange(n))


@pytest.mark.requirement("data.loader-order")
def test_the_permutation_of_a_huge_range_needs_no_table() -> None:
    n = 10**15
    positions = np.array([0, 1, n // 2, n - 1])
    sent = Permutation(n, 1)(positions)
    assert len(set(sent.tolist())) == 4
    assert sent.min() >= 0
    assert sent.max() < n
    assert np.array_equal(Permutation(n, 1)(positions[::-1]), sent[::-1])


def test_positions_outside_the_range_are_refused() -> None:
    for position in (-1, 10):
        with pytest.raises(IndexError):
            Permutation(10, 0)(np.array([position]))
    with pytest.raises(ValueError, match="between 1"):
        Permutation(0, 0)


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.requirement("data.loader-order")
@pytest.mark.parametrize("n", [2, 3, 4, 5, 16, 17, 40])
def test_every_position_is_sent_everywhere_equally_often(n: int) -> None:
    keys = 300
    counts = np.zeros((n, n))
    for key in range(keys):
        counts[np.arange(n), Permutation(n, key)(np.arange(n))] += 1
    freedom = (n - 1) ** 2
    assert abs(chi_square(counts) - freedom) < 5 * (2 * freedom) ** 0.5 + 5


@pytest.mark.requirement("data.loader-order")
def test_all_orders_of_four_are_equally_likely() -> None:
    orders = dict.fromkeys(itertools.permutations(range(4)), 0)
    for key in range(2400):
        orders[tuple(Permutation(4, key)(np.arange(4)).tolist())] += 1
    assert chi_square(np.array(list(orders.values()))) < 23 + 5 * 46**0.5


@pytest.mark.requirement("data.loader-order")
def test_adjacent_positions_and_epochs_are_sent_independently() -> None:
    n = 100_000
    first, second = (Permutation(n, 1337, epoch)(np.arange(n)) for epoch in (0, 1))
    pairs = {
        "neighbours": (first[:-1], first[1:]),
        "place": (np.arange(n), first),
        "epochs": (first, second),
    }
    for name, (a, b) in pairs.items():
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / n**0.5, name
        cells = np.histogram2d(a, b, bins=16)[0]
        assert chi_square(cells) < 255 + 5 * 510**0.5, name
    assert abs((first == np.arange(n)).sum() - 1) < 8  # fixed points: Poisson(1)


@pytest.mark.requirement("data.loader-order")
def test_an_epoch_draws_each_window_once_and_the_next_in_another_order() -> None:
    data = loader(1000, 16)
    steps = data.steps_per_epoch
    assert steps == len(data) == len(data.dataset) // 16
    epochs = [
        np.concatenate([data.indices(epoch * steps + step) for step in range(steps)])
        for epoch in range(3)
    ]
    for drawn in epochs:
        assert len(set(drawn.tolist())) == steps * 16
        assert drawn.max() < len(data.dataset)
    assert not np.array_equal(epochs[0], epochs[1])
    # The windows that fill no batch are others in each epoch.
    assert len({frozenset(drawn.tolist()) for drawn in epochs}) == 3


@pytest.mark.requirement("data.loader-order")
def test_the_order_is_a_function_of_seed_and_step() -> None:
    first, second = loader(seed=5), loader(seed=5)
    steps = [40, 3, 0, 17, 3]
    assert all(np.array_equal(first.indices(s), second.indices(s)) for s in steps)
    assert not np.array_equal(first.indices(0), loader(seed=6).indices(0))
    # A change of these numbers changes every run that was ever recorded.
    assert loader(seed=1337).indices(0)[:4].tolist() == [140, 38, 237, 5]


def test_the_order_does_not_touch_the_global_generators() -> None:
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    loader().batch(0)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[arg-type]


def test_without_shuffling_windows_come_in_the_order_of_the_text() -> None:
    data = loader(shuffle=False)
    assert data.indices(0).tolist() == list(range(16))
    assert data.indices(data.steps_per_epoch + 1).tolist() == list(range(16, 32))


@pytest.mark.requirement("data.accumulation")
@pytest.mark.parametrize("accumulation_steps", [1, 2, 4, 16])
def test_micro_batches_are_equal_and_join_to_the_batch(accumulation_steps: int) -> None:
    data = loader(accumulation_steps=accumulation_steps)
    for step in (0, 5, 100):
        pieces = list(data.micro_batches(step))
        assert [len(x) for x, _ in pieces] == [16 // accumulation_steps] * accumulation_steps
        x, y = data.batch(step)
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), x)
        assert torch.equal(torch.cat([piece[1] for piece in pieces]), y)


@pytest.mark.requirement("data.accumulation")
@pytest.mark.parametrize(("batch_size", "accumulation_steps"), [(16, 3), (0, 1), (4, 0), (4, 8)])
def test_micro_batches_of_unequal_size_are_refused(
    batch_size: int, accumulation_steps: int
) -> None:
    with pytest.raises(ConfigError, match="must divide batch_size"):
        loader(batch_size=batch_size, accumulation_steps=accumulation_steps)


def test_iterating_gives_one_epoch_and_from_step_goes_on() -> None:
    data = loader()
    epoch = list(data)
    assert len(epoch) == len(data)
    assert torch.equal(epoch[3][0], data.batch(3)[0])
    last = len(data) - 1
    following = list(itertools.islice(data.from_step(last), 3))
    for offset, (x, _) in enumerate(following):
        assert torch.equal(x, data.batch(last + offset)[0])
    with pytest.raises(IndexError):
        data.indices(-1)


@pytest.mark.requirement("data.too-short")
def test_fewer_windows_than_a_batch_says_how_many_characters_are_needed() -> None:
    with pytest.raises(DataError, match=r"16 windows needs 65 characters.*has 64, which give 15"):
        loader(64)
    assert len(loader(65)) == 1


def _batches_of(data: DataLoader, steps: list[int]) -> list[list[list[int]]]:
    return [data.batch(step)[0].tolist() for step in steps]


@pytest.mark.requirement("data.loader-order")
def test_a_spawned_process_draws_the_same_batches(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    np.random.default_rng(0).integers(0, 99, 100_000).astype(np.uint8).tofile(path)
    tokens = np.memmap(path, np.uint8, "r")
    data = DataLoader(WindowDataset([tokens[:60_000], tokens[70_001:]], 32))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_batches_of, (data, [0, 7, 500]))
    assert there == _batches_of(data, [0, 7, 500])
