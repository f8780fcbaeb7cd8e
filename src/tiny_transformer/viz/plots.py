"""Plots of a run and of its data, written to files without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import DataError, suggest

FORMATS = ("png", "pdf", "svg")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write `figure` to `path`, whole or not at all.

    Raises:
        DataError: the path does not end in .png, .pdf or .svg.
        StorageError: the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise DataError(
            f"A plot cannot be written to {path}: its name must end in .png, .pdf or .svg. "
            f"{suggest(kind, FORMATS)}"
        )
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(data, format=kind, dpi=150)
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
