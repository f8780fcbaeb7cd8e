"""The trackers that can be had: each hands a run's numbers and texts to one package.

A package is imported when its tracker is built, and not before.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class TensorBoardTracker:
    """Writes event files to `<folder>/tensorboard/`.

    Args:
        folder: the run's folder.
        settings: the run's config, shown as a text.
        first_step: the first step that will be logged; what an earlier part of the run logged
            from there on is no longer shown. 0 for a new run.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], first_step: int = 0) -> None:
        importlib.import_module("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)
        self.text(0, "config", json.dumps(settings, indent=2, default=str))

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log numbers of a step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text of a step, line for line."""
        self._writer.add_text(name, _as_markdown(text), step)

    def close(self) -> None:
        """Write what is still in memory, and close the file."""
        self._writer.close()


class WandbTracker:
    """Writes a W&B run to `<folder>/wandb/`, and with `mode="online"` to the service as well.

    The step is a metric of its own, and the others are drawn over it: W&B's own step counter
    drops what a resumed run logs again. Offline, each part of a resumed run is a folder of its
    own, all under one run id.

    Args:
        folder: the run's folder.
        settings: the run's config.
        run_id: id and name of the run; characters that W&B refuses in an id become `-`.
        project: under which the run is filed.
        mode: `offline` leaves the network alone; `online` needs to be logged in.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], run_id: str, project: str, mode: str
    ) -> None:
        # W&B reports its own health over the network, offline too, unless it is told not to.
        quiet = {"WANDB_ERROR_REPORTING": "false"} if mode == "offline" else {}
        with _environment(quiet):
            wandb = importlib.import_module("wandb")
            self._run = wandb.init(
                project=project,
                name=run_id,
                id=re.sub(r"[^\w.-]", "-", run_id, flags=re.ASCII),
                dir=str(folder),
                mode=mode,
                resume="allow",
                reinit="create_new",
                config=dict(settings),
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    disable_code=True,
                    x_disable_stats=True,  # a process of its own, beside a run on few cores
                    login_timeout=30,
                ),
            )
        self._html = wandb.Html
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log numbers of a step."""
        if metrics:
            self._run.log({"step": step, **metrics})

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text of a step, line for line."""
        page = self._html(f"<pre>{html.escape(text)}</pre>")
        self._run.log({"step": step, name: page})

    def close(self) -> None:
        """Write what is still in memory, and end W&B's run."""
        self._run.finish()


class TrackioTracker:
    """Writes to trackio's database in `<folder>/trackio/`, or in `TRACKIO_DIR` where that is set.

    trackio reads its folder once, when it is imported: a second run in one process goes to the
    folder of the first, and where something else imported trackio before, to trackio's own,
    `~/.cache/huggingface/trackio`. Where a Hugging Face token is stored, trackio asks the hub
    whose it is.

    Args:
        folder: the run's folder.
        settings: the run's config.
        run_id: name of the run; one of that name in the same database is continued.
        project: under which the run is filed.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], run_id: str, project: str
    ) -> None:
        database = os.environ.get("TRACKIO_DIR") or str((folder / "trackio").resolve())
        with _environment({"TRACKIO_DIR": database}):
            self._trackio = importlib.import_module("trackio")
        self._run = self._trackio.init(
            project=project,
            name=run_id,
            resume="allow",
            config=dict(settings),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log numbers of a step."""
        if metrics:
            self._run.log(dict(metrics), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text of a step, line for line."""
        self._run.log({name: self._trackio.Markdown(_as_markdown(text))}, step=step)

    def close(self) -> None:
        """Write what is still in memory, and end trackio's run."""
        self._trackio.finish()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _as_markdown(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))
