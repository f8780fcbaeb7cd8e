from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.data import Split, WindowDataset, split_corpus
from tiny_transformer.runtime.errors import ConfigError, DataError

seeds = st.none() | st.integers(0, 2**63)


def mapped(folder: Path, n: int) -> np.memmap:
    path = folder / "tokens.bin"
    (np.arange(n) % 99).astype(np.uint8).tofile(path)
    return np.memmap(path, np.uint8, "r")


@pytest.mark.requirement("data.split")
@given(st.integers(1, 500), st.floats(0.001, 0.999), seeds)
def test_the_parts_are_disjoint_contiguous_and_cover_everything(
    n: int, fraction: float, seed: int | None
) -> None:
    tokens = np.arange(n)
    split = split_corpus(tokens, fraction, seed)
    assert len(split.validation) == round(n * fraction)
    assert len(split.train) <= 2
    for part in (*split.train, split.validation):
        assert np.array_equal(part, np.arange(len(part)) + (part[0] if len(part) else 0))
        assert np.shares_memory(part, tokens) or not len(part)
    together = np.concatenate([*split.train, split.validation])
    assert np.array_equal(np.sort(together), tokens)


@pytest.mark.requirement("data.split")
def test_validation_is_at_the_end_unless_a_seed_moves_it() -> None:
    tokens = np.arange(1000)
    split = split_corpus(tokens)
    assert split.validation.tolist() == list(range(950, 1000))
    assert [part.tolist() for part in split.train] == [list(range(950))]
    starts = {int(split_corpus(tokens, seed=seed).validation[0]) for seed in range(50)}
    assert len(starts) > 40
    assert min(starts) < 200
    assert max(starts) > 750
    again = split_corpus(tokens, seed=7)
    assert again.validation[0] == split_corpus(tokens, seed=7).validation[0]


def test_the_parts_of_a_mapped_file_stay_mapped(tmp_path: Path) -> None:
    split = split_corpus(mapped(tmp_path, 1000), seed=3)
    assert isinstance(split, Split)
    assert all(isinstance(part, np.memmap) for part in (*split.train, split.validation))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_fraction_that_leaves_nothing_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="val_fraction"):
        split_corpus(np.arange(10), fraction)


@pytest.mark.requirement("data.windows")
@given(st.integers(2, 200), st.integers(1, 20), st.none() | st.integers(1, 30))
def test_windows_are_cut_at_every_stride_and_the_incomplete_one_is_dropped(
    n: int, context_length: int, stride: int | None
) -> None:
    tokens = np.arange(n).astype(np.uint8)
    step = stride or context_length
    starts = [s for s in range(0, n, step) if s + context_length + 1 <= n]
    if not starts:
        with pytest.raises(DataError):
            WindowDataset(tokens, context_length, stride)
        return
    dataset = WindowDataset(tokens, context_length, stride)
    assert len(dataset) == len(starts)
    for index, start in enumerate(starts):
        x, y = dataset[index]
        assert x.dtype == y.dtype == torch.int64
        assert x.tolist() == list(range(start, start + context_length))
        assert y.tolist() == list(range(start + 1, start + context_length + 1))


@pytest.mark.requirement("data.split")
@given(st.integers(30, 300), st.integers(1, 10), st.integers(1, 12), st.integers(0, 1000))
def test_no_window_crosses_the_gap_that_validation_leaves(
    n: int, context_length: int, stride: int, seed: int
) -> None:
    split = split_corpus(np.arange(n), 0.2, seed)
    dataset = WindowDataset(split.train, context_length, stride)
    x, y = dataset.batch(range(len(dataset)))
    assert torch.equal(x + 1, y)  # consecutive numbers: nothing was skipped
    assert not set(y.flatten().tolist()) & set(split.validation.tolist())
    assert len(dataset) == sum(
        max(0, (len(part) - context_length - 1) // stride + 1) for part in split.train
    )


@pytest.mark.requirement("data.windows")
def test_a_batch_holds_the_windows_that_were_asked_for() -> None:
    dataset = WindowDataset([np.arange(50), np.arange(100, 170)], 8, 3)
    wanted = [5, 0, len(dataset) - 1, -1, 20, -len(dataset)]
    x, y = dataset.batch(wanted)
    assert x.shape == y.shape == (6, 8)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous()
    assert y.is_contiguous()
    for row, index in enumerate(wanted):
        assert torch.equal(x[row], dataset[index][0])
        assert torch.equal(y[row], dataset[index][1])
    assert dataset.batch([])[0].shape == (0, 8)


@pytest.mark.requirement("data.windows")
def test_an_index_outside_is_an_index_error() -> None:
    dataset = WindowDataset(np.arange(100), 8)
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError, match=f"no window {index}"):
            dataset[index]
    assert len(list(dataset)) == len(dataset)  # type: ignore[call-overload]


@pytest.mark.requirement("data.too-short")
def test_a_text_shorter_than_one_window_says_what_is_needed() -> None:
    assert len(WindowDataset(np.arange(257), 256)) == 1
    with pytest.raises(DataError, match=r"needs 257 tokens.*has 256.*--model\.context-length"):
        WindowDataset(np.arange(256), 256)
    with pytest.raises(DataError, match="has 0"):
        WindowDataset([], 4)


@pytest.mark.parametrize(("context_length", "stride"), [(0, None), (4, 0), (-1, 2)])
def test_sizes_below_one_are_refused(context_length: int, stride: int | None) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        WindowDataset(np.arange(100), context_length, stride)


@pytest.mark.requirement("data.larger-than-memory")
def test_a_dataset_over_a_mapped_file_is_pickled_as_its_place_in_the_file(tmp_path: Path) -> None:
    split = split_corpus(mapped(tmp_path, 3_000_000), 0.3, seed=11)
    assert len(split.train) == 2
    dataset = WindowDataset(split.train, 32, 7)
    data = pickle.dumps(dataset)
    assert len(data) < 2000
    copy = pickle.loads(data)
    wanted = np.arange(0, len(dataset), 1000)
    assert len(copy) == len(dataset)
    assert torch.equal(copy.batch(wanted)[0], dataset.batch(wanted)[0])
    assert all(isinstance(part, np.memmap) for part in copy.parts)
    again = pickle.loads(pickle.dumps(copy))
    assert torch.equal(again.batch(wanted)[1], dataset.batch(wanted)[1])


def test_a_dataset_in_memory_is_pickled_with_its_tokens() -> None:
    dataset = WindowDataset(np.arange(100), 8)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3][0], dataset[3][0])
