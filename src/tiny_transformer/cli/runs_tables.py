"""The tables of `tiny runs`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_summary import RunSummary

if TYPE_CHECKING:
    from tiny_transformer.training.verify import Finding

_COMPARED = ("status", "step", "max_steps", "train_loss", "val_loss", "best_val_loss", "best_step")
_MORE = (
    "bits_per_byte",
    "tokens_per_second",
    "n_parameters",
    "seed",
    "precision",
    "hooks",
    "git_commit",
)


def _console() -> Console:
    # Where there is no terminal, lines must not be cut to 80 columns.
    return Console(
        width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False
    )


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _field(name: str, value: Any) -> str:
    """Return a field of a summary; a seed is a name rather than a number."""
    return str(value) if name == "seed" and value is not None else _text(value)


def show_list(summaries: Sequence[RunSummary]) -> None:
    """Print one line for each run; a narrow terminal gets fewer columns."""
    console = _console()
    wide = console.width >= 120
    names = ["run", "status", "step", "val loss", "best"]
    table = _table(
        *names, *(("bits/byte", "train loss", "parameters", "corpus", "hooks") if wide else ())
    )
    for column in table.columns[1:5]:
        column.no_wrap = True
    table.columns[0].overflow = "fold"  # a name that is cut cannot be typed
    for s in summaries:
        step = _text(s.step) if s.max_steps is None else f"{s.step:,}/{s.max_steps:,}"
        best = "-" if s.best_val_loss is None else f"{s.best_val_loss:.4f} @{s.best_step}"
        more = (
            *(_text(s.bits_per_byte), _text(s.train_loss), _text(s.n_parameters)),
            *(_text(s.corpus), _text(s.hooks)),
        )
        first = (s.run_id, s.status, step, _text(s.val_loss), best)
        table.add_row(*first, *(more if wide else ()))
    console.print(table)


def show_run(summary: RunSummary, folder: RunFolder) -> None:
    """Print everything that is known of a run."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in dataclasses.asdict(summary).items():
        table.add_row(Text(name.replace("_", " "), "bold"), _field(name, value))
    table.add_row(Text("folder", "bold"), str(folder.path))
    _console().print(table)


def show_comparison(
    labels: Sequence[str],
    summaries: Sequence[RunSummary],
    differences: dict[str, dict[str, Any]],
) -> None:
    """Print what runs reached, and the settings in which they differ."""
    console = _console()
    reached = _table("", *labels)
    for name in (*_COMPARED, *_MORE):
        reached.add_row(
            name.replace("_", " "), *(_field(name, getattr(s, name)) for s in summaries)
        )
    console.print(reached)
    if not differences:
        console.print("Their settings are the same.")
        return
    settings = _table("setting", *labels)
    for name, values in differences.items():
        settings.add_row(name, *(str(values[label]) for label in labels))
    console.print(settings)


def show_finding(finding: Finding) -> None:
    """Print one finding of a verification."""
    status = Text("ok   ", "green") if finding.ok else Text("WRONG", "bold red")
    _console().print(status, Text(f"{finding.what}: {finding.detail}"), soft_wrap=True)
    for note in finding.notes:
        _console().print(Text(f"      note: {note}"), soft_wrap=True)


def say(sentence: str) -> None:
    """Print a sentence."""
    _console().print(Text(sentence), soft_wrap=True)
