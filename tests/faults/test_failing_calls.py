"""Whichever system call fails, and for however long: one message, and nothing is lost."""

from __future__ import annotations

import errno
import gc
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.jobs import TRAINING, n_descriptors
from tests.faults.promises import check_promises, check_restart, key_of, snapshot
from tests.faults.scenarios import SCENARIOS, run_in
from tests.faults.seam import Failer, Tracer, intercepted
from tests.training.helpers import resumed, tiny_config, trainer

from tiny_transformer.runtime.errors import StorageError
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import check_chain
from tiny_transformer.training.weights import joint_hash, tensor_hashes, weights_hash

Count = Callable[[str, int], None]
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
LASTING = {"once": 1, "twice": 2, "for good": math.inf}
# What is being removed may stay: the next start removes it.
SILENT = {"os_unlink", "os_rmdir"}


@pytest.mark.requirement("faults.failing-calls")
@pytest.mark.parametrize("lasting", LASTING)
@pytest.mark.parametrize("name", SCENARIOS)
def test_any_call_that_fails_is_one_storage_error_and_loses_nothing(
    tmp_path: Path, count: Count, torture: bool, name: str, lasting: str
) -> None:
    scenario, tracer = SCENARIOS[name], Tracer()
    scenario.prepare(run_in(tmp_path / "before"))
    (tmp_path / "before").mkdir(exist_ok=True)
    shutil.copytree(tmp_path / "before", tmp_path / "whole")
    with intercepted(tracer):
        scenario.act(run_in(tmp_path / "whole"), tracer.mark)
    n_calls = sum(call.name != "mark" for call in tracer.calls)
    seen: set[str] = set()
    if lasting == "twice" and not torture:
        n_calls = min(n_calls, 12)
    pace = 1 if torture or lasting == "once" else 2
    for number in range(1, n_calls + 1, pace):
        for error in ERRORS if torture else [ERRORS[number % len(ERRORS)]]:
            root = tmp_path / f"{number}-{error}"
            shutil.copytree(tmp_path / "before", root)
            failer = Failer(number, error, LASTING[lasting])
            open_before, raised = n_descriptors(), None
            try:
                with intercepted(failer):
                    scenario.act(run_in(root), lambda name: None)
            except StorageError as caught:
                raised = caught
                assert caught.exit_status == 2
                assert "\n" not in str(caught)
                assert "Nothing that was already saved has been changed." in str(caught)
            assert failer.failed, (number, error)
            assert raised or set(failer.failed) <= SILENT, (number, failer.failed)
            assert n_descriptors() == open_before, (number, error)
            raised = None
            count("calls failed", 1)
            key = key_of(snapshot(root))
            if key not in seen:
                seen.add(key)
                check_promises(scenario, root, saved=False)
                if torture or len(seen) % 3 == 0:
                    check_restart(scenario, root)
            shutil.rmtree(root)


@pytest.mark.requirement("faults.failing-calls")
def test_training_raises_where_the_disk_fails_and_is_resumed_later(
    tmp_path: Path, count: Count, torture: bool
) -> None:
    whole, tracer = trainer(tiny_config(tmp_path / "whole", **TRAINING)), Tracer()
    with intercepted(tracer):
        whole.train()

    names = [call.name for call in tracer.calls]
    for number in range(1, len(names) + 1) if torture else range(9, len(names), 47):
        if names[number - 1] in SILENT | {"failed"}:
            continue
        root = tmp_path / str(number)
        small = trainer(tiny_config(root, **TRAINING))
        failer = Failer(number, ERRORS[number % len(ERRORS)], (1, 2, math.inf)[number % 3])
        gc.collect()  # a corpus that nobody reads any more is still mapped until then
        open_before = n_descriptors()
        with intercepted(failer), pytest.raises(StorageError) as caught:
            small.train()
        assert "\n" not in str(caught.value)
        assert n_descriptors() <= open_before, number  # an older trainer's may be gone by now
        run = RunFolder(root / "runs" / "run")
        if run.checkpoints() and small.step < 6:
            small = resumed(run.path)
            small.train()
            assert weights_hash(small.model) == weights_hash(whole.model)
            assert joint_hash(tensor_hashes(small.optimizer.state_tensors())) == joint_hash(
                tensor_hashes(whole.optimizer.state_tensors())
            )
            assert check_chain(run.log).broken is None
        count("runs whose disk failed, resumed to the same bits", 1)
        shutil.rmtree(root, ignore_errors=True)  # where its first folder failed there is none
