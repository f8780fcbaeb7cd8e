"""A run that is stopped and continued is the run that was never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.helpers import bytes_below, log_of, resumed, tiny_config, train, trainer

from tiny_transformer.model.loss import compute_loss
from tiny_transformer.runtime.errors import CheckpointError, DataError, RunError
from tiny_transformer.tracking.run_folder import RunFolder, step_of
from tiny_transformer.tracking.run_log import metric_by_step
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.checkpoint_files import seal
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import joint_hash, tensor_hashes, weights_hash

STEPS = 12
HOOKS: list[dict[str, Any]] = [
    {"name": "noise", "eta": 0.1},
    {"name": str(Path(__file__).parent / "momentum_hook.py") + ":Momentum"},
    {"name": "layer_learning_rate", "decay": 0.5},
    {"name": "freeze", "parameters": ["embeddings.position"], "from_step": 3, "until_step": 8},
    {"name": "activation_stats", "every": 2},
    {"name": "attention_entropy", "every": 3},
    {"name": "gradient_norms", "every": 1, "detail": "total"},
    {"name": "sample_writer", "every": 4, "max_new_tokens": 2},
]
BUSY: dict[str, Any] = {
    "training__max_steps": STEPS,
    "training__accumulation_steps": 2,
    "training__eval_every": 4,
    "training__sample_every": 5,
    "training__checkpoint_every": 3,
    "checkpoints__keep_last": None,
    "model__dropout": 0.1,
    "schedule__name": "cosine",
    "schedule__warmup_steps": 3,
    "hooks": HOOKS,
}


def outcome(trained: Trainer, folder: RunFolder) -> tuple[Any, ...]:
    """Return all that must be equal, to the last bit."""
    lines = log_of(folder)
    last = [line for line in lines if line["event"] == "checkpoint"][-1]
    observed = {
        (line["step"], line["hook"]): line["metrics"] for line in lines if line["event"] == "hook"
    }
    return (
        weights_hash(trained.model),
        joint_hash(tensor_hashes(trained.optimizer.state_tensors())),
        (last["weights_sha256"], last["optimizer_sha256"]),
        observed,
        metric_by_step(lines, "train", "loss"),
        metric_by_step(lines, "train", "grad_norm"),
        metric_by_step(lines, "train", "lr"),
        {step: v for step, v in metric_by_step(lines, "eval", "val_loss").items() if step % 4 == 0},
    )


@pytest.fixture(scope="module", params=["adamw", "muon"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, tuple[Any, ...], RunFolder]:
    """Return the name of an optimizer, and what a run with it comes to in one go."""
    trained, result = train(tmp_path_factory.mktemp("whole"), optimizer__name=request.param, **BUSY)
    return request.param, outcome(trained, result.folder), result.folder


@pytest.mark.requirement("checkpoint.exact-resume")
@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_run_stopped_at_any_step_goes_on_bit_for_bit(
    tmp_path: Path, whole: tuple[str, tuple[Any, ...], RunFolder], stop: int
) -> None:
    name, expected, _ = whole
    assert list(expected[4]) == list(range(1, STEPS + 1))
    _, result = train(tmp_path, optimizer__name=name, training__stop_at=stop, **BUSY)
    assert result.step == stop
    torch.manual_seed(stop)  # what the process did meanwhile must not matter
    again = resumed(result.folder.path)
    assert again.step == stop
    again.train()
    assert outcome(again, result.folder) == expected


@pytest.mark.requirement("checkpoint.exact-resume")
def test_a_run_resumed_twice_goes_on_bit_for_bit(
    tmp_path: Path, whole: tuple[str, tuple[Any, ...], RunFolder]
) -> None:
    name, expected, _ = whole
    _, result = train(tmp_path, optimizer__name=name, training__stop_at=2, **BUSY)
    resumed(result.folder.path, stop_at=7).train()
    last = resumed(result.folder.path)
    last.train()
    assert outcome(last, result.folder) == expected
    resumes = log_of(result.folder, "resume")
    assert [line["step"] for line in resumes] == [2, 7]
    # One run, one identity, however often it was continued.
    lines = log_of(result.folder)
    assert len({(line["run_id"], line["config_hash"]) for line in lines}) == 1


@pytest.mark.requirement("resume.hooks")
@pytest.mark.parametrize("stops", [(1, 2), (5, 6), (4, 9), (3, 3 + 1, 8)])
def test_a_run_with_hooks_resumed_again_and_again_goes_on_bit_for_bit(
    tmp_path: Path, whole: tuple[str, tuple[Any, ...], RunFolder], stops: tuple[int, ...]
) -> None:
    name, expected, _ = whole
    _, result = train(tmp_path, optimizer__name=name, training__stop_at=stops[0], **BUSY)
    for stop in stops[1:]:
        resumed(result.folder.path, stop_at=stop).train()
    again = resumed(result.folder.path)
    again.train()
    assert outcome(again, result.folder) == expected


class Killed(BaseException):
    """Stands for a process that ends in the middle of its work."""


@pytest.mark.requirement("resume.hooks")
@pytest.mark.parametrize("forward", [2 * STEPS - 1, 2, 8, 13])
def test_a_run_that_ends_in_the_middle_of_an_accumulation_goes_on_bit_for_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: tuple[str, tuple[Any, ...], RunFolder],
    forward: int,
) -> None:
    """Each step has two micro-batches; the run dies in one of them, after its backward."""
    name, expected, _ = whole
    config = tiny_config(tmp_path, optimizer__name=name, run_name="killed", **BUSY)
    made, calls = trainer(config), 0

    def die(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == forward:
            raise Killed
        return compute_loss(logits, targets)

    with monkeypatch.context() as patch:
        patch.setattr("tiny_transformer.training.state.compute_loss", die)
        with pytest.raises(Killed):
            made.train()
    folder = RunFolder(tmp_path / "runs" / "killed")
    if folder.checkpoints():
        again = resumed(folder.path)
        assert again.step == (forward - 1) // 2 // 3 * 3
        again.train()
        assert outcome(again, folder) == expected
    else:
        assert forward <= 6  # before the first checkpoint


@pytest.mark.requirement("resume.numerics-change")
@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("threads", 99, "threads: 99 then,"),
        ("torch", "2.0.0", "torch: 2.0.0 then"),
        ("precision", "bfloat16", "precision: bfloat16 then, float32 now"),
        ("device", "cuda:0", "device: cuda:0 then, cpu now"),
        ("processor", "another", "processor: another then"),
        ("cpu_capability", "NEON", "cpu capability: NEON then"),
    ],
)
def test_what_has_changed_under_a_run_is_told_and_must_be_allowed(
    tmp_path: Path, field: str, value: Any, told: str
) -> None:
    _, result = train(tmp_path, training__stop_at=3)
    path = result.folder.checkpoint(3) / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["numerics"][field] = value
    path.write_text(json.dumps({**metadata, "sha256": seal(metadata)}))
    with pytest.raises(CheckpointError) as caught:
        resumed(result.folder.path)
    assert told in str(caught.value)
    assert "--allow-numerics-change" in str(caught.value)
    allowed = resumed(result.folder.path, allow_numerics_change=True)
    allowed.train()
    changes = log_of(result.folder, "resume")[0]["numerics_changes"]
    assert len(changes) == 1
    assert told in changes[0]


@pytest.mark.requirement("resume.numerics-change")
def test_another_number_of_threads_is_noticed_and_the_same_one_is_not(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, result = train(tmp_path, training__stop_at=3)
        assert resumed(result.folder.path).step == 3
        torch.set_num_threads(2)
        with pytest.raises(CheckpointError, match="threads: 1 then, 2 now"):
            resumed(result.folder.path)
    finally:
        torch.set_num_threads(before)


@pytest.mark.requirement("resume.numerics-change")
def test_a_hook_whose_file_has_changed_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text((Path(__file__).parent / "momentum_hook.py").read_text())
    _, result = train(tmp_path, training__stop_at=3, hooks=[{"name": f"{file}:Momentum"}])
    assert resumed(result.folder.path).step == 3
    file.write_text(file.read_text() + "# harmless\n")
    with pytest.raises(CheckpointError, match=r"the file of the hook .*mine\.py:Momentum"):
        resumed(result.folder.path)
    assert resumed(result.folder.path, allow_numerics_change=True).train().step == 6


def test_checkpoints_after_the_one_resumed_from_are_set_aside_not_mixed_in(tmp_path: Path) -> None:
    changes = {"training__checkpoint_every": 2, "checkpoints__keep_last": None}
    _, result = train(tmp_path, **changes)
    folder, old = result.folder, bytes_below(result.folder.checkpoint(4))
    resumed(folder.checkpoint(2), stop_at=3).train()
    assert [step_of(path) for path in folder.checkpoints()] == [2, 3]
    assert resumed(folder.path).step == 3
    (aside,) = (folder.path / "checkpoints").glob("superseded-*")
    assert sorted(path.name for path in aside.iterdir()) == ["step-00000004", "step-00000006"]
    assert bytes_below(aside / "step-00000004") == old


@pytest.mark.requirement("checkpoint.exact-resume")
def test_a_run_resumed_from_an_earlier_checkpoint_makes_the_same_later_ones(
    whole: tuple[str, tuple[Any, ...], RunFolder],
) -> None:
    _, expected, folder = whole
    for step in (3, 6, 9):
        again = resumed(folder.checkpoint(step))
        assert again.step == step
        again.train()
        assert outcome(again, folder) == expected


@pytest.mark.requirement("checkpoint.exact-resume")
def test_stopping_early_keeps_the_horizon_of_the_schedule(tmp_path: Path) -> None:
    changes = {"schedule__name": "linear", "training__max_steps": 10}
    _, result = train(tmp_path, training__stop_at=4, **changes)
    rates = metric_by_step(log_of(result.folder), "train", "lr")
    assert list(rates.values()) == pytest.approx([1e-2 * (1 - 0.09 * s) for s in (1, 2, 3, 4)])


def test_a_complete_run_is_not_resumed_and_the_way_to_train_it_longer_works(
    tmp_path: Path,
) -> None:
    _, result = train(tmp_path)
    with pytest.raises(CheckpointError, match=r"complete.*6 of 6.*--training\.max-steps 12"):
        resumed(result.folder.path)
    longer = resumed(result.folder.path, max_steps=12)
    assert longer.train().step == 12
    whole, _ = train(tmp_path / "whole", training__max_steps=12)
    assert weights_hash(longer.model) == weights_hash(whole.model)  # the rate is constant


def test_a_run_is_found_by_folder_id_and_checkpoint(tmp_path: Path) -> None:
    _, result = train(tmp_path, training__stop_at=3, run_name="mine")
    assert resumed(result.folder.path).step == 3
    assert resumed(Path("mine"), runs_dir=tmp_path / "runs").step == 3
    assert resumed(result.folder.checkpoint(3)).step == 3
    with pytest.raises(RunError, match="Did you mean 'mine'"):
        resumed(Path("mime"), runs_dir=tmp_path / "runs")


def test_a_run_that_was_moved_goes_on_where_it_lies_now(tmp_path: Path) -> None:
    _, result = train(tmp_path, training__stop_at=3, run_name="mine")
    moved = result.folder.path.rename(tmp_path / "elsewhere")
    again = resumed(moved)
    assert again.train().folder.path == moved
    assert len(log_of(RunFolder(moved), "train")) == 6
    assert not (tmp_path / "runs" / "mine").exists()


def test_a_corpus_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be\n" * 200)
    changes = {"data__corpus": str(text), "data__val_fraction": 0.2}
    _, result = train(tmp_path, training__stop_at=3, **changes)
    assert resumed(result.folder.path).step == 3
    text.write_text("to be or not to bE\n" * 200)
    with pytest.raises(DataError, match="changed since"):
        resumed(result.folder.path)


@pytest.mark.requirement("bad.checkpoint")
def test_a_damaged_checkpoint_is_not_resumed_and_the_older_one_offered_is(
    tmp_path: Path, whole: tuple[str, tuple[Any, ...], RunFolder]
) -> None:
    name, expected, _ = whole
    _, result = train(tmp_path, optimizer__name=name, training__stop_at=7, **BUSY)
    damaged = result.folder.checkpoint(7) / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as caught:
        resumed(result.folder.path)
    assert str(damaged) in str(caught.value)
    assert str(caught.value).endswith(f"An older one is {result.folder.checkpoint(6)}.")
    again = resumed(result.folder.checkpoint(6))
    again.train()
    assert outcome(again, result.folder) == expected


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    _, result = train(tmp_path, training__stop_at=3)
    (result.folder.checkpoint(3) / "metadata.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        resumed(result.folder.path)


def test_weights_of_another_run_may_be_the_start_of_a_new_one(tmp_path: Path) -> None:
    first, result = train(tmp_path)
    config = tiny_config(tmp_path, training__seed=99)
    plain = trainer(config)
    second = Trainer(config, init_from=result.folder.path, reporter=plain.reporter)
    assert second.step == 0
    assert weights_hash(second.model) == weights_hash(first.model) != weights_hash(plain.model)
    folder = second.train().folder
    assert log_of(folder)[0]["init_from"] == str(result.folder.path)
    assert folder.path != result.folder.path
    wider = tiny_config(tmp_path, model__d_model=32)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        Trainer(wider, init_from=result.folder.path, reporter=plain.reporter)


@pytest.mark.requirement("e2e.integration")
def test_train_checkpoint_resume_verify(tmp_path: Path) -> None:
    _, result = train(tmp_path, training__max_steps=60, training__stop_at=30)
    again = resumed(result.folder.path)
    last = again.train()
    checkpoint = load_checkpoint(last.folder.latest_checkpoint())
    assert checkpoint.step == last.step == 60
    assert weights_hash(checkpoint.build_model()) == weights_hash(again.model)
    losses = metric_by_step(log_of(last.folder), "train", "loss")
    assert list(losses) == list(range(1, 61))
    assert last.evaluation.loss < losses[1] - 0.5
