"""A run that begins with weights from elsewhere: a record, and a checkpoint at step 0.

It reads like any other run, but no update was made in it: fine-tuning is a run of its own that
starts from it (`--init-from`).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tiny_transformer.config import Config, config_hash
from tiny_transformer.config.loading import save_config
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.runtime.environment import (
    describe_environment,
    describe_numerics,
    git_commit,
    git_dirty,
)
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer
from tiny_transformer.tracking.run_folder import (
    RunFolder,
    new_run_id,
    record_files,
    refuse_taken_name,
)
from tiny_transformer.tracking.run_log import RunLog
from tiny_transformer.tracking.run_summary import IMPORTED
from tiny_transformer.training.checkpoint import save_checkpoint
from tiny_transformer.training.checkpoint_manager import CheckpointManager
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.training.weights import joint_hash, named_weights, tensor_hashes


def create_imported_run(
    model: Transformer, tokenizer: Tokenizer, config: Config, source: Mapping[str, Any]
) -> RunFolder:
    """Write a run whose only checkpoint holds these weights; it appears whole or not at all.

    Args:
        model: float32, on the CPU.
        tokenizer: its vocabulary.
        config: settings for fine-tuning; `run_name` and `runs_dir` say where the run lies, and
            the architecture is the model's.
        source: JSON-ready values that say where the weights came from.

    Raises:
        RunError: a run of that name exists.
        StorageError: the folder cannot be written.
    """
    refuse_taken_name(config.runs_dir, config.run_name)
    run_id = config.run_name or new_run_id()
    path = Path(config.runs_dir) / run_id
    kept = _kept_config(config, model, tokenizer, path)
    identity = {"run_id": run_id, "config_hash": config_hash(kept), "git_commit": git_commit()}
    with files.staged_directory(path) as staged:
        folder = RunFolder(staged)
        save_config(kept, staged / "config.yaml")
        files.write_json(staged / "environment.json", _environment())
        tokenizer.save(staged / "vocab.json")
        log = RunLog(folder.log, identity)
        try:
            log.write(IMPORTED, 0, **_description(model, kept, source), files=record_files(staged))
            log.sync()  # the checkpoint remembers the log's chain
            _save(folder, model, tokenizer, kept, {**identity, "log_chain": log.chain}, source, log)
            log.sync()
        finally:
            log.close()
    return RunFolder(path)


def _kept_config(config: Config, model: Transformer, tokenizer: Tokenizer, path: Path) -> Config:
    """Return the settings as the run keeps them: for the runs that are to start from it."""
    data = config.data
    if not isinstance(tokenizer, CharTokenizer):
        data = dataclasses.replace(data, tokenizer=str(path / "vocab.json"))
    return dataclasses.replace(config, run_name=None, data=data, model=model.config)


def _environment() -> dict[str, Any]:
    return describe_environment(describe_numerics(torch.device("cpu"), "float32"))


def _description(model: Transformer, config: Config, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": dict(source),
        "git_dirty": git_dirty(),
        "environment": _environment(),
        "n_parameters": model.n_parameters(),
        "weights_sha256": joint_hash(tensor_hashes(named_weights(model))),
    }


def _save(
    folder: RunFolder,
    model: Transformer,
    tokenizer: Tokenizer,
    config: Config,
    identity: Mapping[str, Any],
    source: Mapping[str, Any],
    log: RunLog,
) -> None:
    """Write the checkpoint of step 0, with an optimizer that has no state yet, and log it."""
    optimizer = Optimizer(model, config.optimizer)
    metadata = {
        **identity,
        "git_dirty": git_dirty(),
        "hook_list": [],
        "hooks": [],
        "init_from": None,
        "data_fingerprint": None,
        "numerics": describe_numerics(torch.device("cpu"), "float32"),
        IMPORTED: dict(source),
    }
    path = CheckpointManager(folder, config.checkpoints).save(
        0,
        lambda path, ranks: save_checkpoint(
            path,
            model=model,
            optimizer=optimizer,
            step=0,
            config=config,
            tokenizer=tokenizer,
            metadata={**metadata, **ranks},
        ),
    )
    tensors = tensor_hashes(named_weights(model))
    log.write(
        "checkpoint",
        0,
        path=str(path.relative_to(folder.path)),
        weights_sha256=joint_hash(tensors),
        optimizer_sha256=joint_hash(tensor_hashes(optimizer.state_tensors())),
        tensors=tensors,
    )
