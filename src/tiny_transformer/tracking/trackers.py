"""Experiment trackers beside the run's own log: TensorBoard, W&B and trackio.

A tracker is a guest of the run. One whose package is missing, or that fails, costs a line of
warning and never the training; and while a package is at work it is kept from the global random
generators, the interpreter's hooks and standard output.
"""

from __future__ import annotations

import contextlib
import io
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tiny_transformer.config.tracking import TrackerName, TrackingConfig
from tiny_transformer.runtime.random_state import generator_states, restore_generator_states
from tiny_transformer.tracking.tracker_packages import (
    TensorBoardTracker,
    TrackioTracker,
    WandbTracker,
)

_INSTALL = {
    "tensorboard": "pip install 'tiny-transformer[tensorboard]'",
    "wandb": "pip install 'tiny-transformer[wandb]'",
    "trackio": "pip install 'tiny-transformer[trackio]'",
}


class Tracker(Protocol):
    """Takes a run's numbers and texts somewhere."""

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log numbers of a step by their full names, `train/loss`; none at all is fine."""
        ...

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text of a step, for instance a sample."""
        ...

    def close(self) -> None:
        """Write what is still in memory, and let go."""
        ...


def prefixed(prefix: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among `metrics` under the names that trackers show.

    Args:
        prefix: `train`, `val` or another group; a `val_` that a name has already is not doubled.
        metrics: values by name. None, texts, booleans and tensors are left out; NaN and the
            infinities stay, for every tracker takes them.

    Returns:
        For instance `{"val/loss": 1.5}` for `prefixed("val", {"val_loss": 1.5})`.
    """
    return {
        f"{prefix}/{name.removeprefix(f'{prefix}_')}": float(value)
        for name, value in metrics.items()
        if isinstance(value, numbers.Real) and not isinstance(value, bool)
    }


def make_tracker(
    name: TrackerName,
    config: TrackingConfig,
    *,
    run_id: str,
    folder: Path,
    settings: Mapping[str, Any],
    first_step: int = 0,
) -> Tracker:
    """Build one tracker; the arguments are those of `open_trackers`.

    Raises:
        ModuleNotFoundError: its package is not installed.
        Exception: whatever its package raises when it cannot start.
    """
    if name == "tensorboard":
        return TensorBoardTracker(folder, settings, first_step)
    if name == "wandb":
        return WandbTracker(folder, settings, run_id, config.project, config.wandb_mode)
    return TrackioTracker(folder, settings, run_id, config.project)


class Trackers:
    """Several trackers as one, which never fails: one that raises is named and switched off.

    Args:
        warn: shows one line.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._trackers: dict[str, Tracker] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The trackers that are at work."""
        return tuple(self._trackers)

    def add(self, name: str, build: Callable[[], Tracker]) -> None:
        """Build a tracker and take it in; where that fails, say so in one line."""
        try:
            with _undisturbed():
                self._trackers[name] = build()
        except ModuleNotFoundError as error:
            if error.name != name:
                self._warn(f"The tracker {name} could not start: {_line(error)}")
            else:
                remedy = _INSTALL.get(name, f"pip install {name}")
                self._warn(f"The tracker {name} is left out: it is not installed ({remedy}).")
        except Exception as error:
            self._warn(f"The tracker {name} could not start: {_line(error)}")

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log numbers of a step by their full names (see `prefixed`)."""
        if metrics:
            self._each(lambda tracker: tracker.metrics(step, metrics))

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text of a step."""
        self._each(lambda tracker: tracker.text(step, name, text))

    def close(self) -> None:
        """Close every tracker; closing twice is fine."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                with _undisturbed():
                    act(tracker)
            except Exception as error:
                del self._trackers[name]
                self._warn(f"The tracker {name} failed and is switched off: {_line(error)}")
                with contextlib.suppress(Exception), _undisturbed():
                    tracker.close()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_trackers(
    config: TrackingConfig,
    *,
    run_id: str,
    folder: Path,
    settings: Mapping[str, Any],
    warn: Callable[[str], None],
    first_step: int = 0,
) -> Trackers:
    """Open the trackers that `config` names; those that cannot start are left out with a line.

    Args:
        config: which trackers, and how.
        run_id: the run's name; a resumed run keeps it.
        folder: the run's folder, which exists.
        settings: every setting of the run, for the trackers to show.
        warn: shows one line.
        first_step: the first step that will be logged: 0 for a new run, one more than the
            checkpoint's for a resumed one.
    """
    opened = Trackers(warn)
    try:
        for name in config.trackers:
            opened.add(
                name,
                lambda name=name: make_tracker(
                    name,
                    config,
                    run_id=run_id,
                    folder=folder,
                    settings=settings,
                    first_step=first_step,
                ),
            )
    except BaseException:  # Ctrl-C while the second starts: the first is not left open
        opened.close()
        raise
    return opened


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the block from standard output, and leave generators and hooks as they were."""
    states, leave, hook = generator_states(), sys.exit, sys.excepthook
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.exit, sys.excepthook = leave, hook
        restore_generator_states(states)


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
