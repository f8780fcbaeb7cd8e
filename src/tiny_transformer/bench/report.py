"""What was measured, as a table for people and as plain values for JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tiny_transformer.bench.measure import Rate, ratio
from tiny_transformer.runtime.environment import package_version, processor_name

OURS = "this project"
_BEGIN, _END = "<!-- tiny bench: begin -->", "<!-- tiny bench: end -->"
_PACKAGES = (
    *("tiny-transformer", "torch", "numpy"),
    *("transformers", "x-transformers", "tokenizers"),
)


@dataclass(frozen=True)
class Row:
    """One line of the report: a subject's rate, beside the project's in the same section.

    Attributes:
        section: what was measured.
        subject: who was measured.
        unit: of the rate.
        rate: in that unit.
        ours: the project's rate, or None where a ratio would say nothing.
        note: what else there is to say.
    """

    section: str
    subject: str
    unit: str
    rate: Rate
    ours: Rate | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready values."""
        row: dict[str, Any] = {
            "section": self.section,
            "subject": self.subject,
            "unit": self.unit,
            "median": self.rate.median,
            "samples": list(self.rate.samples),
        }
        if self.ours is not None:
            paired = ratio(self.ours, self.rate)
            row["ours_to_this"] = {
                "median": paired.median,
                "min": paired.least,
                "max": paired.most,
            }
        return row | ({"note": self.note} if self.note else {})


def section_rows(
    section: str, unit: str, rates: Mapping[str, Rate], *, ours: str, scale: float = 1.0
) -> list[Row]:
    """Return a row a subject; all but `ours` get the ratio of ours to theirs.

    Args:
        section: what was measured.
        unit: of the rates after scaling.
        rates: by subject.
        ours: which of them is the project.
        scale: what the rates are divided by, for instance 1e6 for mega.
    """
    scaled = {
        name: Rate(tuple(sample / scale for sample in rate.samples)) for name, rate in rates.items()
    }
    return [
        Row(section, name, unit, rate, None if name == ours else scaled[ours])
        for name, rate in scaled.items()
    ]


def describe_machine() -> dict[str, Any]:
    """Return what the numbers depend on, and how busy the machine was, as JSON-ready values."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": processor_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "load_average": None if load is None else round(load, 2),
    }


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return the description of the machine as one line."""
    packages = machine["packages"].items()
    versions = ", ".join(f"{name} {version}" for name, version in packages if version)
    load = machine["load_average"]
    busy = "" if load is None else f"; load average at the start {load:.1f}"
    return (
        f"{machine['processor']}, {machine['cpu_count']} cores, {machine['threads']} threads, "
        f"{machine['system']}; Python {machine['python']}, {versions}{busy}"
    )


def _ratio_cell(row: Row) -> str:
    if row.ours is None:
        return ""
    paired = ratio(row.ours, row.rate)
    return f"{paired.median:.2f} ({paired.least:.2f} .. {paired.most:.2f})"


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in columns that line up, a blank line between sections."""
    cells = [["", "median", "least .. most", "unit", "ours / this (least .. most)", ""]]
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            cells += [[], [section]]
        samples = row.rate.samples
        spread = f"{_number(min(samples))} .. {_number(max(samples))}"
        cells.append(
            [
                f"  {row.subject}",
                _number(row.rate.median),
                spread,
                row.unit,
                _ratio_cell(row),
                row.note,
            ]
        )
    widths = [
        max((len(line[column]) for line in cells if len(line) > 1), default=0)
        for column in range(len(cells[0]))
    ]
    return "\n".join(_line(line, widths) for line in cells)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    if len(cells) <= 1:
        return "".join(cells)
    aligned = [
        cell.rjust(width) if 0 < column < 3 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def _number(value: float) -> str:
    """Return three digits, thousands separated: `12,345` and `1.23`."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as one Markdown table a section."""
    lines: list[str] = []
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            lines += ["", f"**{section}**", "", "| | median | least to most | ours / this | |"]
            lines += ["|---|---|---|---|---|"]
        samples = row.rate.samples
        spread = f"{_number(min(samples))} to {_number(max(samples))}"
        median = f"{_number(row.rate.median)} {row.unit}"
        ours = _ratio_cell(row).replace("..", "to")
        lines.append(f"| {row.subject} | {median} | {spread} | {ours} | {row.note} |")
    return "\n".join(lines[1:]) + "\n"


def put_into_page(page: str, table: str) -> str:
    """Return a Markdown page with `table` between its two marks, or the table alone."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        return table
    return f"{before}{begin}\n\n{table}\n{end}{after}"


def to_json(rows: Iterable[Row], machine: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return the whole report as JSON-ready values."""
    return {
        "machine": dict(machine),
        "seconds": round(seconds, 1),
        "rows": [row.to_dict() for row in rows],
    }
