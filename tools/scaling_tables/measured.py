"""Speeds on this machine: `tiny train` as one process and as several that torchrun starts."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.scaling_tables.paper import STRATEGIES, table

from tiny_transformer.bench.measure import Rate, ratio
from tiny_transformer.runtime.environment import package_version, processor_name
from tiny_transformer.tracking.run_log import read_log

SKIPPED = 3
"""First steps of a run, which are not counted: they are slower."""
_BATCH = 16  # windows of a step, in each config


class ScalingError(Exception):
    """A run that was to be measured failed; the message has its own words."""


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        config: a preset.
        optimizer: its name.
    """

    config: str
    optimizer: str

    def __str__(self) -> str:
        return f"`{self.config}`, {self.optimizer}"


@dataclass(frozen=True)
class Setup:
    """How it is trained.

    Attributes:
        processes: how many; one alone is not started by torchrun.
        threads: of each.
        strategy: how they share the work; empty for one alone.
    """

    processes: int
    threads: int
    strategy: str = ""

    def __str__(self) -> str:
        def count(number: int, what: str, more: str) -> str:
            return f"{number} {what if number == 1 else more}"

        threads = count(self.threads, "thread", "threads")
        if self.strategy:
            return f"{self.processes} processes, {threads} each, {self.strategy}"
        return f"{count(self.processes, 'process', 'processes')}, {threads}"


TASKS = tuple(Task(config, name) for config in ("tiny", "base") for name in ("adamw", "muon"))
ALONE = Setup(1, 1)
Rates = Mapping[Task, Mapping[Setup, Rate]]


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def setups(n_cores: int) -> list[Setup]:
    """Return the ways to use a machine of so many cores; the first one is the measure of all.

    One process with one thread and with all, then 2, 4, 8 ... processes with one thread each.
    """
    found = [ALONE]
    if n_cores > 1:
        found.append(Setup(1, n_cores))
    counts = [2**k for k in range(1, _BATCH.bit_length()) if 2**k <= n_cores]
    return found + [Setup(n, 1, strategy) for n in counts for strategy in STRATEGIES]


def command(task: Task, setup: Setup, folder: Path, name: str, steps: int) -> list[str]:
    """Return the command line of one run."""
    words = [sys.executable]
    if setup.processes > 1:
        words += ["-m", "torch.distributed.run", "--nproc-per-node", str(setup.processes)]
    words += ["-m", "tiny_transformer", "train", "--config", task.config]
    words += ["--run-name", name, "--runs-dir", str(folder / "runs")]
    words += ["--optimizer.name", task.optimizer, "--training.max-steps", str(steps)]
    words += ["--data.corpus", "simple", "--training.batch-size", str(_BATCH)]
    words += ["--training.device", "cpu", "--training.precision", "float32"]
    for what in ("eval", "sample", "checkpoint"):
        words += [f"--training.{what}-every", "0"]
    words += ["--sampling.max-new-tokens", "1"]
    return words + (["--distributed.strategy", setup.strategy] if setup.strategy else [])


def train(task: Task, setup: Setup, folder: Path, name: str, steps: int) -> float:
    """Train a few steps in a folder of ours; return the tokens a second of the middle one.

    Raises:
        ScalingError: the run failed.
    """
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": str(setup.threads),
        "TINY_TRANSFORMER_CACHE": str(folder / "cache"),
    }
    words = command(task, setup, folder, name, steps)
    done = subprocess.run(
        words, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:])
        raise ScalingError(f"{' '.join(words)}\nended with status {done.returncode}:\n{said}")
    return middle_rate(read_log(folder / "runs" / name / "log.jsonl"))


def middle_rate(lines: Sequence[Mapping[str, Any]]) -> float:
    """Return the median of the tokens a second of a run's steps, without the first ones.

    Raises:
        ScalingError: the log has no more steps than are skipped.
    """
    rates = [line["tokens_per_second"] for line in lines if line["event"] == "train"][SKIPPED:]
    if not rates:
        raise ScalingError(f"The run made no more than the {SKIPPED} steps that do not count.")
    return statistics.median(rates)


Train = Callable[[Task, Setup, Path, str, int], float]


def measure(
    folder: Path,
    rounds: int,
    steps: int,
    tasks: Sequence[Task] = TASKS,
    n_cores: int | None = None,
    train: Train = train,
    tell: Callable[[str], None] = print,
) -> dict[Task, dict[Setup, Rate]]:
    """Let each way have its turn in each round, so that a busy moment hits all alike.

    Args:
        folder: for the runs.
        rounds: turns of each.
        steps: of each run.
        tasks: what is trained.
        n_cores: of the machine; None asks it.
        train: makes one run.
        tell: shows each rate as it comes.
    """
    ways = setups(cores() if n_cores is None else n_cores)
    found: dict[Task, dict[Setup, list[float]]] = {t: {s: [] for s in ways} for t in tasks}
    for number in range(rounds):
        for task in tasks:
            for index, setup in enumerate(ways):
                name = f"{task.config}-{task.optimizer}-{index}-{number}"
                rate = train(task, setup, folder, name, steps)
                found[task][setup].append(rate)
                tell(f"round {number + 1}: {task}, {setup}: {rate:,.0f} tokens/s")
    return {t: {s: Rate(tuple(r)) for s, r in each.items()} for t, each in found.items()}


def measured_table(rates: Rates) -> str:
    """Return tokens a second, and how many times as fast as one process with one thread."""
    tasks = list(rates)
    rows = []
    for setup in rates[tasks[0]]:
        cells = [str(setup)]
        for task in tasks:
            rate = rates[task][setup]
            cells.append(f"{rate.median:,.0f}")
            if setup == ALONE:
                cells.append("")
                continue
            paired = ratio(rate, rates[task][ALONE])
            cells.append(f"{paired.median:.2f} ({paired.least:.2f} to {paired.most:.2f})")
        rows.append(cells)
    heads = ["tokens/s, and ratio"]
    for task in tasks:
        heads += [str(task), ""]
    return table(heads, rows)


def describe(rounds: int, steps: int, load: float | None, today: datetime.date) -> str:
    """Return on what machine, when and how it was measured, as a line."""
    busy = "" if load is None else f"; load average at the start {load:.1f}"
    return (
        f"{processor_name()}, {cores()} cores, {platform.system()} {platform.machine()}; Python "
        f"{platform.python_version()}, torch {package_version('torch')}{busy}; "
        f"{today.isoformat()}, {rounds} rounds of {steps} steps of {_BATCH} windows."
    )
