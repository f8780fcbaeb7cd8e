"""A replay makes the same numbers, names the first that differ, and leaves no trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.helpers import bytes_below, resumed, silent, tiny_config, train, trainer

from tiny_transformer.hooks.observers import SampleWriter
from tiny_transformer.runtime.errors import DataError, RunError
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import RunLog, bits_of, read_log
from tiny_transformer.training.replay import Replay, plan_replay, replay
from tiny_transformer.training.trainer import Trainer

STEPS = 9
HOOKS = [
    {"name": "noise", "eta": 0.05},
    {"name": "weight_norms", "every": 2},
    {"name": "scale", "factor": 0.5, "parameters": ["*.weight"]},
    {"name": "sample_writer", "every": 4, "max_new_tokens": 3},
    {"name": "layer_learning_rate", "decay": 0.5},
    {"name": "activation_stats", "every": 2},
]
BUSY: dict[str, Any] = {
    "training__max_steps": STEPS,
    "training__accumulation_steps": 2,
    "training__eval_every": 2,
    "training__sample_every": 4,
    "training__checkpoint_every": 3,
    "checkpoints__keep_last": None,
    "model__dropout": 0.2,
    "schedule__name": "cosine",
    "schedule__warmup_steps": 2,
    "hooks": HOOKS,
}

pytestmark = pytest.mark.requirement("runs.replay")


def replayed(folder: RunFolder, first: int | None = None, last: int | None = None) -> Replay:
    return replay(plan_replay(folder, first, last))


def rewrite(folder: RunFolder, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a log line by line, and chain all of it anew, as a cheat would."""
    lines = read_log(folder.log)
    folder.log.unlink()
    log = RunLog(folder.log, {n: lines[0][n] for n in ("run_id", "config_hash", "git_commit")})
    for line in lines:
        del line["chain"]
        change(line)
        log.write(**line)
    log.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("busy")
        patch.setenv("TINY_TRANSFORMER_CACHE", str(folder / "cache"))
        return train(folder, **BUSY)[1].folder


