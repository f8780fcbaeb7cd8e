"""`tiny course train`: the real model on a learner's own parts, and what a bug costs."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from tiny_transformer.cli.course_compare import show_comparison
from tiny_transformer.cli.course_options import console
from tiny_transformer.cli.course_show import show_verdict
from tiny_transformer.cli.options import parse
from tiny_transformer.cli.own_parts import tell_taken
from tiny_transformer.cli.train import Train, build_trainer, show_panel, train_and_show
from tiny_transformer.config.loading import load_config
from tiny_transformer.course.catalogue import load_catalogue
from tiny_transformer.course.content import CourseError
from tiny_transformer.course.cost import Cost, train_both
from tiny_transformer.course.graft import require_some, workspace_parts
from tiny_transformer.course.part_checks import PartsChecked, check_parts
from tiny_transformer.course.workspace import find_workspace
from tiny_transformer.hooks.registry import switch_hooks
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.tracking.run_folder import refuse_taken_name

_MOST_LINES = 12  # of a sample


@dataclass(frozen=True)
class CourseTrain(Train):
    """Train the model on the parts that you wrote; the reference's stand for the rest.

    All flags of tiny train may follow.
    """

    workspace: str | None = None
    """The workspace; by default the one that the current folder is in, or just above."""
    only: str | None = None
    """Parts of yours to take, separated by commas, as in attention,mlp; none takes all."""
    anyway: bool = False
    """Train wrong parts too, beside the reference, to see what the bug costs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit status."""
    first = argparse.ArgumentParser(
        prog="tiny course train",
        usage="tiny course train [-h] [OPTIONS]",
        add_help=False,
        allow_abbrev=False,
    )
    first.add_argument("--config")
    source = first.parse_known_args(arguments)[0].config
    settings = load_config(source or "course")
    default = CourseTrain(config=source, settings=settings)
    options = parse(CourseTrain, arguments, "course train", default=default)
    if options.parts is not None:
        raise ConfigError(
            "tiny course train takes your workspace's parts; --parts is tiny train's."
        )
    folder = find_workspace(options.workspace)
    refuse_taken_name(options.settings.runs_dir, options.settings.run_name)
    model = options.settings.model
    only = None if options.only is None else [name.strip() for name in options.only.split(",")]
    parts = workspace_parts(folder, model, only)
    require_some(parts, folder)
    tell_taken(parts)
    checked = check_parts(parts, folder, model, load_catalogue())
    _show(checked)
    if not checked.wrong:
        train_and_show(build_trainer(options, parts))
        return 0
    if not options.anyway:
        raise CourseError(_refusal(checked, list(parts.taken)))
    if options.init_from is not None:
        raise ConfigError("--anyway compares two runs from their first weights: no --init-from.")
    hooks = switch_hooks(options.settings.hooks, options.hook, options.no_hook)
    cost = train_both(dataclasses.replace(options.settings, hooks=hooks), parts)
    _show_cost(cost, options.settings.sampling.prompt)
    return 0


def _show(checked: PartsChecked) -> None:
    for exercise, verdict in checked.verdicts:
        show_verdict(console(), exercise, verdict)
    for comparison in checked.comparisons:
        show_comparison(comparison)


def _refusal(checked: PartsChecked, taken: Sequence[str]) -> str:
    wrong = " and ".join(checked.wrong)
    right = [name for name in taken if name not in checked.wrong]
    without = f" Or train the others: --only {','.join(right)}." if right else ""
    one = len(checked.wrong) == 1
    return (
        f"{wrong} {'is' if one else 'are'} not right yet, so nothing was trained. Mend "
        f"{'it' if one else 'them'} first.{without} Or see what the bug costs: --anyway"
    )


def _show_cost(cost: Cost, prompt: str) -> None:
    out = console()
    table = Table("training loss", "reference", "yours", "difference", box=box.SIMPLE_HEAD)
    for row in cost.table():
        table.add_row(*row)
    out.print(table)
    out.print(show_panel("the reference writes", prompt, _shortened(cost.reference.sample)))
    theirs = _shortened(cost.theirs.sample) or "(nothing: the run ended before its sample)"
    out.print(show_panel("yours writes", prompt, theirs))
    out.print(cost.sentence(), soft_wrap=True)
    out.print(
        f"\nBoth curves: {cost.figure}\nRuns: {shlex.quote(str(cost.theirs.folder))} and "
        f"{shlex.quote(str(cost.reference.folder))}\nWhere it goes wrong: tiny course compare",
        soft_wrap=True,
    )


def _shortened(text: str) -> str:
    """Return the first lines of a text, and how many more there are."""
    lines = text.splitlines()
    more = len(lines) - _MOST_LINES
    told = [f"(and {more} lines more)"] if more > 0 else []
    return "\n".join([*lines[:_MOST_LINES], *told])
