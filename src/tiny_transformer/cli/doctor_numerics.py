"""`tiny doctor --numerics`: which changes leave a run's bits alone on this machine?

Notable: the real trainer trains a small model, once as the baseline and once for each
change; the bits of every step's loss and of all final weights are compared, with no
tolerance. Where a change also draws other dropout masks (micro-batches, torch.compile,
another device), it is measured against a baseline without dropout. What compiles runs in a
process of its own, which can be given up on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tiny_transformer.cli import doctor_checks as machine
from tiny_transformer.config import Config, SamplingConfig
from tiny_transformer.config.loading import load_config
from tiny_transformer.evaluation.evaluator import compute_val_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.environment import processor_name
from tiny_transformer.sampling.generator import generate_tokens
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_log import metric_by_step, read_log
from tiny_transformer.training.interrupts import InterruptedRunError
from tiny_transformer.training.run_data import load_run_data
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import weights_hash

_SETTINGS: dict[str, Any] = {
    "data.corpus": "simple",
    "model.n_layers": 2,
    "model.d_model": 64,
    "model.context_length": 64,
    "model.dropout": 0.1,
    "optimizer.learning_rate": 3e-3,
    "training.max_steps": 8,
    "training.batch_size": 8,
    "training.device": "cpu",
    "training.precision": "float32",
    "sampling.max_new_tokens": 0,
}
_CADENCE = {
    "training.eval_every": 1,
    "training.sample_every": 2,
    "training.checkpoint_every": 2,
    "sampling.max_new_tokens": 8,
}
_NO_DROPOUT = {"model.dropout": 0.0}
_GENERATED = 96  # tokens; more than the context, so that the cache is emptied once
_LONGEST = 300.0  # seconds that a process of its own may take
_PLAIN_WIDTH = 110  # of the card where there is no terminal


@dataclass(frozen=True)
class Change:
    """One thing that is done otherwise than in the baseline."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None  # None keeps the baseline's
    fresh: bool = False  # in a process of its own
    compiled: bool = False
    promised: bool = False  # it must not change a bit
    guarded: str = ""  # what `tiny resume` calls it when it asks for --allow-numerics-change

    @property
    def without_dropout(self) -> bool:
        """Whether it is to be compared with the baseline without dropout."""
        return "model.dropout" in self.settings


@dataclass(frozen=True)
class Measured:
    """What a run left: the loss of each step, and the hash of its final weights."""

    losses: list[float]
    weights: str


@dataclass(frozen=True)
class Row:
    """A change, and what it did; None stands for what was not compared."""

    change: str
    promised: bool = False
    guarded: str = ""
    identical: bool | None = None  # every loss (or token, or logit) has the baseline's bits
    first_difference: int | None = None  # the first step (or token), from 1, that has not
    weights_identical: bool | None = None
    relative_difference: float | None = None  # of the last losses; of the last token's logits
    seconds: float = 0.0
    reason: str = ""  # why it could not be tried

    @property
    def same(self) -> bool:
        """Whether it was tried and changed nothing."""
        return self.identical is True and self.weights_identical is not False


