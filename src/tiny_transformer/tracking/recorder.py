"""One place to tell what happens in a run: the log, the sample files, the terminal."""

from __future__ import annotations

from typing import Any

from tiny_transformer.runtime import files
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import RunLog


class RunRecorder:
    """Writes each event of a run to its log, and shows it.

    Args:
        folder: the run's folder.
        identity: fields of every line: `run_id`, `config_hash`, `git_commit`.
        reporter: shows progress.
    """

    def __init__(
        self, folder: RunFolder, identity: dict[str, Any], reporter: ConsoleReporter
    ) -> None:
        self.folder = folder
        self.identity = identity
        self._reporter = reporter
        self._log = RunLog(folder.log, identity)

    def event(self, name: str, step: int, **fields: Any) -> None:
        """Log an event that the terminal does not show."""
        self._log.write(name, step, **fields)

    def progress(self, step: int, last_step: int) -> None:
        """Begin to show steps from `step` (done before) to `last_step`."""
        self._reporter.start(step, last_step)

    def update(self, step: int, metrics: dict[str, float], *, logged: bool) -> None:
        """Show a training step, and log it if it is one of those that are."""
        if logged:
            self._log.write("train", step, **metrics)
        self._reporter.step(step, metrics)

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """Log and show a validation loss."""
        self._log.write("eval", step, **metrics)
        self._reporter.evaluation(step, metrics)

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Keep a sample text in a file of its own, log it and show its beginning."""
        path = self.folder.sample(step)
        files.make_directory(path.parent)
        files.write_text(path, prompt + text)
        self._log.write("sample", step, prompt=prompt, text=text)
        self._reporter.sample(step, text)

    def close(self) -> None:
        """Make sure that the log is on the disk, and give the terminal back."""
        self._reporter.close()
        self._log.close()
