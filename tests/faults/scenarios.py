"""What a run does to its folder: each scenario prepares one, and then writes into it.

A checkpoint's weights are all one number, its `content`, so that whoever reads it back can
tell which save it came from, and that nothing of two saves was mixed.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.training.helpers import tiny_config

from tiny_transformer.config import CheckpointsConfig, Config, loading
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import RunLog
from tiny_transformer.training import checkpoint
from tiny_transformer.training.checkpoint import save_checkpoint
from tiny_transformer.training.checkpoint_manager import CheckpointManager
from tiny_transformer.training.optimizer import Optimizer

Mark = Callable[[str], None]


_written: dict[str, str] = {}
_read: dict[bytes, Config] = {}


def remember_configs() -> None:
    """Write and read a config that was seen before from memory: YAML takes most of the time."""
    dump, load = loading.dump_config, getattr(checkpoint, "_config")  # noqa: B009

    def dump_once(config: Config, *, as_json: bool = False) -> str:
        key = f"{config} {as_json}"
        if key not in _written:
            _written[key] = dump(config, as_json=as_json)
        return _written[key]

    def load_once(file: Path, data: bytes) -> Config:
        if data not in _read:
            _read[data] = load(file, data)
        return _read[data]

    loading.dump_config = dump_once
    setattr(checkpoint, "_config", load_once)  # noqa: B010


def run_in(root: Path) -> RunFolder:
    """Return the run of a scenario, which lies two new folders deep."""
    return RunFolder(root / "runs" / "run")


@functools.cache
def _trained() -> tuple[Any, Transformer, Optimizer, CharTokenizer]:
    """Return a config, a model and an optimizer that has made an update."""
    config = tiny_config(Path(), model__d_model=8, model__d_ff=8, model__context_length=8)
    model = Transformer(config.model, seed=0)
    optimizer = Optimizer(model, config.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return config, model, optimizer, CharTokenizer()


def save(
    run: RunFolder,
    step: int,
    content: int,
    *,
    val_loss: float,
    keep_last: int | None = None,
    mark: Mark = lambda name: None,
) -> None:
    """Save a checkpoint as training does: recover, log, save, log, prune."""
    config, model, optimizer, tokenizer = _trained()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float(content))
    files.make_directory(run.path)
    log = RunLog(run.log, {"run_id": "run"})
    try:
        run.recover()
        log.write("train", step, text="caf\u00e9 " * 20)
        log.sync()
        manager = CheckpointManager(run, CheckpointsConfig(keep_last=keep_last, keep_best=1))
        manager.save(
            step,
            lambda path, ranks: save_checkpoint(
                path,
                model=model,
                optimizer=optimizer,
                step=step,
                config=config,
                tokenizer=tokenizer,
                metadata={"content": content, "log_chain": log.chain, **ranks},
            ),
            {"val_loss": val_loss},
        )
        mark("saved")
        log.write("checkpoint", step)
        manager.prune()
    finally:
        log.close()


@dataclass(frozen=True)
class Scenario:
    """One thing that a run does to its folder.

    Attributes:
        prepare: makes what is there before.
        act: writes.
        before: by step, the contents that may be listed; `after` likewise once it is done.
        latest: contents that the latest checkpoint may have before `act` has done its work.
        done: contents by step of what is listed in the end.
        aside: contents that are set aside in the end.
    """

    prepare: Callable[[RunFolder], None]
    act: Callable[[RunFolder, Mark], None]
    allowed: dict[int, set[int]]
    latest: set[int]
    done: dict[int, int]
    aside: frozenset[int] = frozenset()


def _save_three(run: RunFolder) -> None:
    for step, val_loss in ((1, 0.1), (2, 0.3), (3, 0.2)):
        save(run, step, step, val_loss=val_loss)


def _left_behind(run: RunFolder) -> None:
    """Leave what three killed processes left: a replacement, a half save, a half removal."""
    _save_three(run)
    one, two, three = (run.checkpoint(step) for step in (1, 2, 3))
    shutil.copytree(three, three.with_name(f".{three.name}.0123abcd.tmp"))
    (three.with_name(f".{three.name}.0123abcd.tmp") / "metadata.json").unlink()
    two.rename(two.with_name(f".{two.name}.4567abcd.old"))
    three.rename(three.with_name(f".{three.name}.89abcdef.gone"))
    shutil.copytree(one, one.with_name(f".{one.name}.0123abcd.old"))
    (run.checkpoint(1).parent / "superseded-20260101-000000-abcdef").mkdir()


SCENARIOS = {
    "first save": Scenario(
        prepare=lambda run: None,
        act=lambda run, mark: save(run, 1, 1, val_loss=0.1, mark=mark),
        allowed={1: {1}},
        latest=set(),
        done={1: 1},
    ),
    "save and prune": Scenario(
        prepare=_save_three,
        act=lambda run, mark: save(run, 4, 4, val_loss=0.05, keep_last=1, mark=mark),
        allowed={1: {1}, 2: {2}, 3: {3}, 4: {4}},
        latest={3, 4},
        done={4: 4},
    ),
    "replace the only one": Scenario(
        prepare=lambda run: save(run, 2, 2, val_loss=0.1),
        act=lambda run, mark: save(run, 2, 22, val_loss=0.2, mark=mark),
        allowed={2: {2, 22}},
        latest={2, 22},
        done={2: 22},
    ),
    "set later ones aside": Scenario(
        prepare=_save_three,
        act=lambda run, mark: (run.supersede_after(1), mark("saved"))[0] and None,
        allowed={1: {1}, 2: {2}, 3: {3}},
        latest={1, 2, 3},
        done={1: 1},
        aside=frozenset({2, 3}),
    ),
    "recover": Scenario(
        prepare=_left_behind,
        act=lambda run, mark: run.recover(),
        allowed={1: {1}, 2: {2}},
        latest={2},
        done={1: 1, 2: 2},
    ),
}
