"""A long run holds no more at its end than in its middle."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.server import ForkServer

from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import check_chain

# The allocator gives memory back in pieces and keeps some: medians of quarters differ by a
# megabyte or two in a run that leaks nothing, however long it is. One float64 of the weights
# and gradients kept at each step would be 100 kB a step: 40 times this over 1,500 steps.
TOLERANCE = 4 << 20  # bytes


@pytest.mark.requirement("faults.soak")
def test_memory_and_descriptors_are_flat(
    tmp_path: Path, server: ForkServer, count: Callable[[str, int], None], torture: bool
) -> None:
    n_steps = 20_000 if torture else 1_500
    read = server.call("soak", limit=3600 if torture else 300, root=str(tmp_path), n_steps=n_steps)
    quarter = len(read) // 4
    second, last = read[quarter : 2 * quarter], read[3 * quarter :]
    assert len(last) >= 10
    assert {n for _, n in second} == {n for _, n in last}  # descriptors
    growth = statistics.median(m for m, _ in last) - statistics.median(m for m, _ in second)
    assert growth < TOLERANCE, f"{growth} bytes more in the last quarter than in the second"
    (run,) = (tmp_path / "runs").iterdir()
    assert check_chain(RunFolder(run).log).broken is None
    count("soak steps", n_steps)
    count("soak: growth in bytes, second to last quarter", int(growth))
