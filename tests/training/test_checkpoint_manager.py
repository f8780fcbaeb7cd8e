"""Which checkpoints stay, which one is best, and in what order things happen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.helpers import log_of, train

from tiny_transformer.config import CheckpointsConfig
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import CheckpointError, ConfigError
from tiny_transformer.tracking.run_folder import METADATA, RunFolder, find_run, step_of
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.checkpoint_manager import CheckpointManager

pytestmark = pytest.mark.requirement("checkpoints.kept")


def write(path: Path, metadata: Any) -> Path:
    """Write a folder that counts as a checkpoint, with its metadata alone."""
    with files.staged_directory(path) as staged:
        files.write_json(staged / METADATA, dict(metadata))
    return path


def saved(folder: RunFolder, config: CheckpointsConfig, values: dict[int, Any]) -> list[int]:
    """Save checkpoints with these values of the metric, and return the steps that are left."""
    manager = CheckpointManager(folder, config)
    for step, value in values.items():
        manager.save(step, write, {config.metric: value} if value != "missing" else {})
        manager.prune()
    return [step_of(path) for path in folder.checkpoints()]


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (CheckpointsConfig(keep_last=1, keep_best=0), [60]),
        (CheckpointsConfig(keep_last=2, keep_best=0), [50, 60]),
        (CheckpointsConfig(keep_last=None, keep_best=0), [10, 20, 30, 40, 50, 60]),
        (CheckpointsConfig(keep_last=1, keep_best=1), [30, 60]),
        (CheckpointsConfig(keep_last=1, keep_best=2), [30, 40, 60]),
        (CheckpointsConfig(keep_last=1, keep_best=1, mode="max"), [10, 60]),
        (CheckpointsConfig(keep_last=1, keep_best=0, keep_every=20), [20, 40, 60]),
        (CheckpointsConfig(keep_last=2, keep_best=1, keep_every=30), [30, 50, 60]),
        (CheckpointsConfig(keep_last=99, keep_best=99), [10, 20, 30, 40, 50, 60]),
    ],
)
def test_what_any_rule_keeps_stays_and_the_rest_goes(
    tmp_path: Path, config: CheckpointsConfig, kept: list[int]
) -> None:
    values = {10: 9.0, 20: 5.0, 30: 1.0, 40: 2.0, 50: 6.0, 60: 7.0}
    assert saved(RunFolder(tmp_path / "run"), config, values) == kept
    left = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert left == {f"step-{step:08d}" for step in kept}


VALUE = st.one_of(
    st.floats(-1e6, 1e6), st.sampled_from([None, math.nan, math.inf, -math.inf, "missing", "x"])
)


@settings(max_examples=40)
@given(
    values=st.lists(VALUE, min_size=1, max_size=8),
    keep_last=st.integers(1, 3),
    keep_best=st.integers(0, 3),
    mode=st.sampled_from(["min", "max"]),
)
def test_any_metric_is_tolerated_and_the_best_finite_one_is_the_best(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[Any],
    keep_last: int,
    keep_best: int,
    mode: Any,
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    config = CheckpointsConfig(keep_last=keep_last, keep_best=keep_best, mode=mode)
    by_step = dict(enumerate(values, start=1))
    left = saved(folder, config, by_step)
    finite = {s: v for s, v in by_step.items() if isinstance(v, float) and math.isfinite(v)}
    ranked = sorted(finite, key=lambda s: (finite[s] if mode == "min" else -finite[s], -s))
    newest = list(by_step)[-keep_last:]
    assert set(newest) | set(ranked[:keep_best]) <= set(left)
    candidates = [step for step in ranked if step in left]
    if candidates:
        assert step_of(folder.best_checkpoint()) == candidates[0]
        if keep_best:
            assert candidates[0] == ranked[0]  # never pruned, however old
    else:
        with pytest.raises(CheckpointError, match="none is the best"):
            folder.best_checkpoint()
    assert step_of(folder.latest_checkpoint()) == len(values)


def test_a_nan_of_another_number_type_is_no_metric(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for value in (torch.tensor(float("nan")), True, [1.0], {"a": 1}):
        saved(folder, CheckpointsConfig(), {1: value})
        assert json.loads((folder.checkpoint(1) / METADATA).read_text())["metrics"] == {}


def test_of_equal_values_the_later_one_is_the_best(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    saved(folder, CheckpointsConfig(), {1: 2.0, 2: 1.0, 3: 1.0})
    assert step_of(folder.best_checkpoint()) == 3


def test_old_checkpoints_go_only_after_the_new_one_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every rename, removal and sync of a run there is a whole checkpoint to go on from."""
    seen: list[tuple[str, list[int]]] = []
    folder = RunFolder(tmp_path / "run")
    for name in ("os_replace", "os_unlink", "os_rmdir", "os_fsync"):
        call = getattr(files, name)

        def look(*arguments: Any, name: str = name, call: Any = call) -> Any:
            result = call(*arguments)
            seen.append((name, [step_of(path) for path in folder.checkpoints()]))
            return result

        monkeypatch.setattr(files, name, look)
    config = CheckpointsConfig(keep_last=1, keep_best=0)
    saved(folder, config, {1: 1.0, 2: 1.0, 3: 1.0})
    first = next(index for index, (_, steps) in enumerate(seen) if steps)
    assert all(steps for _, steps in seen[first:])
    # Step 1 goes only after the folder that holds step 2 was synced with it in place.
    gone = next(index for index, (_, steps) in enumerate(seen) if steps == [2])
    assert ("os_fsync", [1, 2]) in seen[:gone]


