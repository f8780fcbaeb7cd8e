"""Trackers: what was logged is read back from the disk, and no tracker disturbs the run."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import random
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tiny_transformer.config.tracking import TrackerName, TrackingConfig
from tiny_transformer.runtime.random_state import generator_states
from tiny_transformer.tracking import trackers as module
from tiny_transformer.tracking.trackers import Trackers, open_trackers, prefixed

SETTINGS = {"model": {"n_layers": 2}, "training": {"seed": 7}}
PACKAGES: tuple[TrackerName, ...] = ("tensorboard", "wandb", "trackio")


def need(name: str) -> None:
    """Skip where a package is not installed; importing it is left to its tracker."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


def open_one(folder: Path, name: TrackerName, first_step: int = 0) -> Trackers:
    """Open a tracker that must not warn."""
    need(name)
    return open_trackers(
        TrackingConfig(trackers=(name,), project="sonnets"),
        run_id=folder.name,
        folder=folder,
        settings=SETTINGS,
        warn=lambda line: pytest.fail(line),
        first_step=first_step,
    )


def a_run(folder: Path, name: str = "first") -> Path:
    path = folder / name
    path.mkdir(exist_ok=True)
    return path


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = events(folder)
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def wandb_records(path: Path) -> list[Any]:
    """Read a run file: a LevelDB log of 32 KiB blocks with a header of seven bytes."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, records, position, parts = path.read_bytes(), [], 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or last
            records.append(messages.Record.FromString(parts))
            parts = b""
    return records


def wandb_history(path: Path) -> list[dict[str, Any]]:
    rows = [record.history for record in wandb_records(path) if record.HasField("history")]
    return [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in rows
    ]


def wandb_files(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


def trackio_rows(folder: Path) -> list[tuple[str, int, dict[str, Any]]]:
    with sqlite3.connect(folder / "trackio" / "sonnets.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id")
        return [(name, step, json.loads(metrics)) for name, step, metrics in rows]


@pytest.fixture
def trackio_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder; trackio binds its own at import, so each test imports it afresh."""
    for loaded in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    return a_run(tmp_path)


def test_prefixed_names_the_groups_and_drops_what_is_no_number() -> None:
    train = {"loss": 2.0, "lr": 1e-3, "grad_norm": np.float32(0.5), "tokens_per_second": 10}
    assert prefixed("train", train) == {
        "train/loss": 2.0,
        "train/lr": 1e-3,
        "train/grad_norm": 0.5,
        "train/tokens_per_second": 10.0,
    }
    val = {"val_loss": 1.5, "val_perplexity": 4.5, "bits_per_char": 2.2}
    assert prefixed("val", val) == {
        "val/loss": 1.5,
        "val/perplexity": 4.5,
        "val/bits_per_char": 2.2,
    }
    assert prefixed("train", {"a": None, "b": "text", "c": True, "d": torch.ones(1)}) == {}
    assert math.isnan(prefixed("train", {"loss": math.nan})["train/loss"])


