"""Hold every room of the package to its coverage.

    python tools/coverage_gate.py coverage.json

Reads what `coverage json` wrote. A room's coverage is the share of its statements and branches
that the tests ran; each must reach 90 %, so that a well-tested room cannot hide another.
The modules at the top of the package count as the room `.`. A room of which nothing was
measured fails: a check must not pass on nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tiny_transformer"
LIMIT = 90.0


@dataclass
class Tally:
    """How much of a room there is to run, and how much of it was run."""

    files: int = 0
    covered: int = 0
    total: int = 0

    @property
    def percent(self) -> float:
        """The share that was run, in per cent; 0 where there is nothing to run."""
        return 100.0 * self.covered / self.total if self.total else 0.0


def rooms_of(package: Path) -> set[str]:
    """Return the rooms that hold Python files: the folders of the package, and `.`."""
    return {room_of(path.relative_to(package)) for path in package.rglob("*.py")}


def room_of(path: Path) -> str:
    """Return the room of a file, given its path inside the package."""
    return path.parts[0] if len(path.parts) > 1 else "."


def tally(report: Mapping[str, Any], package_name: str = PACKAGE.name) -> dict[str, Tally]:
    """Add up the files of a coverage report by room. Files outside the package are left out."""
    rooms: dict[str, Tally] = {}
    for name, measured in report.get("files", {}).items():
        parts = Path(name.replace("\\", "/")).parts
        if package_name not in parts:
            continue
        below = len(parts) - parts[::-1].index(package_name)
        inside = Path(*parts[below:])
        summary = measured["summary"]
        room = rooms.setdefault(room_of(inside), Tally())
        room.files += 1
        room.covered += summary["covered_lines"] + summary.get("covered_branches", 0)
        room.total += summary["num_statements"] + summary.get("num_branches", 0)
    return rooms


def judge(rooms: Mapping[str, Tally], expected: Iterable[str], limit: float) -> dict[str, str]:
    """Return the rooms that fail, each with the reason."""
    failures = {}
    for room in sorted({*expected, *rooms}):
        measured = rooms.get(room, Tally())
        if measured.total == 0:
            failures[room] = "nothing was measured"
        elif measured.percent < limit:
            failures[room] = f"below {limit:g} %"
    return failures or ({} if rooms else {"(all)": "the report names no file of the package"})


def main(arguments: list[str] | None = None) -> int:
    """Print the table of the rooms; return 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path, help="the file that `coverage json` wrote")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="the package's folder")
    parser.add_argument("--limit", type=float, default=LIMIT, help="per cent (default %(default)g)")
    options = parser.parse_args(arguments)
    try:
        report = json.loads(options.report.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"coverage gate: cannot read {options.report}: {error}", file=sys.stderr)
        return 1
    rooms = tally(report, options.package.name)
    failures = judge(rooms, rooms_of(options.package), options.limit)
    print(f"{'room':<14}{'files':>6}{'covered':>10}{'of':>8}{'%':>8}")
    for room in sorted({*rooms, *failures}):
        row = rooms.get(room, Tally())
        verdict = f"  {failures[room]}" if room in failures else ""
        counts = f"{row.files:>6}{row.covered:>10}{row.total:>8}{row.percent:>8.1f}"
        print(f"{room:<14}{counts}{verdict}")
    if failures:
        print(f"coverage gate: failed for {', '.join(sorted(failures))}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