def all_changes() -> list[Change]:
    """Return the changes to a run that this machine can try, the promises first."""
    cores = machine._usable_cores()
    counts = sorted({n for n in (1, 2, cores) if n <= cores} - {torch.get_num_threads()})
    kinds: dict[str, dict[str, Any]] = {
        f"accumulation_steps {n}": {"training.accumulation_steps": n} for n in (2, 4)
    }
    kinds["backend explicit"] = {"model.backend": "explicit"}
    bfloat16 = {"training.precision": "bfloat16"}
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    devices = {name: {"training.device": name} for name in there if there[name]}
    return [
        Change("the same again", promised=True),
        Change("a fresh process", fresh=True, promised=True),
        Change("evaluation, samples, saves", _CADENCE, promised=True),
        *(Change(f"threads {n}", threads=n, guarded="threads") for n in counts),
        *(Change(name, kind) for name, kind in kinds.items()),
        *(Change(f"{name}, dropout 0", kind | _NO_DROPOUT) for name, kind in kinds.items()),
        Change("precision bfloat16", bfloat16, guarded="precision"),
        *(
            Change(f"device {name}, dropout 0", device | _NO_DROPOUT, guarded="device")
            for name, device in devices.items()
        ),
        Change("torch.compile, dropout 0", _NO_DROPOUT, fresh=True, compiled=True),
    ]


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use `count` threads inside the block."""
    before = torch.get_num_threads()
    if count not in (None, before):  # to set what is set already may itself change something
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _config(settings: dict[str, Any], folder: str = "runs") -> Config:
    return load_config(None, {**_SETTINGS, **settings, "runs_dir": folder})


def train(
    settings: dict[str, Any], threads: int | None = None, *, compiled: bool = False
) -> tuple[Measured, Transformer]:
    """Train the small model in a folder that is gone afterwards; return what it left, and it."""
    with _threads(threads), tempfile.TemporaryDirectory() as folder:
        quiet = ConsoleReporter(Console(file=io.StringIO()))
        trainer = Trainer(_config(settings, folder), reporter=quiet)
        if compiled:
            trainer.model.compile()
        log = read_log(trainer.train().folder.log)
    losses = list(metric_by_step(log, "train", "loss").values())
    return Measured(losses, weights_hash(trainer.model)), trainer.model


def train_apart(settings: dict[str, Any], *, compiled: bool = False) -> Measured:
    """Do what `train` does in a fresh process, with as many threads as this one has.

    Raises:
        RuntimeError: it failed, or did not end in time.
    """
    order = {"settings": {**_SETTINGS, **settings}, "compiled": compiled}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tiny_transformer.cli.doctor_numerics"],
            input=json.dumps(order | {"threads": torch.get_num_threads()}),
            capture_output=True,
            text=True,
            check=False,
            timeout=_LONGEST,
            env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"},  # no helpers outlive it
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"given up after {_LONGEST:.0f} seconds") from None
    if done.returncode:
        raise RuntimeError((done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1])
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return Measured(**answer)


def _obey() -> None:
    """In a fresh process: train as the order on standard input says, and print what it left."""
    try:
        answer = dataclasses.asdict(train(**json.loads(sys.stdin.read()))[0])
    except Exception as error:
        answer = {"error": _reason(error)}
    print(json.dumps(answer))


def _reason(error: Exception) -> str:
    """Return the beginning of a message, on one line; a compiler's runs to pages."""
    text = " ".join(str(error).split("\n\n")[0].split())
    return (text or type(error).__name__)[:200]


def _row(change: str, same: Iterable[bool], relative: float | None = None) -> Row:
    """Return the row of what was compared pair by pair."""
    first = next((place for place, equal in enumerate(same, start=1) if not equal), None)
    return Row(
        change, identical=first is None, first_difference=first, relative_difference=relative
    )


def compare_run(change: Change, baseline: Measured) -> list[Row]:
    """Train with `change`, and compare the bits with the baseline's."""
    if change.fresh:
        found = train_apart(change.settings, compiled=change.compiled)
    else:
        found, _ = train(change.settings, change.threads)
    pairs = itertools.zip_longest(found.losses, baseline.losses, fillvalue=float("nan"))
    relative = abs(found.losses[-1] / baseline.losses[-1] - 1)
    row = _row(change.name, (a.hex() == b.hex() for a, b in pairs), relative)
    return [replace(row, weights_identical=found.weights == baseline.weights)]


def compare_evaluation(model: Transformer) -> list[Row]:
    """Compare the bits of the validation loss, window by window and many at once."""
    config = _config({})
    tokens, size = load_run_data(config).validation, config.model.context_length
    many, one = (
        compute_val_loss(model, tokens, context_length=size, batch_size=batch).loss
        for batch in (config.training.eval_batch_size, 1)
    )
    row = Row("eval_batch_size 1: validation loss", identical=many.hex() == one.hex())
    return [replace(row, relative_difference=abs(one / many - 1))]


def compare_generation(model: Transformer) -> list[Row]:
    """Compare generation with and without a cache: the tokens, and the bits of the logits."""
    seen: list[torch.Tensor] = []
    hook = model.register_forward_hook(lambda *call: seen.append(call[-1][:, -1].clone()))
    settings = SamplingConfig(max_new_tokens=_GENERATED)
    try:
        cached, whole = (
            [int(token) for token in generate_tokens(model, [2], settings, use_cache=use)]
            for use in (True, False)
        )
    finally:
        hook.remove()
    logits = list(zip(seen[:_GENERATED], seen[_GENERATED:], strict=True))
    last, expected = logits[-1]
    relative = float((last - expected).abs().max() / expected.abs().max())
    name = "generation without a cache"
    return [
        _row(f"{name}: tokens", (a == b for a, b in zip(cached, whole, strict=True))),
        _row(f"{name}: logits", (torch.equal(a, b) for a, b in logits), relative),
    ]


