"""Memory: what training takes at its fullest, beside what the config says it should.

A process of its own trains for a few steps while a thread reads how much anonymous memory it
has, so Linux alone (`RssAnon` in /proc/self/status); what it had before the model was built,
PyTorch and its thread pools, is taken off.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from pathlib import Path

import torch

from tiny_transformer.bench.measure import Budget, Rate
from tiny_transformer.bench.report import OURS, Row
from tiny_transformer.bench.training import our_step
from tiny_transformer.config import ModelConfig
from tiny_transformer.runtime.errors import TinyError
from tiny_transformer.viz.memory import estimate_memory

_STATUS = Path("/proc/self/status")
_MIB = 1024 * 1024


def anonymous_bytes() -> int | None:
    """Return the anonymous resident memory of this process; None where no one tells it."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("RssAnon:")), None)
    return None if kib is None else int(kib) * 1024


def memory_rows(config: ModelConfig, budget: Budget, *, batch_size: int = 16) -> list[Row]:
    """Return the peak of training, and how many times the estimate it is; nothing off Linux."""
    if anonymous_bytes() is None:
        return []
    estimate = estimate_memory(config, batch_size=batch_size).total
    settings = json.dumps({"model": dataclasses.asdict(config), "batch_size": batch_size})
    peaks = []
    for _ in range(budget.rounds):
        done = subprocess.run(
            [sys.executable, "-m", __name__, settings], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise TinyError(f"The measurement of memory failed: {done.stderr.strip()}")
        peaks.append(int(done.stdout) / _MIB)
    rate = Rate(tuple(peaks))
    times = rate.median * _MIB / estimate
    note = f"{times:.2f} of the estimate, {estimate / _MIB:,.0f} MiB"
    section = f"peak memory of training, batch {batch_size} x {config.context_length}"
    return [Row(section, OURS, "MiB", rate, note=note)]


def peak_of_training(config: ModelConfig, batch_size: int, *, steps: int = 4) -> int:
    """Train in this process for `steps` steps; return the bytes at most that this added."""
    _train(dataclasses.replace(config, n_layers=1), 1, 2)  # starts threads and libraries
    before = peak = anonymous_bytes() or 0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.001):
            peak = max(peak, anonymous_bytes() or 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _train(config, batch_size, steps)
    over.set()
    watcher.join()
    return peak - before


def _train(config: ModelConfig, batch_size: int, steps: int) -> None:
    ids = torch.randint(2, config.vocab_size, (batch_size, config.context_length + 1))
    step = our_step(config, ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    for _ in range(steps):
        step()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(peak_of_training(ModelConfig(**given["model"]), given["batch_size"]))
