"""What a run writes down: evaluations, samples, checkpoints, its log and its config."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.helpers import bytes_below, log_of, tiny_config, train, trainer

from tiny_transformer.config import config_hash
from tiny_transformer.config.loading import load_config
from tiny_transformer.evaluation.evaluator import compute_val_loss
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import ConfigError, PromptError, RunError, StorageError
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import weights_hash

# Evaluation and samples


@pytest.mark.requirement("training.evaluation")
@pytest.mark.parametrize(("every", "steps"), [(0, [6]), (1, [1, 2, 3, 4, 5, 6]), (4, [4, 6])])
def test_the_whole_validation_part_is_evaluated_at_its_cadence_and_at_the_end(
    tmp_path: Path, every: int, steps: list[int]
) -> None:
    trained, result = train(tmp_path, training__eval_every=every)
    lines = log_of(result.folder, "eval")
    assert [line["step"] for line in lines] == steps
    n_targets = len(trained.data.validation) - 1
    expected = compute_val_loss(trained.model, trained.data.validation, context_length=16)
    for line in lines:
        assert line["n_targets"] == n_targets
        assert line["val_perplexity"] == pytest.approx(math.exp(line["val_loss"]))
        assert line["bits_per_char"] == pytest.approx(line["val_loss"] / math.log(2))
    assert lines[-1]["val_loss"] == pytest.approx(expected.loss, rel=1e-6)
    assert result.evaluation.loss == lines[-1]["val_loss"]


@pytest.mark.requirement("training.samples")
@pytest.mark.parametrize(("every", "steps"), [(0, [0, 6]), (2, [0, 2, 4, 6]), (4, [0, 4, 6])])
def test_samples_are_written_at_the_start_at_their_cadence_and_at_the_end(
    tmp_path: Path, every: int, steps: list[int]
) -> None:
    changes = {"sampling__prompt": "a b", "sampling__seed": 4}
    trained, result = train(tmp_path, training__sample_every=every, **changes)
    lines = log_of(result.folder, "sample")
    assert [line["step"] for line in lines] == steps
    assert all(line["prompt"] == "a b" and len(line["text"]) == 8 for line in lines)
    for line in lines:
        file = result.folder.path / "samples" / f"step-{line['step']:08d}.txt"
        assert file.read_bytes().decode() == "a b" + line["text"]
    assert (result.first_sample, result.last_sample) == (lines[0]["text"], lines[-1]["text"])
    config = trained.config.sampling
    assert result.last_sample == sample_text(trained.model, trained.data.tokenizer, config)[0]
    fresh = trainer(trained.config)
    assert result.first_sample == sample_text(fresh.model, fresh.data.tokenizer, config)[0]
    other = replace(config, seed=5)
    assert result.last_sample != sample_text(trained.model, trained.data.tokenizer, other)[0]


@pytest.mark.requirement("checkpoint.format")
@pytest.mark.parametrize(("every", "steps"), [(0, [6]), (1, [1, 2, 3, 4, 5, 6]), (4, [4, 6])])
def test_checkpoints_are_saved_at_their_cadence_and_at_the_end(
    tmp_path: Path, every: int, steps: list[int]
) -> None:
    changes = {"training__checkpoint_every": every, "checkpoints__keep_last": None}
    trained, result = train(tmp_path, **changes)
    assert [load_checkpoint(p).step for p in result.folder.checkpoints()] == steps
    last = load_checkpoint(result.folder.latest_checkpoint())
    assert weights_hash(last.build_model()) == weights_hash(trained.model)
    assert last.config == trained.config
    assert last.metadata["run_id"] == result.folder.run_id
    assert last.metadata["config_hash"] == config_hash(trained.config)
    lines = log_of(result.folder, "checkpoint")
    assert [result.folder.path / line["path"] for line in lines] == result.folder.checkpoints()


# The record


@pytest.mark.requirement("training.log-lines")
@pytest.mark.requirement("record.log")
def test_the_log_has_one_line_a_step_and_every_line_says_where_it_belongs(tmp_path: Path) -> None:
    trained, result = train(tmp_path, run_name="mine")
    lines = log_of(result.folder)
    assert [line["step"] for line in lines if line["event"] == "train"] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert line["run_id"] == "mine"
        assert line["config_hash"] == config_hash(trained.config)
        assert "git_commit" in line
        assert line["step"] >= 0
        if line["event"] == "train":
            assert {"loss", "lr", "grad_norm", "tokens_per_second"} <= line.keys()
        if line["event"] == "eval":
            assert {"val_loss", "val_perplexity", "bits_per_char"} <= line.keys()
        if line["event"] == "sample":
            assert {"prompt", "text"} <= line.keys()
    assert (lines[0]["event"], lines[0]["step"]) == ("start", 0)
    assert lines[0]["hooks"] == []
    assert lines[0]["seed"] == 1337
    assert lines[0]["n_parameters"] == sum(p.numel() for p in trained.model.parameters())
    assert (lines[-1]["event"], lines[-1]["step"]) == ("end", 6)


@pytest.mark.requirement("training.log-lines")
def test_lines_may_be_fewer_and_the_last_step_always_has_one(tmp_path: Path) -> None:
    _, result = train(tmp_path, training__log_every=4)
    assert [line["step"] for line in log_of(result.folder, "train")] == [4, 6]


@pytest.mark.requirement("record.git-null")
def test_git_commit_is_null_outside_a_repository_and_the_commit_inside_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(outside)
    _, result = train(tmp_path, training__max_steps=1)
    assert {line["git_commit"] for line in log_of(result.folder)} == {None}

    monkeypatch.chdir(inside)
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q"], check=True)
    _, result = train(tmp_path, training__max_steps=1)
    assert {line["git_commit"] for line in log_of(result.folder)} == {None}  # no commit yet
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    _, result = train(tmp_path, training__max_steps=1)
    assert {line["git_commit"] for line in log_of(result.folder)} == {done.stdout.strip()}


@pytest.mark.requirement("config.stored-and-hashed")
def test_the_config_stored_with_the_run_is_the_resolved_one(tmp_path: Path) -> None:
    trained, result = train(tmp_path, model__position="rotary", data__transliterate=True)
    stored = load_config(result.folder.path / "config.yaml")
    assert stored == trained.config
    assert config_hash(stored) == log_of(result.folder)[0]["config_hash"]
    checkpoint = load_checkpoint(result.folder.latest_checkpoint())
    assert checkpoint.config == stored
    assert (result.folder.path / "vocab.json").read_bytes() == (
        checkpoint.path / "vocab.json"
    ).read_bytes()


# Refusals


@pytest.mark.requirement("bad.run-exists")
def test_a_run_name_that_exists_is_refused_and_nothing_in_it_changes(tmp_path: Path) -> None:
    _, result = train(tmp_path, run_name="mine")
    before = bytes_below(result.folder.path)
    with pytest.raises(RunError, match=r"exists already.*--run-name.*tiny resume") as caught:
        train(tmp_path, run_name="mine", training__seed=2)
    assert caught.value.exit_status == 2
    assert bytes_below(tmp_path / "runs") == {f"mine/{k}": v for k, v in before.items()}


@pytest.mark.requirement("bad.unwritable")
def test_a_runs_folder_that_cannot_be_made_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tiny_config(tmp_path))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "os_mkdir", refuse)
    with pytest.raises(StorageError, match=r"No permission.*runs.*--runs-dir") as caught:
        made.train()
    assert caught.value.exit_status == 2
    (tmp_path / "runs").write_text("a file is in the way")
    monkeypatch.undo()
    with pytest.raises(StorageError, match="a file is in the way"):
        made.train()
    assert (tmp_path / "runs").read_text() == "a file is in the way"


@pytest.mark.requirement("bad.unknown-prompt")
def test_what_cannot_be_used_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for changes in ({"sampling__prompt": "\u00e9"}, {"sampling__prompt": "x" * 17}):
        with pytest.raises(PromptError):
            trainer(tiny_config(tmp_path, **changes))
    with pytest.raises(ConfigError, match=r"model\.vocab_size is 50; the tokenizer has 99"):
        trainer(tiny_config(tmp_path, model__vocab_size=50))
    assert not (tmp_path / "runs").exists()


def test_the_default_recipe_is_the_plans() -> None:
    training = Trainer.__init__.__globals__["Config"]().training
    assert (training.eval_every, training.log_every, training.batch_size) == (200, 1, 16)
