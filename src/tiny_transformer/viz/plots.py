"""Plots of a run and of its data, written to files without a display."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import DataError, suggest

FORMATS = ("png", "pdf", "svg")
# A plot of the same numbers has the same bytes: without its date, and with names from a salt.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
_STYLE: dict[Any, Any] = {"svg.hashsalt": "tiny_transformer", "svg.fonttype": "none"}
_MOST_POINTS = 800  # of one curve, so that a long run makes no large file


def plot_format(path: str | Path) -> str:
    """Return the format that a plot's name asks for, one of `FORMATS`.

    Raises:
        DataError: the name does not end in .png, .pdf or .svg.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise DataError(
            f"A plot cannot be written to {path}: its name must end in .png, .pdf or .svg. "
            f"{suggest(kind, FORMATS)}"
        )
    return kind


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write `figure` to `path`, whole or not at all; the same figure gives the same bytes.

    Raises:
        DataError: the path does not end in .png, .pdf or .svg.
        StorageError: the file cannot be written.
    """
    path = Path(path)
    kind = plot_format(path)
    data = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        canvas = FigureCanvasAgg(figure)
        canvas.print_figure(data, format=kind, dpi=150, metadata=_METADATA[kind])
    files.make_directory(path.absolute().parent)
    files.write_bytes(path, data.getvalue())
    return path


def plot_character_distribution(counts: Mapping[str, int], path: str | Path) -> Path:
    """Draw how often each character occurs, the most frequent first, and write it to `path`.

    Args:
        counts: occurrences by label; characters that never occur are left out.
        path: a name that ends in .png, .pdf or .svg.

    Returns:
        The path written.

    Raises:
        DataError: nothing occurs, or the name ends otherwise.
        StorageError: the file cannot be written.
    """
    found = sorted(((n, label) for label, n in counts.items() if n > 0), key=lambda x: -x[0])
    if not found:
        raise DataError("There are no characters to plot.")
    total = sum(n for n, _ in found)
    figure = Figure(figsize=(max(6.0, 0.16 * len(found)), 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(len(found)), [100 * n / total for n, _ in found])
    axes.set_yscale("log")
    # A dollar sign would begin a formula.
    labels = [label.replace("$", r"\$") for _, label in found]
    axes.set_xticks(range(len(found)), labels, fontsize=7, family="monospace")
    axes.set_xlim(-0.7, len(found) - 0.3)
    axes.set_ylabel("share of the characters (%), logarithmic")
    axes.set_title(f"{len(found)} different characters, {total:,} in all")
    return save_figure(figure, path)


def smoothed(values: Sequence[float], width: int) -> np.ndarray:
    """Return the mean of each value and its neighbours, `width` in all: float64, as long.

    The mean is centred; near both ends it takes fewer neighbours, as many on either side.
    """
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    middle = np.arange(len(values))
    reach = np.minimum(max(0, width - 1) // 2, np.minimum(middle, middle[::-1]))
    return (total[middle + reach + 1] - total[middle - reach]) / (2 * reach + 1)


def plot_losses(curves: Mapping[str, Mapping[str, Mapping[int, float]]], path: str | Path) -> Path:
    """Draw training and validation losses against steps, and write the plot to `path`.

    The training loss is drawn twice: faintly as it is, and as a mean over about a fiftieth
    of the run. Losses that are not finite are left out.

    Args:
        curves: for each run's label `{"train": {step: loss}, "val": {step: loss}}` in nats a
            token; either may be missing.
        path: a name that ends in .png, .pdf or .svg.

    Returns:
        The path written.

    Raises:
        DataError: there is no loss to draw, or the name ends otherwise.
        StorageError: the file cannot be written.
    """
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for index, (label, curve) in enumerate(curves.items()):
        # A dollar sign would begin a formula.
        _draw_losses(axes, curve, label.replace("$", r"\$"), color=f"C{index % 10}")
    if not axes.lines:
        raise DataError("There are no losses to plot: the log has no finite loss.")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return save_figure(figure, path)


def _draw_losses(
    axes: Axes, curve: Mapping[str, Mapping[int, float]], label: str, color: str
) -> None:
    steps, losses = _finite_points(curve.get("train", {}))
    if steps:
        every = -(-len(steps) // _MOST_POINTS)
        smooth = smoothed(losses, len(losses) // 50)
        axes.plot(steps[::every], losses[::every], color=color, alpha=0.25, linewidth=0.6)
        axes.plot(
            steps[::every], smooth[::every], color=color, linewidth=1.5, label=f"{label}: training"
        )
    steps, losses = _finite_points(curve.get("val", {}))
    if steps:
        name = f"{label}: validation, at the end {losses[-1]:.3f}"
        axes.plot(steps, losses, color=color, linestyle="--", marker="o", markersize=4, label=name)


def _finite_points(losses: Mapping[int, float]) -> tuple[list[int], list[float]]:
    """Return the steps and their losses, in order of the step."""
    points = [(step, loss) for step, loss in sorted(losses.items()) if math.isfinite(loss)]
    return [step for step, _ in points], [loss for _, loss in points]
