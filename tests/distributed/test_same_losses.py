"""However many ranks share a batch, and in whatever way: the losses are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.distributed.helpers import lines_of, losses_of, spared, train

STEPS = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(autouse=True)
def cache_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_TRANSFORMER_CACHE", str(folder / "cache"))


_ALONE: dict[tuple[str, ...], Path] = {}


def alone(folder: Path, words: tuple[str, ...]) -> Path:
    """Return the run of one process with these settings."""
    if words not in _ALONE:
        _ALONE[words] = train(folder, f"alone-{len(_ALONE)}", 1, *words)
    return _ALONE[words]


MUON = ("--optimizer.name", "muon", "--optimizer.muon-learning-rate", "0.01")
ACCUMULATED = ("--training.accumulation-steps", "2")
HOOKED = (
    *("--hook", "noise eta=0.0001", "--hook", "activation_stats every=10"),
    *("--hook", "weight_norms every=20", "--hook", "gradient_norms every=20"),
)
TIED = ("--model.tie-weights", "True")


@pytest.mark.requirement("distributed.same-losses")
@pytest.mark.parametrize(
    ("strategy", "n_ranks", "words", "rare"),
    [
        ("ddp", 2, (), True),
        ("ddp", 4, (*MUON, *ACCUMULATED), False),
        ("fsdp", 2, MUON, True),
        ("fsdp", 4, ACCUMULATED, True),
        ("ddp", 2, HOOKED, True),
        ("fsdp", 2, (*HOOKED, *TIED), False),
        ("fsdp", 3, (*MUON, *TIED, "--training.batch-size", "6"), True),
    ],
)
def test_losses_do_not_depend_on_the_number_of_ranks(
    folder: Path, strategy: str, n_ranks: int, words: tuple[str, ...], rare: bool, torture: bool
) -> None:
    spared(torture, rare=rare)
    words = (*words, "--training.max-steps", str(STEPS))
    name = f"{strategy}-{n_ranks}-{abs(hash(words))}"
    run = train(folder, name, n_ranks, *words, "--distributed.strategy", strategy)
    wanted, found = losses_of(alone(folder, words)), losses_of(run)
    assert list(found) == list(range(1, STEPS + 1))
    assert max(abs(found[step] - wanted[step]) for step in wanted) <= 1e-5
    (theirs,), (ours,) = lines_of(alone(folder, words), "eval"), lines_of(run, "eval")
    assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-5)
    assert ours["n_targets"] == theirs["n_targets"]
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte"], abs=1e-4)
    assert lines_of(run, "start")[0]["environment"]["ranks"] == n_ranks
