"""`tiny course list`: every exercise, what is done, and what is next."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tiny_transformer.cli.course_options import Place, console
from tiny_transformer.course.catalogue import Catalogue, Exercise
from tiny_transformer.course.progress import Progress

_STYLES = {"done": "green", "changed": "yellow", "next": "bold cyan", "blocked": "dim"}


@dataclass(frozen=True)
class ListExercises(Place):
    """List the exercises of every module: what is done, how long each takes, what is next."""

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """List them."""
        if self.json:
            print(json.dumps(_as_json(self.catalogue, self.progress), indent=2))
        else:
            show_list(console(), self.catalogue, self.progress)
        return 0


def state_of(exercise: Exercise, catalogue: Catalogue, progress: Progress) -> tuple[str, str]:
    """Return done, changed, next, blocked or open; and the same for people."""
    if progress.changed(exercise):
        return "changed", "changed since it passed"
    if progress.passed(exercise):
        return "done", "done"
    if exercise == progress.next_exercise(catalogue):
        return "next", "next"
    blocked_by = progress.blocked_by(exercise, catalogue)
    if blocked_by:
        return "blocked", f"needs {', '.join(blocked_by)}"
    return "open", "extra" if exercise.extra else ""


def show_list(out: Console, catalogue: Catalogue, progress: Progress) -> None:
    """Print a table a module, the totals and what is next."""
    for module in catalogue.modules:
        done = [exercise for exercise in module.exercises if progress.passed(exercise)]
        extra = module.minutes(extra=True)
        out.print(
            Text(f"{module.name}  {module.title}", style="bold")
            + Text(
                f"   {len(done)} of {len(module.exercises)} done, "
                f"{module.minutes(extra=False)} minutes of exercises, "
                f"{module.hours:g} hours with reading"
                f"{f', and {extra} minutes of extra ones' if extra else ''}",
                style="not bold",
            ),
            soft_wrap=True,
        )
        table = Table(
            "", "exercise", "what", "level", "min", "", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for exercise in module.exercises:
            state, words = state_of(exercise, catalogue, progress)
            mark = {"done": "✓", "changed": "!", "next": "→"}.get(state, "")
            cells = [mark, exercise.id, exercise.title, exercise.difficulty]
            style = _STYLES.get(state, "")
            table.add_row(*cells, str(exercise.minutes), words, style=style)
        out.print(table)
    _show_totals(out, catalogue, progress)


def _show_totals(out: Console, catalogue: Catalogue, progress: Progress) -> None:
    every = list(catalogue)
    done = [exercise for exercise in every if progress.passed(exercise)]
    left, extra = (
        sum(e.minutes for e in every if e not in done and e.extra == kind) for kind in (False, True)
    )
    told = f", and {_duration(extra)} of extra ones" if extra else ""
    out.print(f"{len(done)} of {len(every)} exercises done, about {_duration(left)} left{told}.")
    following = progress.next_exercise(catalogue)
    if following is not None:
        out.print(
            f"Next: {following.id}, {following.function} in {following.file} "
            f"({following.minutes} minutes). Check it with: tiny course check",
            soft_wrap=True,
        )


def _duration(minutes: int) -> str:
    return f"{minutes} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def _as_json(catalogue: Catalogue, progress: Progress) -> list[dict[str, Any]]:
    return [
        {
            "module": module.name,
            "id": exercise.id,
            "title": exercise.title,
            "file": exercise.file,
            "function": exercise.function,
            "difficulty": exercise.difficulty,
            "minutes": exercise.minutes,
            "extra": exercise.extra,
            "state": state_of(exercise, catalogue, progress)[0],
            **vars(progress.entry(exercise)),
        }
        for module in catalogue.modules
        for exercise in module.exercises
    ]
