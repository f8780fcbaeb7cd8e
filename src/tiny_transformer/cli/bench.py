"""`tiny bench`: this project beside others, in one run."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tiny_transformer.bench import measure, report
from tiny_transformer.bench.generation import generation_rows
from tiny_transformer.bench.memory import memory_rows
from tiny_transformer.bench.peers import Peer, available_peers
from tiny_transformer.bench.startup import startup_rows
from tiny_transformer.bench.tokenizer import tokenizer_rows
from tiny_transformer.bench.training import loader_rows, training_rows
from tiny_transformer.config import ModelConfig
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import ConfigError, suggest

_DESCRIPTION = """Measure this project beside others, in one run.

Training and generation stand beside other people's models of the same size, the tokenizer
beside three others. Every subject has its turn in every round (A B A B ...); a ratio is the
median over the rounds, each round divided by the same round of the other. The model is the
base config; the processor computes, in float32."""

Rows = Callable[[ModelConfig, measure.Budget, list[Peer]], list[report.Row]]
SECTIONS: dict[str, Rows] = {
    "training": training_rows,
    "generation": generation_rows,
    "tokenizer": lambda config, budget, peers: tokenizer_rows(budget),
    "loader": lambda config, budget, peers: loader_rows(config, budget),
    "memory": lambda config, budget, peers: memory_rows(config, budget),
    "startup": lambda config, budget, peers: startup_rows(budget),
}


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="tiny bench",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"what to measure: {', '.join(SECTIONS)}; all of it by default",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument(
        "--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT, measured too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables there, between its marks"
    )
    options = parser.parse_args(arguments)
    chosen = options.sections or list(SECTIONS)
    for name in chosen:
        if name not in SECTIONS:
            raise ConfigError(
                f"{name!r} is not a section of the benchmark. {suggest(name, SECTIONS)}"
            )
    peers, missing = available_peers(options.nanogpt)
    config, budget = ModelConfig(), measure.QUICK if options.quick else measure.FULL
    machine = report.describe_machine()
    began = time.perf_counter()
    rows: list[report.Row] = []
    for number, name in enumerate(chosen, start=1):
        print(f"{number}/{len(chosen)} {name} ...", file=sys.stderr, flush=True)
        rows += SECTIONS[name](config, budget, peers)
    seconds = time.perf_counter() - began
    told = [
        report.machine_line(machine),
        f"{budget.rounds} rounds, {seconds:.0f} s. {' '.join(missing)}".strip(),
    ]
    print(report.format_table(rows), "", *told, sep="\n")
    if options.json:
        files.write_json(options.json, report.to_json(rows, machine, seconds))
    if options.markdown:
        page = options.markdown.read_text("utf-8") if options.markdown.exists() else ""
        table = report.format_markdown(rows) + "\n" + "\n\n".join(told) + "\n"
        files.write_text(options.markdown, report.put_into_page(page, table))
    return 0
