"""Write what is made in docs/scaling.md: speeds on this machine, costs on paper, cluster files.

    python tools/scaling.py                  measure on this machine, and show all
    python tools/scaling.py --write          ... and write it into docs/scaling.md
    python tools/scaling.py --paper --write  only what needs no measuring
    python tools/scaling.py --check          exit 1 if that is out of step

Measuring runs `tiny train` alone and under torchrun, on one thread a process, in turns; it takes
a quarter of an hour on two cores. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `tools` itself

from tools.scaling_tables import measured, paper

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/scaling.md"
MEASURED = "measured"
QUOTED = {
    "examples/cluster/sky.yaml": "yaml",
    "examples/cluster/slurm.sh": "bash",
    "examples/cluster/kubernetes.yaml": "yaml",
}
"""Files that the page quotes, and the languages that they are in."""


def paper_sections(root: Path = ROOT) -> dict[str, str]:
    """Return what needs no measuring, by the names of the page's sections."""
    sections = {
        "100 M in memory": paper.memory_table(paper.SMALL),
        "100 M in time": paper.time_table(paper.SMALL),
        "1 B in memory": paper.memory_table(paper.LARGE),
        "1 B in time": paper.time_table(paper.LARGE),
        "networks": paper.link_table(),
        "sizes": paper.size_table(),
    }
    for name, language in QUOTED.items():
        text = (root / name).read_text(encoding="utf-8")
        sections[name] = f"```{language}\n{text}```"
    return sections


def measured_section(rounds: int, steps: int) -> str:
    """Measure on this machine; return the table and how it was made."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="tiny-scaling.") as folder:
        rates = measured.measure(Path(folder), rounds, steps)
    told = measured.describe(rounds, steps, load, datetime.date.today())
    return f"{measured.measured_table(rates)}\n\n{told}"


def put(page: str, sections: Mapping[str, str]) -> str:
    """Return the page with its made sections replaced.

    Raises:
        ScalingError: the page has no such section.
    """
    for name, content in sections.items():
        begin, end = f"<!-- made: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(page):
            raise measured.ScalingError(f"{PAGE} has no lines {begin} and {end}.")
        made = f"{begin}\n\n{content}\n\n{end}"
        page = pattern.sub(lambda _, made=made: made, page)
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; return 1 where something failed or is out of step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    parser.add_argument("--paper", action="store_true", help="measure nothing")
    parser.add_argument("--check", action="store_true", help="write nothing, measure nothing")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--steps", type=int, default=15, help="of each run (default 15)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.steps <= measured.SKIPPED:
        least = measured.SKIPPED + 1
        print(f"scaling: --rounds is at least 1 and --steps at least {least}", file=sys.stderr)
        return 2
    page = options.root / PAGE
    try:
        sections = paper_sections(options.root)
        if not (options.paper or options.check):
            sections[MEASURED] = measured_section(options.rounds, options.steps)
        text = page.read_text(encoding="utf-8")
        made = put(text, sections)
    except measured.ScalingError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 1
    if options.check:
        if made == text:
            return 0
        told = f"{PAGE} is out of step; run: python tools/scaling.py --paper --write"
        print(f"scaling: {told}", file=sys.stderr)
        return 1
    if options.write:
        page.write_text(made, encoding="utf-8")
        return 0
    for name, content in sections.items():
        if name not in QUOTED:
            print(f"{name}\n\n{content}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
