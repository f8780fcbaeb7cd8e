"""`tiny runs`: what runs left behind, side by side; and whether it is what they made."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.progress import Progress

from tiny_transformer.cli import runs_tables as tables
from tiny_transformer.config.loading import read_settings
from tiny_transformer.runtime.errors import RunError, TinyError
from tiny_transformer.tracking.run_folder import RunFolder, step_of
from tiny_transformer.tracking.run_log import current_lines, finite, metric_by_step, read_log
from tiny_transformer.tracking.run_summary import (
    IMPORTED,
    config_differences,
    find_folder,
    first_difference,
    run_folders,
    summarize,
)

if TYPE_CHECKING:
    from tiny_transformer.training.replay import Plan
    from tiny_transformer.training.verify import Finding

_Run = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
_Runs = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class _Place:
    runs_dir: str = "runs"
    """Where run ids are looked up."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class ListRuns(_Place):
    """List the runs of a folder, with their losses."""


@dataclass(frozen=True)
class ShowRun(_Place):
    """Tell who a run is, what it reached and which checkpoints it kept."""

    run: _Run = tyro.MISSING
    """A run's folder or id."""


@dataclass(frozen=True)
class CompareRuns(_Place):
    """Put runs side by side: the settings in which they differ, and what they reached."""

    run: _Runs = tyro.MISSING
    """Two or more runs: folders or ids."""


@dataclass(frozen=True)
class PlotRuns:
    """Draw the training and validation losses of runs into one picture."""

    run: _Runs = tyro.MISSING
    """One or more runs: folders or ids."""
    output: str = "losses.png"
    """The picture: .png, .pdf or .svg."""
    runs_dir: str = "runs"
    """Where run ids are looked up."""


@dataclass(frozen=True)
class VerifyRun(_Place):
    """Check that a run's log, files and checkpoints are as they were written, and replay a slice.

    The slice ends at the last checkpoint and begins after the one before it, unless told
    otherwise. Exit status 2 where something is not as it was.
    """

    run: _Run = tyro.MISSING
    """A run's folder or id."""
    first: Annotated[int | None, tyro.conf.arg(name="from")] = None
    """First update to replay, from 1."""
    last: Annotated[int | None, tyro.conf.arg(name="to")] = None
    """Last update to replay."""
    no_replay: bool = False
    """Check the files alone."""
    parts: str | None = None
    """Parts that the run was trained with, from a folder, which is run (RUN/parts)."""


def main(arguments: Sequence[str]) -> int:
    """Run `tiny runs` with the words after it; return the exit status."""
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "list": ListRuns,
            "show": ShowRun,
            "compare": CompareRuns,
            "plot": PlotRuns,
            "verify": VerifyRun,
        },
        args=list(arguments),
        prog="tiny runs",
        description="List, show, compare, plot and verify runs.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if isinstance(command, ListRuns):
        return _list(command)
    if isinstance(command, ShowRun):
        return _show(command)
    if isinstance(command, CompareRuns):
        return _compare(command)
    if isinstance(command, PlotRuns):
        return _plot(command)
    return _verify(command)


def _list(command: ListRuns) -> int:
    summaries = []
    for folder in run_folders(command.runs_dir):
        try:
            summaries.append(summarize(folder))
        except TinyError as error:  # one unreadable log does not hide the others
            Console(stderr=True).print(str(error), markup=False)
    summaries.sort(key=lambda summary: (summary.started or "", summary.run_id))
    if command.json:
        _print_json([dataclasses.asdict(summary) for summary in summaries])
    elif summaries:
        tables.show_list(summaries)
    else:
        print(f"There are no runs in {command.runs_dir}/. Train one: tiny train --config tiny")
    return 0


def _show(command: ShowRun) -> int:
    folder = find_folder(command.run, command.runs_dir)
    summary = summarize(folder)
    if command.json:
        _print_json(dataclasses.asdict(summary))
    else:
        tables.show_run(summary, folder)
    return 0


