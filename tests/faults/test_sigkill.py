"""A run survives SIGKILL at every system call that writes."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.promises import check_done, check_promises, check_restart, key_of, snapshot
from tests.faults.scenarios import SCENARIOS, run_in
from tests.faults.seam import Call, Tracer, intercepted, points
from tests.faults.server import ForkServer
from tests.training.helpers import log_of

from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import check_chain
from tiny_transformer.training.checkpoint import load_checkpoint

Count = Callable[[str, int], None]


@pytest.mark.requirement("faults.sigkill")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_any_call_leaves_a_whole_checkpoint_and_a_restart_makes_all_good(
    tmp_path: Path, server: ForkServer, count: Count, torture: bool, name: str
) -> None:
    scenario, tracer = SCENARIOS[name], Tracer()
    scenario.prepare(run_in(tmp_path / "before"))
    (tmp_path / "before").mkdir(exist_ok=True)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "before", whole)
    with intercepted(tracer):
        scenario.act(run_in(whole), tracer.mark)
    check_done(scenario, whole)
    names = [call.name for call in tracer.calls]
    saved = names.index("mark") if "mark" in names else len(names)
    seen: set[tuple[str, bool]] = set()
    for number, how in points(tracer.calls, every=torture):
        root = tmp_path / f"{number}-{how}"
        shutil.copytree(tmp_path / "before", root)
        pid = server.start("act", scenario=name, root=str(root), number=number, how=how)
        status, told = server.wait(pid)
        assert status == -signal.SIGKILL, (number, how, told)
        count("points killed", 1)
        # What was found whole need not be looked at again.
        key = key_of(snapshot(root)), number > saved
        if key not in seen:
            seen.add(key)
            check_promises(scenario, root, saved=number > saved)
            if torture or len(seen) % 3 == 0:
                check_restart(scenario, root)
                count("restarts after a kill", 1)
            count("distinct folders that kills left", 1)
        shutil.rmtree(root)


@pytest.mark.requirement("faults.sigkill")
def test_a_killed_run_is_resumed_to_the_same_end(
    tmp_path: Path, server: ForkServer, count: Count, torture: bool
) -> None:
    names = server.call("trace_training", root=str(tmp_path / "traced"))
    expected = server.call("train", root=str(tmp_path / "whole"), number=0, how="before")
    places = points([Call(name, "") for name in names], every=True)
    for number, how in places if torture else places[7::37]:
        root = tmp_path / f"{number}-{how}"
        status = server.status("train", root=str(root), number=number, how=how)
        assert status == -signal.SIGKILL, (number, how, len(names))
        count("runs killed, resumed to the same bits", 1)
        run = RunFolder(root / "runs" / "run")
        if not run.checkpoints():
            assert not any(line["event"] == "checkpoint" for line in read(run))
            continue
        complete = load_checkpoint(run.latest_checkpoint()).step == 6
        ended = "final_hashes" if complete else "resume"
        assert server.call(ended, root=str(root)) == expected, (number, how)
        assert check_chain(run.log).broken is None
        left = [path.name for path in run.path.rglob(".*") if path.name != ".lock"]
        assert complete or left == [], (number, how)
        shutil.rmtree(root, ignore_errors=True)


def read(run: RunFolder) -> list[dict[str, Any]]:
    return log_of(run) if run.log.exists() else []
