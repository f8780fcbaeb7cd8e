"""A run survives a power cut after every system call that writes: see `disk` for the model."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.disk import Disk
from tests.faults.promises import (
    check_promises,
    check_restart,
    key_of,
    materialise,
    snapshot,
)
from tests.faults.scenarios import SCENARIOS, run_in
from tests.faults.seam import Call, Tracer, intercepted

Count = Callable[[str, int], None]


@pytest.mark.requirement("faults.power-cut")
@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_a_power_cut_leaves_is_whole(
    tmp_path: Path, count: Count, torture: bool, name: str
) -> None:
    scenario, tracer, draw = SCENARIOS[name], Tracer(), random.Random(name)
    root = (tmp_path / "root").resolve()
    root.mkdir()
    scenario.prepare(run_in(root))
    disk = Disk(str(root), snapshot(root))
    with intercepted(tracer):
        scenario.act(run_in(root), tracer.mark)
    saved, seen = False, set[tuple[str, bool]]()
    for call in tracer.calls:
        disk.apply(call)
        saved = saved or call.name == "mark"
        for state in disk.crashes(draw):
            key = key_of(state), saved
            if key in seen:
                continue
            seen.add(key)
            left = tmp_path / "left"
            materialise(state, left)
            check_promises(scenario, left, saved=saved)
            if torture or len(seen) % 10 == 0:
                check_restart(scenario, left)
                count("restarts after a power cut", 1)
            shutil.rmtree(left)
    count("disk states replayed", len(seen))
    count("calls after which the power was cut", len(tracer.calls))
    # At the end the disk in memory holds what the real one does.
    everything = list(disk.crashes(draw))[-1]
    assert {k: v for k, v in everything.items() if v} == {
        k: v for k, v in snapshot(root).items() if v
    }


def test_the_disk_in_memory_forgets_what_was_not_synced() -> None:
    disk = Disk("/", {"a": None, "b": None, "a/old": b"old"})
    for call in (
        Call("os_open", "/a/new"),
        Call("os_write", "/a/new", data=b"1234"),
        Call("os_replace", "/a/new", target="/a/name"),
        Call("os_replace", "/a/old", target="/b/old"),
    ):
        disk.apply(call)
    states = list(disk.crashes(random.Random(0)))
    assert {"a": None, "b": None, "a/old": b"old"} in states
    for content in (b"", b"12", b"\0\0\0\0", b"1234"):
        assert {"a": None, "b": None, "a/name": content, "b/old": b"old"} in states
    assert not any(("a/old" in state) == ("b/old" in state) for state in states)
    assert not any("a/new" in state and "a/name" in state for state in states)
    disk.apply(Call("os_fsync", "/a/name"))
    disk.apply(Call("os_fsync", "/a"))
    assert list(disk.crashes(random.Random(0))) == [
        {"a": None, "b": None, "a/name": b"1234", "b/old": b"old"}
    ]