def _compare(command: CompareRuns) -> int:
    if len(command.run) < 2:
        raise RunError("Comparing takes two runs or more; one was given.")
    folders = [find_folder(run, command.runs_dir) for run in command.run]
    summaries = [summarize(folder) for folder in folders]
    labels = _labels(command.run, folders)
    settings = {
        label: read_settings(folder.path / "config.yaml")
        for label, folder in zip(labels, folders, strict=True)
    }
    for label, summary in zip(labels, summaries, strict=True):
        if summary.max_steps is not None:  # a resumed run may go further than its config
            settings[label].setdefault("training", {})["max_steps"] = summary.max_steps
    differences = config_differences(settings)
    gap = first_difference([current_lines(read_log(folder.log)) for folder in folders])
    if command.json:
        reached = {
            label: dataclasses.asdict(summary)
            for label, summary in zip(labels, summaries, strict=True)
        }
        _print_json({"settings": differences, "runs": reached, "losses_differ_at": gap})
    else:
        tables.show_comparison(labels, summaries, differences)
        if gap is None:
            tables.say("The losses that they have in common are equal, to the last bit.")
        else:
            tables.say(f"Their losses first differ at step {gap}.")
    return 0


def _labels(given: Sequence[str], folders: Sequence[RunFolder]) -> list[str]:
    """Return the ids, or what was typed where two runs of different folders share one."""
    places = [folder.path.resolve() for folder in folders]
    for word, place in zip(given, places, strict=True):
        if places.count(place) > 1:
            raise RunError(f"The run {word} is given more than once.")
    ids = [folder.run_id for folder in folders]
    return ids if len(set(ids)) == len(ids) else list(given)


def _print_json(value: Any) -> None:
    print(json.dumps(finite(value), indent=2, allow_nan=False))


def _plot(command: PlotRuns) -> int:
    from tiny_transformer.viz.plots import plot_losses

    if not command.run:
        raise RunError("Plotting takes one run or more; none was given.")
    curves = {}
    folders = [find_folder(run, command.runs_dir) for run in command.run]
    labels = _labels(command.run, folders)
    for label, folder in zip(labels, folders, strict=True):
        lines = current_lines(read_log(folder.log))
        curves[label] = {
            "train": metric_by_step(lines, "train", "loss"),
            "val": metric_by_step(lines, "eval", "val_loss"),
        }
        if not any(
            math.isfinite(loss) for curve in curves[label].values() for loss in curve.values()
        ):
            raise RunError(f"The run {label} has no losses to plot: its log has none.")
    print(f"Wrote {plot_losses(curves, Path(command.output))}")
    return 0


def _verify(command: VerifyRun) -> int:
    from tiny_transformer.training.replay import plan_replay
    from tiny_transformer.training.verify import verify_files

    folder = find_folder(command.run, command.runs_dir)
    # What was asked for is looked at first: a wrong step is told before anything is shown.
    imported = summarize(folder).status == IMPORTED
    if imported and (command.first is not None or command.last is not None):
        raise RunError(
            f"The run {folder.path} was imported: it made no update, so there is nothing to replay."
        )
    plan = None
    if not (command.no_replay or imported):
        plan = plan_replay(folder, command.first, command.last)
    findings = []
    for finding in verify_files(folder):
        findings.append(finding)
        if not command.json:
            tables.show_finding(finding)
    if plan is not None:
        findings.append(_replayed(plan, command.parts))
        if not command.json:
            tables.show_finding(findings[-1])
    ok = all(finding.ok for finding in findings)
    if command.json:
        _print_json({"ok": ok, "findings": [dataclasses.asdict(f) for f in findings]})
    else:
        print("All is as it was written." if ok else "Not all is as it was written.")
    return 0 if ok else 2


def _replayed(plan: Plan, source: str | None) -> Finding:
    """Replay a slice behind a progress bar; a replay that cannot be made is a finding too."""
    from tiny_transformer.cli.own_parts import load_parts
    from tiny_transformer.config.loading import load_config
    from tiny_transformer.training.replay import replay
    from tiny_transformer.training.verify import Finding, replay_finding

    console = Console(stderr=True)
    begin = 0 if plan.origin is None else step_of(plan.origin)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("replaying", total=plan.last_step - begin)
        try:
            config = load_config(plan.folder.path / "config.yaml")
            found = replay(
                plan,
                parts=load_parts(source, config.model, plan.record.segments[0].start.get("parts")),
                on_step=lambda step: bar.update(task, completed=step - begin),
            )
        except TinyError as error:
            what = f"steps {plan.first_step} to {plan.last_step}"
            return Finding(what, False, f"cannot be replayed. {error}")
    return replay_finding(found)