def test_a_run_keeps_by_its_config_and_latest_and_best_resolve(tmp_path: Path) -> None:
    changes = {
        "training__max_steps": 5,
        "training__checkpoint_every": 1,
        "training__eval_every": 1,
        "checkpoints__keep_last": 2,
        "checkpoints__keep_best": 1,
        "checkpoints__metric": "val_loss",
        "checkpoints__mode": "max",  # the worst one, which is an early one
        "run_name": "mine",
    }
    _, result = train(tmp_path, **changes)
    val = {line["step"]: line["val_loss"] for line in log_of(result.folder, "eval")}
    worst = max(val, key=lambda step: val[step])
    assert [step_of(path) for path in result.folder.checkpoints()] == sorted({worst, 4, 5})
    runs = tmp_path / "runs"
    for reference in (f"{result.folder.path}/best", "mine/best", "mine/checkpoints/best"):
        assert find_run(reference, runs)[1] == result.folder.checkpoint(worst), reference
    assert find_run("mine/latest", runs)[1] == result.folder.checkpoint(5)
    assert find_run("mine", runs)[1] == result.folder.checkpoint(5)
    found = load_checkpoint(result.folder.checkpoint(worst))
    assert found.metadata["metrics"]["val_loss"] == val[worst]
    assert found.metadata["rank"] == {"metric": "val_loss", "mode": "max"}
    assert {"git_commit", "git_dirty", "config_hash", "run_id"} <= found.metadata.keys()
    assert set(found.metadata["files"]) == {p.name for p in found.path.iterdir()} - {METADATA}


@pytest.mark.parametrize("metric", ["loss", "grad_norm", "weight_norms/total"])
def test_the_best_is_by_any_logged_metric(tmp_path: Path, metric: str) -> None:
    _, result = train(
        tmp_path,
        training__checkpoint_every=1,
        checkpoints__keep_last=None,
        checkpoints__metric=metric,
        hooks=[{"name": "weight_norms", "every": 1}],
    )
    values = {
        step_of(path): load_checkpoint(path).metadata["metrics"][metric]
        for path in result.folder.checkpoints()
    }
    assert len(values) == 6
    best = min(values, key=lambda step: values[step])
    assert step_of(result.folder.best_checkpoint()) == best


def test_a_metric_of_another_step_is_not_taken_for_this_one(tmp_path: Path) -> None:
    _, result = train(tmp_path, training__checkpoint_every=3, training__eval_every=2)
    at_3 = load_checkpoint(result.folder.checkpoint(3)).metadata["metrics"]
    assert "loss" in at_3
    assert "val_loss" not in at_3


@pytest.mark.parametrize(
    "changes",
    [
        {"keep_last": 0},
        {"keep_best": -1},
        {"keep_every": -1},
        {"metric": ""},
    ],
)
def test_rules_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="checkpoints"):
        CheckpointsConfig(**changes)
