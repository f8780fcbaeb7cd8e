"""Several ranks on one machine: forked from a process that has everything imported, or by torchrun.

Forked ranks start in a fraction of a second; torchrun is there where its restarts are tried.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SMALL = [
    *("--data.corpus", "simple", "--training.device", "cpu", "--training.precision", "float32"),
    *("--model.n-layers", "2", "--model.d-model", "16", "--model.n-heads", "2"),
    *("--model.context-length", "16", "--model.dropout", "0", "--training.batch-size", "8"),
    *("--training.eval-every", "0", "--training.checkpoint-every", "0"),
    *("--training.sample-every", "0", "--training.eval-batch-size", "64"),
    *("--sampling.max-new-tokens", "8", "--optimizer.learning-rate", "0.003"),
]
"""Flags of a run of a second."""


def spared(torture: bool, *, rare: bool) -> None:
    """Skip a case that continuous integration has no time for; `--torture` runs all of them."""
    if rare and not torture:
        pytest.skip("with --torture")


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit status, and all that it wrote."""

    status: int | None
    text: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distributed.preload"])
    return context


def _rank(environment: Mapping[str, str], folder: str, output: str, words: Sequence[str]) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    torch.set_num_threads(1)
    from tiny_transformer.cli.main import main

    status = main(list(words))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_ranks(
    folder: Path,
    *words_of: Sequence[str],
    folders: Sequence[Path] = (),
    only: Sequence[int] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> list[Ended]:
    """Run `tiny` as several ranks, each with its own words; return how they ended.

    Args:
        folder: where they run, and where what they write is kept.
        words_of: of each rank.
        folders: of each rank, instead of `folder`.
        only: the ranks that are started; None starts all.
        environment: for all of them.
        timeout: seconds that they may take.
    """
    port, processes = str(free_port()), []
    for rank in range(len(words_of)) if only is None else only:
        named = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(len(words_of)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TINY_TRANSFORMER_CACHE": os.environ["TINY_TRANSFORMER_CACHE"],
            **(environment or {}),
        }
        if len(words_of) == 1:
            named["WORLD_SIZE"] = "1"
        output = folder / f"rank-{rank}.txt"
        where = folders[rank] if folders else folder
        arguments = (named, str(where), str(output), list(words_of[rank]))
        process = _context().Process(target=_rank, args=arguments)
        process.start()
        processes.append((process, output))
    ended = []
    for process, output in processes:
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        ended.append(Ended(process.exitcode, output.read_text(encoding="utf-8")))
    return ended


def train(folder: Path, name: str, n_ranks: int, *words: str) -> Path:
    """Train a run of this name on several ranks; return its folder."""
    line = ["train", *SMALL, "--run-name", name, *words]
    for ended in run_ranks(folder, *[line] * n_ranks):
        assert ended.status == 0, ended.text
    return folder / "runs" / name


def torchrun(
    folder: Path, *words: str, n_ranks: int = 2, max_restarts: int = 0, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `torchrun --standalone ... -m tiny_transformer WORDS` in a folder."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(n_ranks), "--max-restarts", str(max_restarts)),
            *("--monitor-interval", "0.1", "-m", "tiny_transformer", *words),
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def lines_of(run: Path, event: str) -> list[dict[str, Any]]:
    """Return the lines of an event in a run's log."""
    lines = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["event"] == event]


def losses_of(run: Path) -> dict[int, float]:
    """Return the training losses by step, the later ones where a step was made twice."""
    return {line["step"]: line["loss"] for line in lines_of(run, "train")}