@pytest.mark.requirement("trackers.real-packages")
def test_tensorboard_has_every_number_and_text(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    with open_one(folder, "tensorboard") as opened:
        opened.metrics(1, prefixed("train", {"loss": 2.5, "lr": math.inf}))
        opened.metrics(2, {})
        opened.metrics(2, prefixed("train", {"loss": math.nan}))
        opened.metrics(2, prefixed("val", {"val_loss": 1.5}))
        opened.text(2, "samples", "To be,\nor <b>not</b>")
    found = scalars(folder)
    assert set(found) == {"train/loss", "train/lr", "val/loss"}
    assert found["val/loss"] == [(2, 1.5)]
    assert found["train/loss"][0] == (1, 2.5)
    assert math.isnan(found["train/loss"][1][1])
    assert found["train/lr"] == [(1, math.inf)]
    tensors = events(folder).Tensors("samples/text_summary")
    assert tensors[0].step == 2
    assert tensors[0].tensor_proto.string_val[0].decode() == "    To be,\n    or <b>not</b>"
    shown = events(folder).Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    assert json.loads(shown) == SETTINGS


@pytest.mark.requirement("trackers.real-packages")
def test_tensorboard_shows_a_step_once_that_a_resumed_run_logs_again(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    with open_one(folder, "tensorboard") as opened:
        for step in (1, 2, 3, 4):
            opened.metrics(step, {"train/loss": float(step)})
    with open_one(folder, "tensorboard", first_step=3) as opened:
        for step in (3, 4, 5):
            opened.metrics(step, {"train/loss": 10.0 * step})
    assert scalars(folder)["train/loss"] == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]


@pytest.mark.requirement("trackers.real-packages")
def test_wandb_has_every_number_and_text_offline(tmp_path: Path) -> None:
    folder = a_run(tmp_path, "first try #2")
    with open_one(folder, "wandb") as opened:
        opened.metrics(1, prefixed("train", {"loss": 2.5, "lr": math.inf}))
        opened.metrics(2, {})
        opened.metrics(2, prefixed("train", {"loss": math.nan}))
        opened.metrics(2, prefixed("val", {"val_loss": 1.5}))
        opened.text(2, "samples", "To be,\nor <b>not</b>")
        print("the run's own words", file=sys.stderr)
    (path,) = wandb_files(folder)
    rows = wandb_history(path)
    assert [row["step"] for row in rows] == [1, 2, 2, 2]
    assert (rows[0]["train/loss"], rows[0]["train/lr"]) == (2.5, math.inf)
    assert math.isnan(rows[1]["train/loss"])
    assert rows[2]["val/loss"] == 1.5
    kinds = {record.WhichOneof("record_type") for record in wandb_records(path)}
    assert kinds.isdisjoint({"output", "output_raw"})  # the terminal is not recorded
    (page,) = path.parent.glob("files/media/html/samples_*.html")
    assert "<pre>To be,\nor &lt;b&gt;not&lt;/b&gt;</pre>" in page.read_text()
    (run,) = [record.run for record in wandb_records(path) if record.HasField("run")]
    assert (run.run_id, run.display_name, run.project) == (
        "first-try--2",
        "first try #2",
        "sonnets",
    )
    config = {update.key: update.value_json for update in run.config.update}
    assert json.loads(config["model"]) == SETTINGS["model"]


@pytest.mark.requirement("trackers.real-packages")
def test_wandb_keeps_the_run_id_and_the_steps_of_a_resumed_run(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    for steps in [(5, 6), (5, 7)]:
        with open_one(folder, "wandb", first_step=steps[0]) as opened:
            for step in steps:
                opened.metrics(step, {"train/loss": float(step)})
    records = [wandb_records(path) for path in wandb_files(folder)]
    ids = [record.run.run_id for part in records for record in part if record.HasField("run")]
    steps = [row["step"] for path in wandb_files(folder) for row in wandb_history(path)]
    assert set(ids) == {"first"}
    assert steps in ([5, 6, 5, 7], [5, 7, 5, 6])  # two folders of one second sort by nothing


@pytest.mark.requirement("trackers.real-packages")
def test_trackio_has_every_number_and_text_and_continues_a_run(trackio_folder: Path) -> None:
    with open_one(trackio_folder, "trackio") as opened:
        opened.metrics(1, prefixed("train", {"loss": 2.5, "lr": math.inf}))
        opened.metrics(2, {})
        opened.metrics(2, prefixed("train", {"loss": math.nan}))
        opened.text(2, "samples", "To be,\nor not")
    with open_one(trackio_folder, "trackio", first_step=2) as opened:
        opened.metrics(2, prefixed("val", {"val_loss": 1.5}))
    rows = trackio_rows(trackio_folder)
    assert [(name, step) for name, step, _ in rows] == [("first", step) for step in (1, 2, 2, 2)]
    assert rows[0][2] == {"train/loss": 2.5, "train/lr": "Infinity"}
    assert rows[1][2] == {"train/loss": "NaN"}  # its own spelling, in its own database
    assert rows[2][2]["samples"]["_value"] == "    To be,\n    or not"
    assert rows[3][2] == {"val/loss": 1.5}
    with sqlite3.connect(trackio_folder / "trackio" / "sonnets.db") as database:
        assert database.execute("SELECT count(DISTINCT run_id) FROM metrics").fetchone() == (1,)


def surroundings() -> list[Any]:
    return [
        *(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)),
        *(list(logging.root.handlers), logging.root.level, logging.getLoggerClass()),
        *(sys.exit, sys.excepthook, sys.stdout, sys.stderr, torch.get_num_threads()),
    ]


@pytest.mark.requirement("trackers.fallible")
@pytest.mark.parametrize("name", PACKAGES)
def test_a_tracker_leaves_generators_handlers_and_output_alone(
    name: TrackerName, trackio_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    states, before = generator_states(), surroundings()
    with open_one(trackio_folder, name) as opened:
        opened.metrics(1, {"train/loss": 1.0})
        opened.text(1, "samples", "text")
        assert surroundings() == before
    assert surroundings() == before
    now = generator_states()
    assert {key for key in states if not torch.equal(states[key], now[key])} == set()
    assert capfd.readouterr() == ("", "")


NO_NETWORK = """
import socket, sys
from pathlib import Path

from tiny_transformer.config.tracking import TrackingConfig
from tiny_transformer.tracking.trackers import open_trackers

tried, connect = [], socket.socket.connect

def watched(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1")):
        tried.append(address)
        raise OSError("no network")
    return connect(self, address)

def look_up(host, *rest, **more):
    tried.append(host)
    raise OSError("no network")

socket.socket.connect, socket.getaddrinfo = watched, look_up
folder, names = Path(sys.argv[1]), tuple(sys.argv[2:])
config = TrackingConfig(trackers=names)
with open_trackers(config, run_id="a", folder=folder, settings={}, warn=print) as opened:
    assert opened.names == names, opened.names
    opened.metrics(1, {"train/loss": 1.0})
    opened.text(1, "samples", "text")
sys.stdout.flush()
import atexit
atexit._run_exitfuncs()
import time
time.sleep(0.5)
print(tried)
"""


@pytest.mark.requirement("trackers.real-packages")
@pytest.mark.parametrize("name", PACKAGES)
def test_offline_trackers_try_no_connection(name: str, tmp_path: Path) -> None:
    need(name)
    command = [sys.executable, "-c", NO_NETWORK, str(tmp_path), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


@pytest.mark.requirement("trackers.missing-package")
@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_costs_one_line(
    name: TrackerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    lines: list[str] = []
    config = TrackingConfig(trackers=(name,))
    with open_trackers(
        config, run_id="a", folder=tmp_path, settings={}, warn=lines.append
    ) as opened:
        assert opened.names == ()
        opened.metrics(1, {"train/loss": 1.0})
        opened.text(1, "samples", "text")
    (line,) = lines
    assert f"The tracker {name} is left out" in line
    assert "pip install '" in line
    assert name in line.partition("pip install ")[2]
    assert "\n" not in line


@pytest.mark.requirement("trackers.missing-package")
def test_one_missing_package_does_not_take_the_others_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    folder, lines = a_run(tmp_path), list[str]()
    config = TrackingConfig(trackers=("wandb", "tensorboard"))
    with open_trackers(config, run_id="a", folder=folder, settings={}, warn=lines.append) as opened:
        opened.metrics(1, {"train/loss": 1.0})
    assert len(lines) == 1
    assert scalars(folder) == {"train/loss": [(1, 1.0)]}


class Recording:
    """A tracker that keeps what it is told, and fails at one kind of call."""

    def __init__(self, fails_at: str = "") -> None:
        self.calls: list[str] = []
        self.fails_at = fails_at

    def _call(self, name: str) -> None:
        self.calls.append(name)
        random.random()
        if name == self.fails_at:
            raise OSError("the disk\nis full")

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._call("metrics")

    def text(self, step: int, name: str, text: str) -> None:
        self._call("text")

    def close(self) -> None:
        self._call("close")


def opened_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, built: dict[str, Callable[[], Any]]
) -> tuple[Trackers, list[str]]:
    lines: list[str] = []
    monkeypatch.setattr(module, "make_tracker", lambda name, *_, **__: built[name]())
    config = SimpleNamespace(trackers=tuple(built))
    opened = open_trackers(
        config,  # type: ignore[arg-type]
        run_id="a",
        folder=folder,
        settings={},
        warn=lines.append,
    )
    return opened, lines


@pytest.mark.requirement("trackers.fallible")
@pytest.mark.parametrize("fails_at", ["metrics", "text", "close"])
def test_a_failing_tracker_is_named_once_and_switched_off(
    fails_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = Recording(), Recording(fails_at)
    built = {"wandb": lambda: bad, "trackio": lambda: good}
    opened, lines = opened_with(monkeypatch, tmp_path, built)
    before = random.getstate()
    for step in (1, 2):
        opened.metrics(step, {"train/loss": 1.0})
        opened.text(step, "samples", "text")
    opened.close()
    opened.close()
    assert lines == [
        "The tracker wandb failed and is switched off: OSError: the disk is full",
    ]
    assert good.calls == ["metrics", "text", "metrics", "text", "close"]
    assert bad.calls.count(fails_at) == (2 if fails_at == "close" else 1)
    assert bad.calls[-1] == "close"
    assert random.getstate() == before


@pytest.mark.requirement("trackers.fallible")
def test_a_tracker_that_cannot_start_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_package() -> Any:
        raise ModuleNotFoundError("No module named 'gone'", name="gone")

    def refuses() -> Any:
        raise ValueError("no account")

    good = Recording()
    built = {"wandb": refuses, "trackio": other_package, "tensorboard": lambda: good}
    opened, lines = opened_with(monkeypatch, tmp_path, built)
    assert opened.names == ("tensorboard",)
    assert lines == [
        "The tracker wandb could not start: ValueError: no account",
        "The tracker trackio could not start: ModuleNotFoundError: No module named 'gone'",
    ]


@pytest.mark.requirement("trackers.fallible")
def test_trackers_are_closed_when_the_run_or_their_opening_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Recording()
    opened, _ = opened_with(monkeypatch, tmp_path, {"wandb": lambda: first})
    with pytest.raises(ZeroDivisionError), opened:
        raise ZeroDivisionError
    assert first.calls == ["close"]

    def interrupted() -> Any:
        raise KeyboardInterrupt

    second = Recording()
    with pytest.raises(KeyboardInterrupt):
        opened_with(monkeypatch, tmp_path, {"wandb": lambda: second, "trackio": interrupted})
    assert second.calls == ["close"]