def measure() -> tuple[Measured, list[Row]]:
    """Train the baseline and every change; tell on standard error how far it is.

    A change that cannot be tried becomes a row with the reason.
    """
    print("numerics: baseline", file=sys.stderr, flush=True)
    (baseline, model), (bare, _) = train({}), train(_NO_DROPOUT)
    looks: list[tuple[Change, Callable[[], list[Row]]]] = [
        (change, partial(compare_run, change, bare if change.without_dropout else baseline))
        for change in all_changes()
    ]
    looks.append((Change("eval_batch_size 1"), partial(compare_evaluation, model)))
    looks.append((Change("generation without a cache"), partial(compare_generation, model)))
    rows = []
    for number, (change, look) in enumerate(looks, start=1):
        print(f"numerics: {number}/{len(looks)} {change.name}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            found = look()
        except InterruptedRunError:
            raise KeyboardInterrupt from None
        except Exception as error:  # what cannot be tried is a finding too
            found = [Row(change.name, reason=_reason(error))]
        seconds = round(time.perf_counter() - began, 2)
        given = {"promised": change.promised, "guarded": change.guarded, "seconds": seconds}
        rows += [replace(row, **given) for row in found]
    return baseline, rows


def advise(rows: Sequence[Row]) -> str:
    """Return, from what was found, what to leave as it is; first of all, what is broken."""
    broken = "; ".join(row.change for row in rows if row.promised and not row.same)
    if broken:
        return (
            f"A promise does not hold on this machine: this must not change a bit: {broken}. "
            "Report it with the output of 'tiny doctor --numerics --json'."
        )
    changed = [row for row in rows if row.weights_identical is not None and not row.same]
    if not changed:
        return "Nothing that was tried changed a bit of the training on this machine."
    names = dict.fromkeys(row.change.removesuffix(", dropout 0") for row in changed)
    guarded = dict.fromkeys(row.guarded for row in changed if row.guarded)
    asks = f" (tiny resume asks for --allow-numerics-change: {', '.join(guarded)})"
    return f"These change a run's bits here: {', '.join(names)}{asks if guarded else ''}."


def cells(row: Row) -> tuple[str, ...]:
    """Return a row of the card as text."""
    told = {None: "-", True: "yes", False: "no"}
    since = "" if row.first_difference is None else f", from {row.first_difference}"
    relative = row.relative_difference
    return (
        row.change + (" (promised)" if row.promised else ""),
        f"not tried: {row.reason}" if row.reason else told[row.identical] + since,
        told[row.weights_identical],
        "-" if relative is None else f"{relative:.1e}" if relative else "0",
        f"{row.seconds:.1f}",
    )


def main(*, as_json: bool = False) -> int:
    """Measure, and print the card.

    Returns:
        0, or 2 where a promise does not hold.
    """
    environment = {
        "processor": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "usable_cores": machine._usable_cores(),
        "device": _SETTINGS["training.device"],
        "precision": _SETTINGS["training.precision"],
    }
    baseline, rows = measure()
    ok = all(row.same for row in rows if row.promised)
    if as_json:
        card = {"ok": ok, "environment": environment, "settings": _SETTINGS}
        card |= {"baseline": dataclasses.asdict(baseline), "advice": advise(rows)}
        print(json.dumps(card | {"rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
        return 0 if ok else 2
    show = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH).print
    told = [f"{name.replace('_', ' ')} {value}" for name, value in environment.items()]
    show(Text("\n".join([told[0], ", ".join(told[1:])])), soft_wrap=True)
    table = Table(box=box.SIMPLE)
    for name in ("change", "loss bits identical?", "weights?", "last loss differs by", "seconds"):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for row in rows:
        table.add_row(*cells(row), style="bold red" if row.promised and not row.same else None)
    show(table)
    size = f"{_SETTINGS['model.n_layers']} layers, {_SETTINGS['model.d_model']} wide"
    ended = f"{len(baseline.losses)} steps to the weights {baseline.weights[:16]}"
    show(Text(f"Measured with {size}, {ended}; another size may differ."), soft_wrap=True)
    show(Text(advise(rows), "" if ok else "bold red"), soft_wrap=True)
    return 0 if ok else 2


if __name__ == "__main__":
    _obey()
