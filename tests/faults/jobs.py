"""What the children of the fork server do."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from tests.faults.scenarios import SCENARIOS, remember_configs, run_in, save
from tests.faults.seam import Killer, Tracer, intercepted
from tests.training.helpers import resumed, tiny_config, trainer

from tiny_transformer.cli.main import main
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import joint_hash, tensor_hashes, weights_hash

TRAINING: dict[str, Any] = {
    "training__checkpoint_every": 2,
    "training__accumulation_steps": 2,
    "training__sample_every": 3,
    "model__dropout": 0.1,
    "checkpoints__keep_last": 1,
    "sampling__max_new_tokens": 2,
    "run_name": "run",
}


def warm_up() -> None:
    """Import, prepare and run once what children would each spend a second on."""
    remember_configs()
    with tempfile.TemporaryDirectory() as folder:
        for scenario in SCENARIOS.values():
            scenario.prepare(run_in(Path(folder) / str(id(scenario))))
        trainer(tiny_config(Path(folder), **TRAINING, training__max_steps=1)).train()


def act(scenario: str, root: str, number: int, how: str) -> None:
    """Run a scenario and be killed at a call."""
    with intercepted(Killer(number, how)):
        SCENARIOS[scenario].act(run_in(Path(root)), lambda name: None)


def _hashes(trained: Trainer) -> list[str]:
    optimizer = joint_hash(tensor_hashes(trained.optimizer.state_tensors()))
    return [weights_hash(trained.model), optimizer]


def train(root: str, number: int, how: str) -> list[str]:
    """Train a run, be killed at a call; return the final hashes otherwise."""
    small = trainer(tiny_config(Path(root), **TRAINING))
    with intercepted(Killer(number, how)):
        small.train()
    return _hashes(small)


def trace_training(root: str) -> list[str]:
    """Train a run; return the names of the calls."""
    small, tracer = trainer(tiny_config(Path(root), **TRAINING)), Tracer()
    with intercepted(tracer):
        small.train()
    return [call.name for call in tracer.calls]


def resume(root: str) -> list[str]:
    """Resume a run to its end; return the final hashes."""
    small = resumed(Path(root) / "runs" / "run")
    small.train()
    return _hashes(small)


def final_hashes(root: str) -> list[str]:
    """Return the hashes of a run's last checkpoint."""
    last = load_checkpoint(run_in(Path(root)).latest_checkpoint())
    return [
        joint_hash(tensor_hashes(last.weights)),
        joint_hash(tensor_hashes(last.optimizer_state)),
    ]


def save_quickly(root: str, stop: str) -> int:
    """Save and prune as fast as it goes until the file `stop` is there; return the number."""
    n_saved = 0
    while not Path(stop).exists():
        n_saved += 1
        save(run_in(Path(root)), n_saved, n_saved, val_loss=-n_saved, keep_last=1)
    return n_saved


def command(arguments: list[str]) -> tuple[int, str]:
    """Run `tiny` with arguments; return its exit status, and what it printed as an error."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return int(status or 0), told.getvalue()


def train_slowly(root: str) -> None:
    """Train for long enough to be watched, and killed."""
    config = tiny_config(Path(root), run_name="run", training__max_steps=100_000,
                         training__checkpoint_every=5)  # fmt: skip
    slow = trainer(config)
    compute = slow.state.compute_gradients

    def wait_and_compute() -> Any:
        time.sleep(0.01)
        return compute()

    slow.state.compute_gradients = wait_and_compute
    slow.train()


GIGABYTE = 1 << 30


def open_stranger(path: str, use: str) -> tuple[str, str]:
    """Load a checkpoint from a stranger with little memory; return the error and its message.

    Args:
        path: of the checkpoint.
        use: `load` it, `build` its model, or `resume` its run.
    """
    if Path("/proc/self/statm").exists():
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + GIGABYTE, now + GIGABYTE))
    try:
        loaded = load_checkpoint(path)
        if use == "build":
            loaded.build_model()
        elif use == "resume":
            resumed(Path(path))
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


class Gauge(ConsoleReporter):
    """Reads how much a process holds, every 25 steps."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), force_terminal=False))
        self.read: list[tuple[int, int]] = []

    def step(self, step: int, metrics: dict[str, float]) -> None:
        if step % 25 == 0:
            gc.collect()
            self.read.append((anonymous_memory(), n_descriptors()))


def soak(root: str, n_steps: int) -> list[tuple[int, int]]:
    """Train for long with all that a run can do; return memory and descriptors along the way."""
    gauge = Gauge()
    gc.freeze()  # what is there already is not searched each time
    config = tiny_config(
        Path(root),
        training__max_steps=n_steps,
        training__eval_every=375,
        training__sample_every=150,
        training__checkpoint_every=75,
        model__dropout=0.1,
        checkpoints__keep_last=2,
        hooks=[{"name": "gradient_norms", "every": 10}, {"name": "activation_stats", "every": 50}],
    )
    Trainer(config, reporter=gauge).train()
    return gauge.read


def anonymous_memory() -> int:
    """Return the process's anonymous memory in bytes, 0 where the system does not tell."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def n_descriptors() -> int:
    """Return how many descriptors are open, 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0  # noqa: PTH208
