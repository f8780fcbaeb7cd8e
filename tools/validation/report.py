"""The results of a validation, told one after another and summed up."""

from __future__ import annotations

import time
from dataclasses import dataclass

_INDENT = "        "


@dataclass(frozen=True)
class Result:
    """What became of one check.

    Attributes:
        section: that it belongs to.
        title: what was checked.
        seconds: it took.
        problem: what is wrong, with the output that shows it; empty where it passed.
    """

    section: str
    title: str
    seconds: float
    problem: str = ""


class Report:
    """Prints each result as it comes, and the table at the end."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}

    def begin(self, section: str, about: str) -> None:
        """Print the heading of a section."""
        self._began[section] = time.perf_counter()
        print(f"\n== {section}: {about}", flush=True)

    def tell(self, result: Result) -> None:
        """Print a result, and keep it."""
        self.results.append(result)
        mark = "FAIL" if result.problem else "ok"
        print(f"{mark:<4} {result.seconds:6.1f} s  {result.title}", flush=True)
        if result.problem:
            print(_INDENT + result.problem.replace("\n", f"\n{_INDENT}"), flush=True)

    def end(self, section: str) -> None:
        """Close a section; one in which nothing was checked has failed."""
        self._took[section] = time.perf_counter() - self._began[section]
        if not any(result.section == section for result in self.results):
            self.tell(Result(section, "something is checked", 0.0, "nothing was"))

    def failed(self) -> list[Result]:
        """Return the results that are failures."""
        return [result for result in self.results if result.problem]

    def table(self) -> str:
        """Return the table of the sections: checks, failures and seconds."""
        lines = [f"{'section':<12}{'checks':>8}{'failed':>8}{'seconds':>9}"]
        for section, seconds in self._took.items():
            own = [result for result in self.results if result.section == section]
            failed = sum(bool(result.problem) for result in own)
            lines.append(f"{section:<12}{len(own):>8}{failed:>8}{seconds:>9.1f}")
        failed, seconds = len(self.failed()), sum(self._took.values())
        lines.append(f"{'all':<12}{len(self.results):>8}{failed:>8}{seconds:>9.1f}")
        return "\n".join(lines)
