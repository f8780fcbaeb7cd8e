"""How a run begins: its folder, its record, and what the record says of it."""

from __future__ import annotations

import datetime
from dataclasses import fields
from typing import Any

from tiny_transformer.config import Config, ModelConfig, config_hash
from tiny_transformer.config.loading import save_config
from tiny_transformer.runtime import files
from tiny_transformer.runtime.distributed import job_id
from tiny_transformer.runtime.environment import describe_environment, git_commit, git_dirty
from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.recorder import RunRecorder
from tiny_transformer.tracking.run_folder import RunFolder, record_files
from tiny_transformer.tracking.trackers import open_trackers
from tiny_transformer.training.checkpoint import Checkpoint
from tiny_transformer.training.state import TrainingState
from tiny_transformer.training.weights import joint_hash, named_weights, tensor_hashes
from tiny_transformer.training.written_parts import describe_parts, keep_sources

_FREE = ("dropout", "residual_init", "backend")  # what weights do not depend on


def refuse_other_model(source: Checkpoint, config: Config) -> None:
    """Refuse weights for another architecture before anything is built.

    A setting that leaves all shapes as they are counts too: with another activation or rotary
    base the weights would load, and mean nothing.

    Raises:
        CheckpointError: names each setting that differs, and the flags that would agree.
    """
    theirs, ours = _weights_depend_on(source.config.model), _weights_depend_on(config.model)
    differing = [name for name in theirs if theirs[name] != ours[name]]
    if not differing:
        return
    told = ", ".join(
        f"model.{name} is {theirs[name]} there and {ours[name]} here" for name in differing
    )
    flags = [f"--model.{name.replace('_', '-')} {theirs[name]}" for name in differing]
    if source.config.data.tokenizer != config.data.tokenizer:
        flags.append(f"--data.tokenizer {source.config.data.tokenizer}")
    raise CheckpointError(
        f"{source.path} does not fit this model: {told}. To start from its weights, give "
        f"{' '.join(flags)}, or take all of its settings with --config "
        f"{source.path / 'config.yaml'}."
    )


def _weights_depend_on(config: ModelConfig) -> dict[str, object]:
    """Return the settings that decide what weights mean, defaults written out."""
    settings: dict[str, object] = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if field.name not in _FREE
    }
    settings |= {"n_kv_heads": config.kv_heads, "d_ff": config.feed_forward_width}
    if config.position != "learned":  # any number of positions can be computed
        del settings["context_length"]
    if config.position not in ("rotary", "sinusoidal"):
        del settings["rotary_base"]
    return settings


def create_folder(state: TrainingState) -> RunFolder:
    """Make the folder of a new run, with its config, environment and vocabulary."""
    folder = RunFolder.create(state.config.runs_dir, state.config.run_name)
    environment = {**describe_environment(state.numerics()), "job": job_id()}
    written = describe_parts(state.parts)
    if written:
        environment["parts"] = written
    with folder.removed_on_failure():
        save_config(state.config, folder.path / "config.yaml")
        files.write_json(folder.path / "environment.json", environment)
        state.data.tokenizer.save(folder.path / "vocab.json")
        keep_sources(state.parts, folder.path)
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
        "environment": describe_environment(state.numerics()),
        "n_parameters": state.model.n_parameters(),
        "weights_sha256": joint_hash(tensor_hashes(named_weights(state.model))),
        "parts": describe_parts(state.parts),
        "dropout": state.config.model.dropout_probability,
        "max_steps": state.config.training.max_steps,
        "files": record_files(folder.path),
    }
