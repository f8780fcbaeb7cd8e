"""One place to tell what happens in a run: the log, the sample files, terminal and trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiny_transformer.runtime import files
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import RunLog, bits_of
from tiny_transformer.tracking.trackers import Trackers, prefixed


class RunRecorder:
    """Writes each event of a run to its log, shows it, and tells the trackers.

    Args:
        folder: the run's folder.
        identity: fields of every line: `run_id`, `config_hash`, `git_commit`.
        reporter: shows progress.
        trackers: told metrics and texts.
    """

    def __init__(
        self,
        folder: RunFolder,
        identity: dict[str, Any],
        reporter: ConsoleReporter,
        trackers: Trackers,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self._reporter, self._trackers = reporter, trackers
        self._log = RunLog(folder.log, identity)
        self._metrics: tuple[int, dict[str, Any]] = (-1, {})

    @property
    def chain(self) -> str:
        """The chain of the log's last line."""
        return self._log.chain

    def metrics_at(self, step: int) -> dict[str, Any]:
        """Return all metrics that were told of for `step`, if it is the latest one."""
        return self._metrics[1] if self._metrics[0] == step else {}

    def _remember(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._metrics = (step, {**self.metrics_at(step), **metrics})

    def event(self, name: str, step: int, **fields: Any) -> None:
        """Log an event that the terminal does not show."""
        self._log.write(name, step, **fields)

    def progress(self, step: int, last_step: int) -> None:
        """Begin to show steps from `step` (done before) to `last_step`."""
        self._reporter.start(step, last_step)

    def update(self, step: int, metrics: dict[str, float], *, logged: bool) -> None:
        """Show a training step, and log it if it is one of those that are."""
        self._remember(step, metrics)
        if logged:
            self._log.write("train", step, **metrics, loss_bits=bits_of(metrics["loss"]))
            self._trackers.metrics(step, prefixed("train", metrics))
        self._reporter.step(step, metrics)

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """Log and show a validation loss."""
        self._remember(step, metrics)
        self._log.write("eval", step, **metrics, val_loss_bits=bits_of(metrics["val_loss"]))
        self._trackers.metrics(step, prefixed("val", metrics))
        self._reporter.evaluation(step, metrics)

    def observed(self, label: str, step: int, metrics: Mapping[str, float]) -> None:
        """Log what an observer returned."""
        self._remember(step, {f"{label}/{name}": value for name, value in metrics.items()})
        self._log.write("hook", step, hook=label, metrics=dict(metrics))
        self._trackers.metrics(step, prefixed(f"hooks/{label}", metrics))

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Keep a sample text in a file of its own, log it and show its beginning."""
        path = self.folder.sample(step)
        files.make_directory(path.parent)
        files.write_text(path, prompt + text)
        self._log.write("sample", step, prompt=prompt, text=text)
        self._trackers.text(step, "sample", prompt + text)
        self._reporter.sample(step, text)

    def sync(self) -> None:
        """Wait until the log is on the disk."""
        self._log.sync()

    def close(self) -> None:
        """Make sure that the log is on the disk, and give the terminal back."""
        try:
            self._reporter.close()
            self._trackers.close()
        finally:
            self._log.close()


class SilentRecorder(RunRecorder):
    """A recorder that writes and shows nothing: of a process that another one speaks for."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.identity = folder, {}

    @property
    def chain(self) -> str:
        """Empty: there is no log."""
        return ""

    def metrics_at(self, step: int) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def event(self, name: str, step: int, **fields: Any) -> None:
        """Do nothing."""

    def progress(self, step: int, last_step: int) -> None:
        """Do nothing."""

    def update(self, step: int, metrics: dict[str, float], *, logged: bool) -> None:
        """Do nothing."""

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """Do nothing."""

    def observed(self, label: str, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