@pytest.fixture
def busy(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a copy of a run with all that a run can have."""
    return RunFolder(Path(shutil.copytree(trained.path, tmp_path / "runs" / "busy")))


@pytest.mark.parametrize(
    ("first", "last", "origin", "losses", "checkpoints"),
    [
        (None, None, 6, 5, 1),
        (1, STEPS, None, 14, 3),
        (2, 5, None, 6, 1),
        (4, 4, 3, 2, 0),
        (5, None, 3, 8, 2),
        (None, 6, 3, 5, 1),
    ],
)
def test_any_slice_of_a_run_with_everything_comes_out_equal(
    busy: RunFolder,
    first: int | None,
    last: int | None,
    origin: int | None,
    losses: int,
    checkpoints: int,
) -> None:
    found = replayed(busy, first, last)
    assert found.difference is None
    assert found.origin == (None if origin is None else busy.checkpoint(origin))
    assert (found.losses, found.checkpoints, found.notes) == (losses, checkpoints, [])


def test_a_replay_changes_nothing_and_observers_stay_silent(
    busy: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(SampleWriter, "close", lambda self: closed.append(self), raising=False)
    before = bytes_below(busy.path)
    torch.manual_seed(123)
    np.random.seed(123)
    expected = torch.rand(1, generator=torch.Generator().manual_seed(123)).item()
    drawn = np.random.RandomState(123).random()
    replayed(busy, 1)
    replayed(busy, 4)
    assert bytes_below(busy.path) == before
    assert torch.rand(1).item() == expected
    assert np.random.random() == drawn
    assert len(closed) == 2


@pytest.mark.requirement("record.loss-bits")
@pytest.mark.parametrize("step", [1, 4, 8])
@pytest.mark.parametrize("whole", [True, False])
def test_a_forged_loss_is_named_by_its_step(busy: RunFolder, step: int, whole: bool) -> None:
    def forge(line: dict[str, Any]) -> None:
        if line["event"] == "train" and line["step"] == step:
            line["loss"] = float(np.nextafter(line["loss"], 0))
            if whole:
                line["loss_bits"] = bits_of(line["loss"])

    rewrite(busy, forge)
    gap = replayed(busy, 1).difference
    assert gap is not None
    assert (gap.step, gap.what) == (step, "loss")
    assert gap.recorded != gap.found
    after = replayed(busy, step + 1)
    assert after.difference is None


def test_a_forged_validation_loss_is_named_by_its_step(busy: RunFolder) -> None:
    def forge(line: dict[str, Any]) -> None:
        if line["event"] == "eval" and line["step"] == 4:
            line["val_loss"] /= 2
            line["val_loss_bits"] = bits_of(line["val_loss"])

    rewrite(busy, forge)
    gap = replayed(busy, 1).difference
    assert gap is not None
    assert (gap.step, gap.what) == (4, "val_loss")


@pytest.mark.parametrize("what", ["blocks.0.mlp.up_proj.weight", "the optimizer state"])
def test_a_forged_checkpoint_is_named_by_its_tensor(busy: RunFolder, what: str) -> None:
    def forge(line: dict[str, Any]) -> None:
        if line["event"] == "checkpoint" and line["step"] == 6:
            if what in line["tensors"]:
                line["tensors"][what] = "0" * 64
            else:
                line["optimizer_sha256"] = "0" * 64

    rewrite(busy, forge)
    gap = replayed(busy, 1).difference
    assert gap is not None
    assert (gap.step, gap.what, gap.recorded) == (6, what, "0" * 64)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_resumed_with_other_horizons_comes_out_equal(tmp_path: Path, optimizer: str) -> None:
    changes = {**BUSY, "optimizer__name": optimizer, "training__stop_at": 4}
    folder = train(tmp_path, **changes)[1].folder
    resumed(folder.path, stop_at=7).train()
    resumed(folder.checkpoint(3), max_steps=14, stop_at=8).train()  # an earlier one
    resumed(folder.path, max_steps=20, stop_at=10).train()
    for first in (1, 4, 7, 9):
        found = replayed(folder, first, 10)
        assert found.difference is None, first
        assert found.losses >= 10 - first + 1
    # The horizon is part of the record: with another one the next loss is another.
    rewrite(folder, lambda line: line.update(max_steps=9) if "max_steps" in line else None)
    gap = replayed(folder, 1, 10).difference
    assert gap is not None
    assert (gap.step, gap.what) == (4, "val_loss")


def test_a_log_with_gaps_is_compared_where_it_has_lines(tmp_path: Path) -> None:
    folder = train(tmp_path, **{**BUSY, "training__log_every": 4, "training__stop_at": 7})[1].folder
    last = read_log(folder.log)[-1]
    assert (last["event"], last["step"]) == ("end", 7)
    found = replayed(folder, 1)
    assert (found.difference, found.last_step, found.checkpoints) == (None, 7, 3)

    def drop_the_last_loss(line: dict[str, Any]) -> None:
        if line["event"] == "train" and line["step"] == 7:
            line["event"] = "other"

    rewrite(folder, drop_the_last_loss)  # as an interrupt leaves it: a checkpoint without a loss
    assert replayed(folder).last_step == 7
    with pytest.raises(RunError, match="neither a loss nor a checkpoint"):
        plan_replay(folder, 5, 5)


def test_a_run_from_another_runs_weights_finds_them_also_after_that_one_went_on(
    tmp_path: Path,
) -> None:
    source = train(tmp_path, run_name="source", training__stop_at=3)[1].folder
    config = tiny_config(tmp_path, training__seed=9, training__checkpoint_every=3)
    made = Trainer(config, init_from=source.path, reporter=silent()).train().folder
    assert replayed(made, 1).difference is None
    resumed(source.path).train()
    assert replayed(made, 1).difference is None
    shutil.rmtree(source.checkpoint(3))
    with pytest.raises(RunError, match=r"no checkpoint there has now.*--from"):
        replayed(made, 1)
    shutil.rmtree(source.path)
    with pytest.raises(RunError, match=r"source.*--init-from.*cannot be read.*--from"):
        replayed(made, 1)
    assert replayed(made, 4).difference is None


def test_the_recorded_threads_are_set_and_put_back(
    busy: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), []
    rewrite(
        busy, lambda line: line["environment"].update(threads=3) if "environment" in line else None
    )
    replay(plan_replay(busy, 4, 5), on_step=lambda step: seen.append(torch.get_num_threads()))
    assert seen == [3, 3]
    assert torch.get_num_threads() == before

    def fail(step: int) -> None:
        raise ValueError(step)

    with pytest.raises(ValueError, match="4"):
        replay(plan_replay(busy, 4, 5), on_step=fail)
    assert torch.get_num_threads() == before


def test_another_torch_processor_or_hook_is_noted(busy: RunFolder) -> None:
    def change(line: dict[str, Any]) -> None:
        if line["event"] == "start":
            line["environment"].update(torch="1.0", processor="abacus")
            line["hooks"][0]["eta"] = 0.5

    rewrite(busy, change)
    found = replayed(busy)
    assert found.difference is None
    assert [note.split(":")[0] for note in found.notes] == [
        "from step 1, torch",
        "from step 1, processor",
        "from step 1, the hooks, or the file of one, are not what they were then",
    ]
    assert "abacus then" in found.notes[1]


def test_code_that_came_with_a_run_is_not_run(tmp_path: Path) -> None:
    folder = train(tmp_path)[1].folder
    (folder.path / "mine.py").write_text("raise SystemExit('run')")
    config = folder.path / "config.yaml"
    name = f"{folder.path / 'mine.py'}:Mine"
    config.write_text(config.read_text().replace("hooks: []", f"hooks: [{{name: '{name}'}}]"))
    with pytest.raises(RunError, match="inside the run's own folder"):
        replayed(folder)


@pytest.mark.parametrize(("first", "last"), [(0, 3), (5, 4), (3, 10), (-2, None), (10, None)])
def test_steps_that_a_run_does_not_have_are_refused(
    busy: RunFolder, first: int, last: int | None
) -> None:
    with pytest.raises(RunError, match=r"cannot be replayed: .* has the steps 1 to 9\.$"):
        plan_replay(busy, first, last)


def test_a_run_without_checkpoints_is_replayed_from_its_beginning(busy: RunFolder) -> None:
    shutil.rmtree(busy.path / "checkpoints")
    found = replayed(busy)
    assert (found.origin, found.first_step, found.last_step) == (None, 1, STEPS)
    assert found.difference is None


def test_what_is_no_record_of_a_run_is_explained(busy: RunFolder) -> None:
    whole = busy.log.read_bytes().splitlines(keepends=True)
    busy.log.write_bytes(whole[0])
    with pytest.raises(RunError, match=r"made no update.*--no-replay"):
        plan_replay(busy)
    for text in (b"", b"{}\n", b'{"event": "resume", "step": 3}\n', b"\xff\n", *whole[1:2]):
        busy.log.write_bytes(text)
        with pytest.raises(RunError, match=r"no beginning|cannot be replayed"):
            plan_replay(busy)
    start = json.loads(whole[0])
    for name in ("environment", "device", "max_steps", "hooks", "weights_sha256"):
        for broken in ({**start, name: 1.5}, {k: v for k, v in start.items() if k != name}):
            busy.log.write_text(json.dumps(broken) + "\n")
            with pytest.raises(RunError, match=f"its start line at step 0 does not say '{name}'"):
                plan_replay(busy)
    rewrite(busy, lambda line: None)


def test_a_corpus_that_changed_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be\n" * 200)
    changes = {"data__corpus": str(text), "data__val_fraction": 0.2}
    folder = train(tmp_path, training__checkpoint_every=3, **changes)[1].folder
    text.write_text("to be or not to bE\n" * 200)
    with pytest.raises(RunError, match="is not the one that the run had"):
        replayed(folder, 1)
    with pytest.raises(DataError, match="changed since"):
        replayed(folder, 4)


def test_a_replay_is_what_training_would_have_made(tmp_path: Path) -> None:
    """Not only what the log says: another seed gives another first loss."""
    folder = train(tmp_path)[1].folder
    other = trainer(tiny_config(tmp_path, training__seed=5))
    loss = other.state.compute_gradients().loss
    recorded = {x["step"]: x["loss_bits"] for x in read_log(folder.log) if x["event"] == "train"}
    assert bits_of(loss) != recorded[1]
