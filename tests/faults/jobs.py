"""What the children of the fork server do."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tests.faults.scenarios import SCENARIOS, run_in, save, remember_configs
from tests.faults.seam import Killer, Tracer, intercepted
from tests.training.helpers import resumed, tiny_config, trainer

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


def n_descriptors() -> int:
    """Return how many descriptors are open, 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0  # noqa: PTH208

