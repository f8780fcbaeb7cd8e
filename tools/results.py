"""Draw the loss curves of runs, for docs/results.md.

    python tools/results.py RUN... --out docs/figures/NAME.svg

RUN is a run's folder, or a copy of its log.jsonl; LABEL=RUN gives it a name in the plot,
which else is the run's id. The same logs give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tiny_transformer.runtime.errors import RunError, TinyError
from tiny_transformer.tracking.run_log import metric_by_step, read_log
from tiny_transformer.viz.plots import plot_losses

Losses = dict[str, dict[int, float]]


def read_losses(run: Path) -> tuple[str, Losses]:
    """Return the id of a run, and its training and validation losses by step.

    Args:
        run: the run's folder, or its log.

    Raises:
        RunError: there is no log, or no event in it.
    """
    path = run / "log.jsonl" if run.is_dir() else run
    lines = read_log(path)
    if not lines:
        raise RunError(f"The run log {path} is empty.")
    train, val = metric_by_step(lines, "train", "loss"), metric_by_step(lines, "eval", "val_loss")
    return lines[0]["run_id"], {"train": train, "val": val}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figure and return the exit status."""
    parser = argparse.ArgumentParser(prog="tools/results.py", description="Draw loss curves.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or LABEL=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="the figure: .svg, .png or .pdf")
    options = parser.parse_args(arguments)
    try:
        curves: dict[str, Losses] = {}
        for given in options.runs:
            label, _, folder = given.rpartition("=")
            run_id, losses = read_losses(Path(folder))
            curves[label or run_id] = losses
        print(plot_losses(curves, options.out))
    except TinyError as error:
        print(f"results: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
