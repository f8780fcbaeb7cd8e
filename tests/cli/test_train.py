"""`tiny train`: settings in, a run folder out; a mistake costs nothing."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.helpers import SMALL, complaint, fingerprints, refusal

from tiny_transformer.cli.main import main
from tiny_transformer.config import Config, config_hash
from tiny_transformer.config.loading import load_config
from tiny_transformer.runtime import files
from tiny_transformer.tracking.run_log import read_log
from tiny_transformer.training.checkpoint import load_checkpoint


class StoppedError(Exception):
    """Raised instead of training, with the config that would have been trained."""


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Return a function from flags to the config that `tiny train` would train."""

    def stop(config: Config, **_: object) -> None:
        raise StoppedError(config)

    def resolved(*words: str) -> Config:
        monkeypatch.setattr("tiny_transformer.cli.train.Trainer", stop)
        with pytest.raises(StoppedError) as stopped:
            main(["train", *words])
        return stopped.value.args[0]

    return resolved


@pytest.mark.requirement("config.overrides")
@pytest.mark.parametrize("equals", [True, False])
def test_flags_compose_with_a_config_file(
    equals: bool, resolve: Callable[..., Config], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model:\n  n_layers: 2\n  d_model: 64\ntraining:\n  seed: 9\n")
    source = [f"--config={path}"] if equals else ["--config", str(path)]
    words = ["--model.n-layers", "6", "--training.max-steps", "3", "--data.shuffle", "False"]
    expected = load_config(
        path, {"model.n_layers": 6, "training.max_steps": 3, "data.shuffle": False}
    )
    assert resolve(*source, *words) == resolve(*words, *source) == expected
    assert (expected.model.d_model, expected.training.seed) == (64, 9)  # not the defaults


@pytest.mark.requirement("config.presets")
@pytest.mark.parametrize("preset", ["tiny", "base", "shakespeare"])
def test_a_preset_is_taken_by_its_name(preset: str, resolve: Callable[..., Config]) -> None:
    assert resolve("--config", preset) == load_config(preset)
    changed = resolve("--config", preset, "--training.seed", "8")
    assert changed == load_config(preset, {"training.seed": 8})
    assert changed != load_config(preset)


def test_without_a_config_the_defaults_hold(resolve: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert resolve() == resolve("--config", "empty.yaml") == Config()


@pytest.mark.requirement("config.stored-and-hashed")
def test_the_resolved_config_is_stored_with_the_run_and_hashed(trained_run: Path) -> None:
    config = load_config(trained_run / "config.yaml")
    assert (config.model.d_model, config.training.max_steps) == (16, 6)
    assert config.model.n_kv_heads is None and config.optimizer.beta2 == 0.95  # defaults too
    lines = read_log(trained_run / "log.jsonl")
    assert {line["config_hash"] for line in lines} == {config_hash(config)}
    checkpoint = load_checkpoint(trained_run / "checkpoints" / "step-00000006")
    assert checkpoint.config == config


@pytest.mark.requirement("training.samples")
def test_a_sample_before_and_after_is_shown_and_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run-name", "shown", "--runs-dir", "my runs", "--sampling.prompt", "ab"]
    assert main(["train", *SMALL, *words]) == 0
    out, err = capsys.readouterr()
    samples = [
        (tmp_path / "my runs" / "shown" / "samples" / f"step-{step:08d}.txt").read_text()
        for step in (0, 6)
    ]
    before, _, after = out.partition("after 6 steps")
    assert "before training" in before
    for part, sample in zip((before, after), samples, strict=True):
        assert sample.startswith("ab") and sample.split("\n")[0] in part
    shown = "'my runs/shown'"  # as a shell takes it
    assert f"tiny generate {shown} --prompt" in after
    assert f"tiny interactive {shown}" in after
    assert f"tiny resume {shown} --training.max-steps 12" in after
    assert "5,152 parameters" in err and "step 6/6" in err


def test_a_run_that_stops_early_is_offered_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--run-name", "early", "--training.stop-at", "2"]
    assert main(["train", *SMALL, *words]) == 0
    assert "tiny resume runs/early\n" in capsys.readouterr().out
    assert main(["resume", "early"]) == 0
    assert "tiny resume runs/early --training.max-steps 12\n" in capsys.readouterr().out


def test_a_run_begins_from_the_weights_of_another(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--init-from", str(trained_run), "--training.max-steps", "1"]
    assert main(["train", *SMALL, "--run-name", "heir", *words]) == 0
    heir = read_log(Path("runs/heir/log.jsonl"))
    assert heir[0]["init_from"] == str(trained_run)
    sample = (trained_run / "samples" / "step-00000006.txt").read_text()
    assert Path("runs/heir/samples/step-00000000.txt").read_text() == sample
    words[-1:] = ["1", "--model.d-model", "8"]
    message = refusal(capsys, "train", *SMALL, *words)
    assert "model.d_model is 16 there and 8 here" in message and "--model.d-model 16" in message


BAD_CORPORA = {
    "missing": "There is no file or folder 'missing'",
    "folder": "holds no text files",
    "binary": "is binary, not text: byte 3 is NUL",
    "latin1.txt": "invalid continuation byte at byte 8, line 2",
    "empty.txt": "is empty",
    "short.txt": "part of the corpus is shorter than one window",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("missing", marks=pytest.mark.requirement("bad.missing-file")),
        pytest.param("folder", marks=pytest.mark.requirement("bad.no-text")),
        pytest.param("binary", marks=pytest.mark.requirement("bad.binary")),
        pytest.param("latin1.txt", marks=pytest.mark.requirement("bad.utf8")),
        "empty.txt",
        "short.txt",
    ],
)
def test_a_corpus_that_cannot_be_read(
    name: str, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "binary").write_bytes(b"abc\0" * 999)
    (tmp_path / "latin1.txt").write_bytes("line 1\nl\u00ednea\n".encode("latin-1") * 99)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("To be, or not to be")
    before = fingerprints(run.parent)
    message = refusal(capsys, "train", *SMALL, "--data.corpus", name)
    assert BAD_CORPORA[name] in message
    assert name in message or name == "short.txt"
    assert ("--data.errors replace" in message) == (name == "latin1.txt")
    assert fingerprints(run.parent) == before
    if name == "latin1.txt":
        words = ["--data.corpus", name, "--data.errors", "replace", "--training.max-steps", "1"]
        assert main(["train", *SMALL, *words]) == 0


@pytest.mark.requirement("bad.config-type")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1\n- 2\n", ["holds a list", "expected sections"]),
        ("just text", ["holds a str"]),
        ("model: 3\n", ["model is 3", "section"]),
        ("training:\n  max_steps: many\n", ["training.max_steps is 'many'", "integer"]),
        ("training:\n  max_step: 3\n", ["'training.max_step'", "Did you mean 'max_steps'?"]),
        ("model:\n  dropout: true\n", ["model.dropout is True", "number"]),
        ("model: [\n", ["not valid YAML"]),
    ],
)
def test_a_config_of_the_wrong_type(
    text: str, told: list[str], run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    before = fingerprints(tmp_path)
    capsys.readouterr()
    assert main(["train", "--config", "c.yaml"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("tiny: ")) == ("", 1) and "Traceback" not in err
    assert all(part in err for part in ["c.yaml", *told])
    assert fingerprints(tmp_path) == before


@pytest.mark.requirement("bad.missing-file")
def test_a_config_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "'nope.yaml'" in refusal(capsys, "train", "--config", "nope.yaml")
    assert "Did you mean 'tiny'?" in refusal(capsys, "train", "--config", "tinny")
    assert "is a folder" in refusal(capsys, "train", "--config", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("config.refused")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.dropout", "2"], "model.dropout is 2.0"),
        (["--model.n-heads", "3"], "model.n_heads is 3"),
        (["--training.max-steps", "0"], "training.max_steps is 0"),
        (["--training.seed", "-1"], "training.seed is -1"),
        (["--training.batch-size", "4000"], "--training.batch-size"),
        (["--training.device", "cuda:77"], "training.device is 'cuda:77'"),
        (["--data.val-fraction", "1"], "data.val_fraction is 1.0"),
        (["--run-name", "../up"], "run_name is '../up'"),
        (["--init-from", "nobody"], "There is no run 'nobody'"),
        (["--model.vocab-size", "5"], "model.vocab_size is 5"),
        (["--sampling.prompt", ""], "sampling.prompt cannot be used. The prompt is empty."),
        (["--sampling.prompt", "\u00e9"], "'\u00e9' (U+00E9). Give another --sampling.prompt."),
        (["--sampling.prompt", "x" * 30], "30 characters; the model sees 16"),
    ],
)
def test_a_bad_value_names_its_setting_and_leaves_nothing(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, "train", *SMALL, *words)
    assert not Path("runs").exists()


@pytest.mark.requirement("bad.run-exists")
def test_a_run_name_that_is_taken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprints(run.parent)
    # The corpus is missing too: the name is looked at first, before any long work.
    message = refusal(capsys, "train", *SMALL, "--data.corpus", "missing", "--run-name", "small")
    assert "runs/small exists already" in message
    assert "--run-name" in message and "tiny resume runs/small" in message
    assert fingerprints(run.parent) == before


@pytest.mark.requirement("bad.unwritable")
@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EACCES, "No permission to write"), (errno.EROFS, "--runs-dir")],
)
def test_a_folder_that_cannot_be_written(
    number: int,
    told: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = fingerprints(run.parent)

    def refuse(path: Path, *rest: object) -> None:
        if "cache" not in str(path):
            raise OSError(number, os.strerror(number))
        path.mkdir()

    monkeypatch.setattr(files, "os_mkdir", refuse)
    message = refusal(capsys, "train", *SMALL, "--run-name", "new", begun=True)
    assert told in message and "runs/new" in message
    assert fingerprints(run.parent) == before


def test_a_file_where_the_runs_folder_belongs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    message = refusal(capsys, "train", *SMALL, "--runs-dir", "file", begun=True)
    assert "file" in message and "in the way" in message
    assert (tmp_path / "file").read_text() == "mine"


def full_after(writes: int) -> Iterator[int]:
    """Yield how much each write may do: whole ones, one that is cut short, then none."""
    yield from [1 << 30] * writes
    yield 1
    while True:
        yield 0


@pytest.mark.slow
@pytest.mark.requirement("bad.full-disk")
def test_a_disk_that_fills_up_at_any_write_loses_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write of a new run fails once, after half a line or file has been written."""
    words = ["train", *SMALL, "--training.max-steps", "2", "--training.checkpoint-every", "1"]
    assert main([*words, "--run-name", "whole"]) == 0  # prepares the corpus, too
    others = fingerprints(run.parent)
    writes, finished = 0, False
    while not finished:
        allowance = full_after(writes)

        def write(descriptor: int, data: memoryview, allowance: Iterator[int] = allowance) -> int:
            allowed = min(next(allowance), len(data))
            if not allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.write(descriptor, data[:allowed])

        name = f"full-{writes}"
        with monkeypatch.context() as patch:
            patch.setattr(files, "os_write", write)
            capsys.readouterr()
            finished = main([*words, "--run-name", name]) == 0
        if not finished:
            message = complaint(capsys, begun=True)
            assert "The disk is full" in message and "Free some space" in message
        ended = fingerprints(run.parent)
        assert {k: v for k, v in ended.items() if not k.startswith("full-")} == others
        folder = run.parent / name
        assert writes >= 3 or not folder.exists()  # it never began: the name is free
        for path in folder.rglob("*"):
            assert ".tmp" not in path.name
        if folder.exists():
            for line in (folder / "log.jsonl").read_text().splitlines():
                json.loads(line)
            for checkpoint in (folder / "checkpoints").glob("*"):
                load_checkpoint(checkpoint)
        writes += 1
    assert writes > 20


# Hooks and trackers


@pytest.mark.requirement("hooks.registry")
def test_hooks_are_switched_on_and_off_by_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("hooks: [{name: weight_norms, every: 2}, {name: sign}]\n")
    flags = ["--hook", "noise eta=0.3", "--no-hook", "sign", "--hook", "weight_norms every=3"]
    assert main(["train", "--config", "mine.yaml", *SMALL, "--run-name", "a", *flags]) == 0
    lines = read_log(Path("runs/a/log.jsonl"))
    assert lines[0]["hooks"] == [
        {"enabled": True, "name": "weight_norms", "every": 3},
        {"enabled": False, "name": "sign"},
        {"enabled": True, "name": "noise", "eta": 0.3},
    ]
    assert [line["step"] for line in lines if line["event"] == "hook"] == [3, 6]
    stored = load_config(Path("runs/a/config.yaml"))
    assert [hook["name"] for hook in stored.hooks] == ["weight_norms", "sign", "noise"]


@pytest.mark.requirement("hooks.registry")
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--hook", "wait_norms"], "Did you mean 'weight_norms'"),
        (["--hook", "noise etta=1"], "Did you mean 'eta'"),
        (["--hook", "noise eta"], "Did you mean 'noise'"),
        (["--no-hook", "noise"], "no hook 'noise' to switch off"),
        (["--hook", "activation_stats layers=[7]"], "there is no layer 7"),
        (["--hook", "freeze"], "what to freeze"),
        (["--hook", "gone.py:Mine"], "no file 'gone.py'"),
    ],
)
def test_a_wrong_hook_is_refused_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refusal(capsys, "train", *SMALL, *flags)
    assert not Path("runs").exists()


@pytest.mark.requirement("trackers.missing-package")
def test_a_tracker_that_is_not_installed_costs_a_line_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert main(["train", *SMALL, "--tracking.trackers", "trackio", "--run-name", "a"]) == 0
    shown = capsys.readouterr().err
    assert shown.count("trackio") == 2  # its name, and how to install it
    assert "pip install" in shown
    assert read_log(Path("runs/a/log.jsonl"))[-1]["event"] == "end"


@pytest.mark.requirement("trackers.real-packages")
def test_what_a_run_logs_reaches_the_tracker_with_prefixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    flags = ["--tracking.trackers", "tensorboard", "--hook", "weight_norms every=2"]
    assert main(["train", *SMALL, *flags, "--run-name", "a"]) == 0
    seen = accumulator.EventAccumulator("runs/a/tensorboard")
    seen.Reload()
    scalars = set(seen.Tags()["scalars"])
    assert {"train/loss", "train/lr", "val/loss", "val/perplexity"} <= scalars
    assert "hooks/weight_norms/total" in scalars
    lines = read_log(Path("runs/a/log.jsonl"))
    losses = {line["step"]: line["loss"] for line in lines if line["event"] == "train"}
    logged = {event.step: event.value for event in seen.Scalars("train/loss")}
    assert logged == pytest.approx(losses)
