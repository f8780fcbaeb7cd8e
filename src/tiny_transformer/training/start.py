"""How a run begins: its folder, its record, and what the record says of it."""

from __future__ import annotations

import datetime
from typing import Any

from tiny_transformer.config import config_hash
from tiny_transformer.config.loading import save_config
from tiny_transformer.runtime import files
from tiny_transformer.runtime.environment import describe_environment, git_commit, git_dirty
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.recorder import RunRecorder
from tiny_transformer.tracking.run_folder import RunFolder, record_files
from tiny_transformer.tracking.trackers import open_trackers
from tiny_transformer.training.state import TrainingState
from tiny_transformer.training.weights import joint_hash, named_weights, tensor_hashes


def create_folder(state: TrainingState) -> RunFolder:
    """Make the folder of a new run, with its config, environment and vocabulary."""
    folder = RunFolder.create(state.config.runs_dir, state.config.run_name)
    environment = describe_environment(state.device, state.precision, state.n_shards)
    with folder.removed_on_failure():
        save_config(state.config, folder.path / "config.yaml")
        files.write_json(folder.path / "environment.json", environment)
        state.data.tokenizer.save(folder.path / "vocab.json")
    return folder


def open_record(state: TrainingState, folder: RunFolder, reporter: ConsoleReporter) -> RunRecorder:
    """Open the log, and the trackers that the config names."""
    identity = {
        "run_id": folder.run_id,
        "config_hash": config_hash(state.config),
        "git_commit": git_commit(),
    }
    trackers = open_trackers(
        state.config.tracking,
        run_id=folder.run_id,
        folder=folder.path,
        settings=state.config.to_dict(),
        warn=reporter.message,
        first_step=state.step + 1 if state.step else 0,
    )
    return RunRecorder(folder, identity, reporter, trackers)


def describe_start(state: TrainingState, folder: RunFolder) -> dict[str, Any]:
    """Return what the first line of a run, or of its continuation, says of it."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": state.config.training.seed,
        "corpus": state.config.data.corpus,
        "data_fingerprint": state.data.fingerprint,
        "device": str(state.device),
        "precision": state.precision,
        "git_dirty": git_dirty(),
        "environment": describe_environment(state.device, state.precision, state.n_shards),
        "n_parameters": state.model.n_parameters(),
        "weights_sha256": joint_hash(tensor_hashes(named_weights(state.model))),
        "dropout": state.config.model.dropout_probability,
        "max_steps": state.config.training.max_steps,
        "files": record_files(folder.path),
    }
