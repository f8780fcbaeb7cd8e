"""Measure this project beside others, in one run.

    python -m benchmarks                 # about four minutes on two cores
    python -m benchmarks --quick         # under a minute, rougher
    python -m benchmarks --json FILE     # keep every sample

Training and generation stand beside Hugging Face's GPT-2 of the same size, the tokenizer
beside three others. Every subject has its turn in every round (A B A B ...); a ratio is the
median over the rounds, each round divided by the same round of the other. The CPU alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import generation, measure, report, tokenizer, training
from tiny_transformer.config import ModelConfig
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import TinyError
from tiny_transformer.viz.memory import flops_per_token


def training_rows(
    config: ModelConfig, budget: measure.Budget, *, batch_size: int = 16
) -> list[report.Row]:
    """Return training speed, and the share of the roofline that it is."""
    rates = training.measure_training(config, budget, batch_size=batch_size)
    roofline = rates.pop(training.ROOFLINE)
    flops = flops_per_token(config)
    rows = []
    section = f"training, batch {batch_size} x {config.context_length}, float32"
    for row in report.section_rows(section, "tokens/s", rates, ours=training.OURS):
        computed = measure.Rate(tuple(sample * flops for sample in row.rate.samples))
        share = measure.ratio(computed, roofline).median
        note = f"{computed.median / 1e9:,.0f} GFLOP/s, {share:.0%} of the roofline"
        rows.append(dataclasses.replace(row, note=note))
    scaled = measure.Rate(tuple(sample / 1e9 for sample in roofline.samples))
    note = f"{budget.gemm_size} x {budget.gemm_size}; a token takes {flops / 1e6:.1f} MFLOP"
    return [*rows, report.Row(section, training.ROOFLINE, "GFLOP/s", scaled, note=note)]


def tokenizer_rows(budget: measure.Budget, *, corpus: str = "shakespeare") -> list[report.Row]:
    """Return the speed of encoding and of decoding."""
    encoding, decoding = tokenizer.measure_tokenizers(budget, corpus=corpus)
    rows = []
    for section, rates in (("encoding", encoding), ("decoding", decoding)):
        title = f"{section}, {budget.characters:,} characters"
        rows += report.section_rows(title, "MB/s", rates, ours=tokenizer.OURS, scale=1e6)
    return rows


def generation_rows(
    config: ModelConfig, budget: measure.Budget, *, streams: Sequence[int] = (1, 32)
) -> list[report.Row]:
    """Return the speed of sampling one stream, and of many side by side."""
    rows = []
    for n_streams in streams:
        rates = generation.measure_generation(config, budget, n_streams=n_streams)
        title = f"generation, {n_streams} stream{'s' if n_streams > 1 else ''}, key-value cache"
        rows += report.section_rows(title, "tokens/s", rates, ours=generation.OURS)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("transformers") is None:
        report.say("The package transformers is not installed; `make bench` installs it.")
        return 2
    config, budget = ModelConfig(), measure.QUICK if options.quick else measure.FULL
    machine = report.describe_machine()
    began = time.perf_counter()
    try:
        report.say("1/3 training ...")
        rows = training_rows(config, budget)
        report.say("2/3 tokenizers ...")
        rows += tokenizer_rows(budget)
        report.say("3/3 generation ...")
        rows += generation_rows(config, budget)
        seconds = time.perf_counter() - began
        print(report.format_table(rows))
        print(f"\n{report.machine_line(machine)}")
        print(f"{budget.rounds} rounds, {seconds:.0f} s")
        if options.json:
            files.write_json(options.json, report.to_json(rows, machine, seconds))
    except TinyError as error:
        report.say(str(error))
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
