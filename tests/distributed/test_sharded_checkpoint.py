"""Sharded checkpoints: everything reads them, any number of ranks goes on from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.distributed.helpers import (
    SMALL,
    lines_of,
    losses_of,
    run_ranks,
    spared,
    train,
)

from tiny_transformer.cli.main import main
from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.conversion import convert_checkpoint
from tiny_transformer.training.weights import tensor_hashes

STEPS = ("--training.max-steps", "30", "--training.stop-at", "12")
MUON = ("--optimizer.name", "muon")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one process, and the beginning of one of three that shard."""
    folder = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_TRANSFORMER_CACHE", str(folder / "cache"))
        batch = ("--training.batch-size", "12", *MUON)
        train(folder, "whole", 1, *batch, "--training.max-steps", "30")
        train(folder, "sharded", 3, *batch, *STEPS, "--distributed.strategy", "fsdp")
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sharded run that a test may change."""
    monkeypatch.setenv("TINY_TRANSFORMER_CACHE", str(runs / "cache"))
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(runs / "runs" / "sharded", tmp_path / "runs" / "sharded"))


def checkpoint(run: Path) -> Path:
    (path,) = (run / "checkpoints").iterdir()
    return path


@pytest.mark.requirement("distributed.sharded")
def test_each_rank_writes_its_share_and_the_whole_is_what_the_log_says(copy: Path) -> None:
    names = sorted(path.name for path in (checkpoint(copy) / "model").iterdir())
    assert names == [f"shard-0000{i}-model-00001-of-00001.safetensors" for i in (1, 2, 3)]
    found = load_checkpoint(checkpoint(copy))
    (line,) = lines_of(copy, "checkpoint")
    assert tensor_hashes(found.weights) == line["tensors"]
    found.build_model()


@pytest.mark.requirement("distributed.resume")
@pytest.mark.parametrize(("strategy", "n_ranks"), [("fsdp", 2), ("ddp", 4), ("fsdp", 1)])
def test_any_number_of_ranks_goes_on_with_the_same_sequence(
    runs: Path, copy: Path, tmp_path: Path, strategy: str, n_ranks: int, torture: bool
) -> None:
    spared(torture, rare=n_ranks == 1)
    line = ["resume", "runs/sharded", "--distributed.strategy", strategy]
    refused = run_ranks(tmp_path, *[line] * n_ranks)
    assert [one.status for one in refused] == [2] * n_ranks
    assert "ranks: 3 then" in refused[0].text
    for ended in run_ranks(tmp_path, *[[*line, "--allow-numerics-change"]] * n_ranks):
        assert ended.status == 0, ended.text
    wanted, found = losses_of(runs / "runs" / "whole"), losses_of(copy)
    assert found.keys() == wanted.keys()
    assert max(abs(found[step] - wanted[step]) for step in wanted) <= 1e-5


@pytest.mark.requirement("distributed.readers")
def test_everything_that_reads_a_run_reads_it(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(copy)
    for words in (
        ("generate", run, "--prompt", "a", "--max-new-tokens", "4"),
        ("eval", run),
        ("runs", "verify", run, "--no-replay"),
        ("runs", "show", run),
        ("export", run, "--format", "safetensors", "--out", "out"),
    ):
        assert main(list(words)) == 0, capsys.readouterr()


def test_a_replay_by_one_process_is_refused_and_not_called_a_difference(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "verify", str(copy)]) != 0
    told = " ".join(capsys.readouterr().out.split())
    assert "cannot be replayed. The updates from step 1 on were made by 3 processes" in told
    assert "--no-replay" in told and "first differs" not in told


@pytest.mark.requirement("distributed.convert")
def test_layouts_convert_into_each_other_bit_for_bit(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def state() -> tuple:
        found = load_checkpoint(checkpoint(copy))
        return (
            tensor_hashes(found.weights),
            tensor_hashes(found.optimizer_state),
            found.config,
            found.step,
            found.metadata["log_chain"],
        )

    before = state()
    assert main(["convert", str(copy), "--to", "whole"]) == 0
    assert (checkpoint(copy) / "model.safetensors").is_file() and state() == before
    assert main(["runs", "verify", str(copy), "--no-replay"]) == 0
    for n_files in ("1", "4"):
        assert main(["convert", str(copy), "--to", "sharded", "--files", n_files]) == 0
        assert len(list((checkpoint(copy) / "model").iterdir())) == int(n_files)
        assert state() == before
    convert_checkpoint(checkpoint(copy), None)
    capsys.readouterr()
    assert main(["convert", str(copy), "--to", "whole"]) == 2
    assert "whole already" in capsys.readouterr().err
    assert main(["convert", str(copy), "--to", "sharded", "--files", "0"]) == 2


@pytest.mark.requirement("distributed.sharded-damage")
@pytest.mark.parametrize("how", ["truncated", "flipped", "removed", "surplus", "swapped"])
def test_a_damaged_share_is_refused_by_name(copy: Path, how: str, tmp_path: Path) -> None:
    path = checkpoint(copy)
    share = path / "optimizer" / "shard-00002-model-00001-of-00001.safetensors"
    data = bytearray(share.read_bytes())
    if how == "truncated":
        share.write_bytes(data[:-1])
    elif how == "flipped":
        data[-5] ^= 1
        share.write_bytes(data)
    elif how == "removed":
        share.unlink()
    elif how == "swapped":
        shutil.copy(share.with_name(share.name.replace("00002", "00003", 1)), share)
    else:
        metadata = json.loads((path / "metadata.json").read_text())
        metadata["files"]["model/../../../evil.safetensors"] = {"bytes": 1, "sha256": ""}
        from tiny_transformer.training.checkpoint_files import seal

        metadata["sha256"] = seal(metadata)
        (path / "metadata.json").write_text(json.dumps(metadata))
    named = "evil" if how == "surplus" else share.name
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(path)
    if how == "flipped":
        line = ["resume", "runs/sharded", "--allow-numerics-change"]
        ended = run_ranks(tmp_path, line, line)
        assert [one.status for one in ended] == [2, 2] and named in ended[0].text


def test_one_process_trains_with_the_strategy_of_many_as_it_would_without(
    tmp_path: Path,
) -> None:
    words = ("--training.max-steps", "3")
    plain = losses_of(train(tmp_path, "plain", 1, *words))
    assert losses_of(train(tmp_path, "alone", 1, *words, "--distributed.strategy", "fsdp")) == plain


def test_ranks_that_do_not_share_the_runs_folder_are_told(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    line = [*["train", *SMALL], "--training.max-steps", "2", "--distributed.strategy", "fsdp"]
    ended = run_ranks(tmp_path, line, line, folders=folders)
    assert [one.status for one in ended] == [2, 2], ended
    assert "Rank 1 does not see" in ended[0].text and "--runs-dir" in ended[0].text


def test_a_share_may_be_empty(tmp_path: Path) -> None:
    """Vectors shorter than the number of ranks leave some with nothing."""
    words = ("--model.d-model", "4", "--model.n-heads", "2", "--training.max-steps", "3")
    wanted = losses_of(train(tmp_path, "alone", 1, *words))
    run = train(tmp_path, "many", 4, *words, "--distributed.strategy", "fsdp")
    assert losses_of(run) == pytest.approx(wanted, abs=1e-5)
    found = load_checkpoint(checkpoint(run))
    assert all(bool(torch.isfinite(t).all()) for t in found.optimizer_state.values())
