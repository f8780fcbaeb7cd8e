"""`tiny runs`: what runs left behind, side by side; and whether it is what they made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from tiny_transformer.cli import runs_tables as tables
from tiny_transformer.config.loading import read_settings
from tiny_transformer.runtime.errors import RunError
from tiny_transformer.tracking.run_log import current_lines, metric_by_step, read_log
from tiny_transformer.tracking.run_summary import (
    config_differences,
    find_folder,
    run_folders,
    summarize,
)

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
        except RunError as error:  # one unreadable log does not hide the others
            Console(stderr=True).print(str(error), markup=False)
    summaries.sort(key=lambda summary: (summary.started or "", summary.run_id))
    if command.json:
        print(json.dumps([dataclasses.asdict(summary) for summary in summaries], indent=2))
    elif summaries:
        tables.show_list(summaries)
    else:
        print(f"There are no runs in {command.runs_dir}/. Train one: tiny train --config tiny")
    return 0


def _show(command: ShowRun) -> int:
    folder = find_folder(command.run, command.runs_dir)
    summary = summarize(folder)
    if command.json:
        print(json.dumps(dataclasses.asdict(summary), indent=2))
    else:
        tables.show_run(summary, folder)
    return 0


def _compare(command: CompareRuns) -> int:
    if len(command.run) < 2:
        raise RunError("Comparing takes two runs or more; one was given.")
    folders = [find_folder(run, command.runs_dir) for run in command.run]
    summaries = [summarize(folder) for folder in folders]
    labels = _labels(list(command.run), [s.run_id for s in summaries])
    settings = {
        label: read_settings(folder.path / "config.yaml")
        for label, folder in zip(labels, folders, strict=True)
    }
    differences = config_differences(settings)
    if command.json:
        reached = {
            label: dataclasses.asdict(summary)
            for label, summary in zip(labels, summaries, strict=True)
        }
        print(json.dumps({"settings": differences, "runs": reached}, indent=2))
    else:
        tables.show_comparison(labels, summaries, differences)
    return 0


def _labels(given: list[str], ids: list[str]) -> list[str]:
    """Return the ids, or what was typed where two runs of different folders share one."""
    return ids if len(set(ids)) == len(ids) else given


def _plot(command: PlotRuns) -> int:
    from tiny_transformer.viz.plots import plot_losses

    curves = {}
    folders = [find_folder(run, command.runs_dir) for run in command.run]
    labels = _labels(list(command.run), [folder.run_id for folder in folders])
    for label, folder in zip(labels, folders, strict=True):
        lines = current_lines(read_log(folder.log))
        curves[label] = {
            "train": metric_by_step(lines, "train", "loss"),
            "val": metric_by_step(lines, "eval", "val_loss"),
        }
    print(f"Wrote {plot_losses(curves, Path(command.output))}")
    return 0


def _verify(command: VerifyRun) -> int:
    from tiny_transformer.training.replay import replay
    from tiny_transformer.training.verify import replay_finding, verify_files

    folder = find_folder(command.run, command.runs_dir)
    findings = []
    for finding in verify_files(folder):
        findings.append(finding)
        if not command.json:
            tables.show_finding(finding)
    if not command.no_replay:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("replaying", total=command.last)
            found = replay(
                folder,
                command.first,
                command.last,
                on_step=lambda step: bar.update(task, completed=step),
            )
        findings.append(replay_finding(found))
        if not command.json:
            tables.show_finding(findings[-1])
            for note in found.notes:
                Console(stderr=True).print(f"      note: {note}", markup=False, soft_wrap=True)
    ok = all(finding.ok for finding in findings)
    if command.json:
        record = {"ok": ok, "findings": [dataclasses.asdict(finding) for finding in findings]}
        print(json.dumps(record, indent=2))
    else:
        print("All is as it was written." if ok else "Not all is as it was written.")
    return 0 if ok else 2
