"""The course's pages with code, as notebooks: written beside them, compared, and run.

    python tools/notebooks.py write             # an .ipynb without output beside each page
    python tools/notebooks.py check             # exit 1 where one is not what its page makes
    python tools/notebooks.py run [PAGE ...]    # from top to bottom, each in a kernel of its own

The page, MyST text, is what people edit. `run` also holds the text to its cells: each decimal
number in it must be printed by a cell of the page, or stand in the code of one.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

COURSE = Path(__file__).resolve().parents[1] / "course"
CELL_SECONDS = 120
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

_NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?!\.?\d)(?!\w)")
_NOT_QUOTED = re.compile(  # links and their addresses, sections, versions
    r"\]\([^)]*\)|https?://\S+|(?:[Ss]ections?|Python|PyTorch|[Vv]ersion|torch) \d+(?:\.\d+)+"
)


def pages(course: Path = COURSE) -> list[Path]:
    """Return the pages with code, in the order of the course."""
    return [path for path in sorted(course.glob("[0-9][0-9]_*/*.md")) if has_code(path)]


def has_code(path: Path) -> bool:
    """Return whether a page says that it is a notebook."""
    return path.read_text(encoding="utf-8").startswith("---\njupytext:")


def notebook_of(page: Path) -> NotebookNode:
    """Return a page as a notebook without output; equal pages give equal notebooks."""
    made = jupytext.read(page)
    made.metadata = nbformat.from_dict(METADATA)
    made.nbformat, made.nbformat_minor = 4, 5
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({})
    nbformat.validate(made)
    return made


def text_of(page: Path) -> str:
    """Return what the notebook's file holds."""
    return nbformat.writes(notebook_of(page)) + "\n"


def outdated(course: Path = COURSE) -> list[Path]:
    """Return the notebooks that are missing, differ from their page, or have none."""
    wanted = {page.with_suffix(".ipynb"): text_of(page) for page in pages(course)}
    there = {path: path.read_text(encoding="utf-8") for path in course.glob("*/*.ipynb")}
    return sorted(p for p in wanted.keys() | there.keys() if wanted.get(p) != there.get(p))


def run(page: Path) -> list[str]:
    """Run a page from top to bottom in its folder; return what is wrong, nothing if all is well."""
    made = notebook_of(page)
    client = NotebookClient(
        made,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors; it warns of loopback
        resources={"metadata": {"path": str(page.parent)}},
    )
    try:
        asyncio.run(client.async_execute())
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return [str(error)]
    if not any(cell.cell_type == "code" for cell in made.cells):
        return ["The page has no cell with code."]
    return [f"The text says {number}, and no cell does." for number in unheld(made)]


def unheld(made: NotebookNode) -> list[str]:
    """Return the decimal numbers of a notebook's text that none of its cells prints or holds.

    A number is held if a cell has one that rounds to it, up to one unit of its last digit:
    another machine adds in another order.
    """
    held = {Decimal(found) for found in _NUMBER.findall("\n".join(_said(made)))}
    texts = [cell.source for cell in made.cells if cell.cell_type == "markdown"]
    quoted = [number for text in texts for number in _NUMBER.findall(_NOT_QUOTED.sub("", text))]
    return [number for number in dict.fromkeys(quoted) if not _is_held(Decimal(number), held)]


def _is_held(number: Decimal, held: set[Decimal]) -> bool:
    unit = Decimal(1).scaleb(int(number.as_tuple().exponent))
    return any(
        abs(said - number) <= unit for found in held for said in (found, 100 * found, found / 100)
    )


def _said(made: NotebookNode) -> Iterator[str]:
    """Yield the code of each cell and all that it printed."""
    for cell in made.cells:
        if cell.cell_type != "code":
            continue
        yield cell.source
        for output in cell.outputs:
            yield output.get("text", "")
            yield output.get("data", {}).get("text/plain", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, check or run; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("write", "check", "run"))
    parser.add_argument("pages", nargs="*", type=Path, help="some pages (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="pages at a time (default %(default)s)")
    options = parser.parse_args(arguments)
    chosen = [page.resolve() for page in options.pages] or pages()
    if not chosen:
        parser.error(f"no page with code in {COURSE}")
    for page in chosen:
        if not page.is_file() or not has_code(page):
            parser.error(f"{page} is not a page with code: it does not begin with jupytext's lines")
    if options.what == "check":
        for path in outdated():
            print(f"{path} is not what its page makes: python tools/notebooks.py write")
        return int(bool(outdated()))
    if options.what == "write":
        for page in chosen:
            page.with_suffix(".ipynb").write_text(text_of(page), encoding="utf-8")
        return 0
    return run_all(chosen, options.jobs)


def run_all(chosen: Sequence[Path], jobs: int) -> int:
    """Run pages, a few at a time; tell each with its seconds."""

    def timed(page: Path) -> tuple[Path, list[str], float]:
        start = time.perf_counter()
        return page, run(page), time.perf_counter() - start

    failed = 0
    with ThreadPoolExecutor(jobs) as pool:
        for page, wrong, seconds in pool.map(timed, chosen):
            failed += bool(wrong)
            print(
                f"{'fail' if wrong else 'pass'}  {seconds:5.1f} s  {page.parent.name}/{page.name}"
            )
            for line in wrong:
                print("      " + line.replace("\n", "\n      "), flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} pages ran from top to bottom")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
