from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from tiny_transformer.cli import doctor_checks
from tiny_transformer.cli import doctor_numerics as numerics
from tiny_transformer.cli.doctor_numerics import Change, Measured, Row
from tiny_transformer.cli.main import main as tiny
from tiny_transformer.model import dropout
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.training import state, trainer

pytestmark = pytest.mark.requirement("doctor.numerics")

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
_PROMISED = ["the same again", "a fresh process", "evaluation, samples, saves"]


@pytest.fixture(autouse=True)
def small_and_in_one_process(monkeypatch: Patch) -> None:
    """Train a smaller model for fewer steps; start no process, and compile nothing."""
    smaller = {"model.n_layers": 1, "model.d_model": 32, "training.max_steps": 4}
    monkeypatch.setattr(numerics, "_SETTINGS", numerics._SETTINGS | smaller)
    monkeypatch.setattr(numerics, "_GENERATED", 70)

    def train_apart(settings: dict[str, Any], *, compiled: bool = False) -> Measured:
        return numerics.train(settings)[0]

    monkeypatch.setattr(numerics, "train_apart", train_apart)


def _card(capsys: Capture) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    status = tiny(["doctor", "--numerics", "--json"])
    card = json.loads(capsys.readouterr().out)
    return status, card, {row["change"]: row for row in card["rows"]}


def _row(change: Change, baseline: Measured) -> Row:
    (row,) = numerics.compare_run(change, baseline)
    return row


def test_the_promises_hold_and_every_change_has_a_row(capsys: Capture) -> None:
    status, card, rows = _card(capsys)
    assert (status, card["ok"]) == (0, True)
    assert [name for name, row in rows.items() if row["promised"]] == _PROMISED
    for name in _PROMISED:
        assert (rows[name]["identical"], rows[name]["weights_identical"]) == (True, True)
        assert rows[name]["relative_difference"] == 0
    bfloat16 = rows["precision bfloat16"]
    assert (bfloat16["identical"], bfloat16["first_difference"]) == (False, 1)
    assert bfloat16["weights_identical"] is False
    assert 0 < bfloat16["relative_difference"] < 0.1
    assert {name for name in rows if name.startswith("accumulation_steps")} == {
        f"accumulation_steps {n}{rest}" for n in (2, 4) for rest in ("", ", dropout 0")
    }
    # Other masks are a larger change than another order of summation.
    masks, sums = (rows[f"accumulation_steps 4{rest}"] for rest in ("", ", dropout 0"))
    assert masks["relative_difference"] > 100 * sums["relative_difference"]
    assert rows["eval_batch_size 1: validation loss"]["relative_difference"] < 1e-5
    assert rows["generation without a cache: tokens"]["identical"] is True
    assert rows["generation without a cache: logits"]["relative_difference"] < 1e-4
    assert all(row["reason"] == "" for row in rows.values())
    assert card["environment"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert len(card["baseline"]["losses"]) == 4


def test_the_table_says_what_the_json_says(monkeypatch: Patch, capsys: Capture) -> None:
    rows = [
        Row("the same again", True, "", True, None, True, 0.0, 0.26),
        Row("threads 7", False, "threads", False, 3, False, 1.25e-7, 12.0),
        Row("logits", False, "", True, None, None, None, 0.5),
        Row("torch.compile", reason="no C++ compiler"),
    ]
    monkeypatch.setattr(numerics, "measure", lambda: (Measured([2.5], "abc"), rows))
    _, card, _ = _card(capsys)
    assert [Row(**row) for row in card["rows"]] == rows
    assert tiny(["doctor", "--numerics"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for row in rows:
        line = next(line for line in out.splitlines() if f" {row.change} " in line)
        assert line.split() == " ".join(numerics.cells(row)).split()
    assert numerics.cells(rows[0]) == ("the same again (promised)", "yes", "yes", "0", "0.3")
    assert numerics.cells(rows[1]) == ("threads 7", "no, from 3", "no", "1.2e-07", "12.0")
    assert numerics.cells(rows[2]) == ("logits", "yes", "-", "-", "0.5")
    assert numerics.cells(rows[3])[1] == "not tried: no C++ compiler"
    assert card["advice"] in out
    for name in ("cpu_capability", "torch", "threads", "device", "precision", "processor"):
        assert str(card["environment"][name]) in out


def test_only_the_card_is_shown(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(numerics, "measure", lambda: (Measured([2.5], "abc"), []))
    assert tiny(["doctor", "--numerics"]) == 0
    assert "matrix product" not in capsys.readouterr().out


def _draw_from_a_generator_of_its_own(monkeypatch: Patch) -> None:
    """Dropout masks then depend on what was drawn before."""
    own = torch.Generator().manual_seed(1)

    def dropout_as_it_comes(x: torch.Tensor, probability: float) -> torch.Tensor:
        return x * (torch.rand(x.shape, generator=own) >= probability)

    monkeypatch.setattr(dropout, "dropout", dropout_as_it_comes)


def _spoil_weights_in(module: ModuleType, name: str) -> Callable[[Patch], None]:
    """Let a function that only reads weights change them a little."""

    def spoil(monkeypatch: Patch) -> None:
        real = getattr(module, name)

        def spoiling(model: Transformer, *arguments: Any, **options: Any) -> Any:
            with torch.no_grad():
                next(model.parameters()).mul_(1 + 1e-6)
            return real(model, *arguments, **options)

        monkeypatch.setattr(module, name, spoiling)

    return spoil


@pytest.mark.parametrize(
    ("breakage", "broken"),
    [
        (_draw_from_a_generator_of_its_own, "the same again"),
        (_spoil_weights_in(state, "compute_val_loss"), "evaluation, samples, saves"),
        (_spoil_weights_in(trainer, "sample_text"), "evaluation, samples, saves"),
    ],
)
def test_a_broken_promise_is_told_and_ends_with_status_2(
    breakage: Callable[[Patch], None], broken: str, monkeypatch: Patch, capsys: Capture
) -> None:
    changes = [change for change in numerics.all_changes() if change.promised]
    monkeypatch.setattr(numerics, "all_changes", lambda: changes)
    breakage(monkeypatch)
    status, card, rows = _card(capsys)
    assert (status, card["ok"]) == (2, False)
    assert not (rows[broken]["identical"] and rows[broken]["weights_identical"])
    assert "promise does not hold" in card["advice"]
    assert broken in card["advice"]


def test_a_broken_promise_is_told_below_the_table_too(monkeypatch: Patch, capsys: Capture) -> None:
    rows = [Row("the same again", True, "", True, None, False, 0.0)]
    monkeypatch.setattr(numerics, "measure", lambda: (Measured([2.5], "abc"), rows))
    assert tiny(["doctor", "--numerics"]) == 2
    assert "promise does not hold" in capsys.readouterr().out.splitlines()[-1]


def test_a_promise_that_could_not_be_tried_does_not_hold(
    monkeypatch: Patch, capsys: Capture
) -> None:
    def train_apart(settings: dict[str, Any], *, compiled: bool = False) -> Measured:
        raise RuntimeError("no process could be started")

    monkeypatch.setattr(numerics, "train_apart", train_apart)
    monkeypatch.setattr(
        numerics, "all_changes", lambda: [Change("fresh", fresh=True, promised=True)]
    )
    status, card, rows = _card(capsys)
    assert (status, card["ok"]) == (2, False)
    assert rows["fresh"]["reason"] == "no process could be started"


@pytest.mark.parametrize("step", [1, 3, 4])
def test_one_changed_bit_of_one_loss_is_noticed(step: int, monkeypatch: Patch) -> None:
    baseline, model = numerics.train({})
    losses = list(baseline.losses)
    # The bits of a float32, one higher: the least change that a loss can show.
    losses[step - 1] = torch.nextafter(torch.tensor(losses[step - 1]), torch.tensor(9.0)).item()
    changed = Measured(losses, baseline.weights)
    monkeypatch.setattr(numerics, "train", lambda settings, threads: (changed, model))
    row = _row(Change("a bit"), baseline)
    assert (row.identical, row.first_difference, row.weights_identical) == (False, step, True)
    assert not row.same


def test_missing_steps_and_other_weights_are_differences(monkeypatch: Patch) -> None:
    found = [Measured([2.0, 1.5], "w"), Measured([2.0, 1.5, 1.0], "other")]
    supply = iter(found)
    monkeypatch.setattr(numerics, "train", lambda settings, threads: (next(supply), None))
    baseline = Measured([2.0, 1.5, 1.0], "w")
    short, other = _row(Change("short"), baseline), _row(Change("other"), baseline)
    assert (short.identical, short.first_difference, short.relative_difference) == (False, 3, 0.5)
    assert (other.identical, other.weights_identical, other.same) == (True, False, False)


def test_a_cache_that_errs_is_noticed_at_its_token(monkeypatch: Patch) -> None:
    _, model = numerics.train({})
    calls, real, cached = itertools.count(1), model.forward, []

    def forward(ids: torch.Tensor, cache: Any = None, **options: Any) -> torch.Tensor:
        cached.append(cache is not None)
        logits = real(ids, cache, **options)
        if cache is not None and next(calls) == 5:
            logits = logits + torch.linspace(0, 40, logits.shape[-1])
        return logits

    monkeypatch.setattr(model, "forward", forward)
    tokens, logits = numerics.compare_generation(model)
    assert (tokens.identical, tokens.first_difference) == (False, 5)
    assert logits.identical is False
    assert logits.first_difference is not None
    assert logits.first_difference <= 5
    assert len(model._forward_hooks) == 0
    assert cached == [True] * 70 + [False] * 70


def test_an_evaluation_that_depends_on_the_batch_is_noticed(monkeypatch: Patch) -> None:
    real = numerics.compute_val_loss

    def compute_val_loss(*arguments: Any, batch_size: int, **options: Any) -> Any:
        found = real(*arguments, batch_size=32, **options)
        return type(found)(found.loss * (1.5 if batch_size == 1 else 1), found.n_targets)

    _, model = numerics.train({})
    monkeypatch.setattr(numerics, "compute_val_loss", compute_val_loss)
    (row,) = numerics.compare_evaluation(model)
    assert (row.identical, row.relative_difference) == (False, pytest.approx(0.5))


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_as_many_afterwards_as_before(fails: bool, monkeypatch: Patch) -> None:
    seen = []

    class Spy:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            seen.append(torch.get_num_threads())
            if fails:
                raise ZeroDivisionError
            self.real = trainer.Trainer(*arguments, **options)
            self.model, self.train = self.real.model, self.real.train

    monkeypatch.setattr(numerics, "Trainer", Spy)
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        numerics.train({}, other)
    assert seen == [other]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("cores", "now", "expected"),
    [(1, 1, []), (2, 1, [2]), (2, 2, [1]), (8, 2, [1, 8]), (8, 3, [1, 2, 8])],
)
def test_threads_are_tried_up_to_the_usable_cores(
    cores: int, now: int, expected: list[int], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(doctor_checks, "_usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: now)
    assert [c.threads for c in numerics.all_changes() if c.guarded == "threads"] == expected


def test_another_device_is_tried_where_there_is_one(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (device,) = [change for change in numerics.all_changes() if change.guarded == "device"]
    assert device.settings == {"training.device": "cuda", "model.dropout": 0.0}
    assert device.without_dropout


def test_a_compiler_that_fails_is_a_row_and_no_crash(monkeypatch: Patch, capsys: Capture) -> None:
    def train_apart(settings: dict[str, Any], *, compiled: bool = False) -> Measured:
        assert settings == {"model.dropout": 0.0}
        if compiled:
            raise RuntimeError("No working C++ compiler\nwas found.\n\nMore of this")
        return numerics.train(settings)[0]

    monkeypatch.setattr(numerics, "train_apart", train_apart)
    changes = [change for change in numerics.all_changes() if change.compiled]
    monkeypatch.setattr(numerics, "all_changes", lambda: changes)
    status, card, rows = _card(capsys)
    row = rows["torch.compile, dropout 0"]
    assert row["reason"] == "No working C++ compiler was found."
    assert (row["identical"], row["weights_identical"]) == (None, None)
    assert "torch.compile" not in card["advice"]
    assert "generation without a cache: logits" in rows  # the card went on
    assert status == 0


def test_the_advice_follows_from_what_was_found() -> None:
    kept = Row("threads 8", False, "threads", True, None, True, 0.0)
    threads = Row("threads 1", False, "threads", False, 4, False, 1e-7)
    bare = Row("backend explicit, dropout 0", False, "", True, None, False, 0.0)
    logits = Row("logits", False, "", False, 2)
    assert numerics.advise([kept, logits]).startswith("Nothing that was tried changed a bit")
    assert numerics.advise([kept, bare]) == "These change a run's bits here: backend explicit."
    assert numerics.advise([threads, kept, bare]) == (
        "These change a run's bits here: threads 1, backend explicit "
        "(tiny resume asks for --allow-numerics-change: threads)."
    )


class TestAnotherProcess:
    """The real one, which the other tests do without."""

    @pytest.fixture(autouse=True)
    def real(self, small_and_in_one_process: None, monkeypatch: Patch) -> None:
        monkeypatch.setattr(numerics, "train_apart", _train_apart)

    def test_trains_to_the_same_bits(self) -> None:
        baseline, _ = numerics.train({})
        assert _row(Change("fresh", fresh=True), baseline).same

    def test_says_why_it_failed(self, monkeypatch: Patch, capsys: Capture) -> None:
        def run(*_: Any, input: str, **__: Any) -> Any:  # noqa: A002
            monkeypatch.setattr(sys, "stdin", io.StringIO(input))
            numerics._obey()
            return subprocess.CompletedProcess([], 0, capsys.readouterr().out, "")

        monkeypatch.setattr(subprocess, "run", run)
        with pytest.raises(RuntimeError, match=r"model\.dropout is 3\.0"):
            numerics.train_apart({"model.dropout": 3.0})

    def test_is_told_what_to_do(self, monkeypatch: Patch) -> None:
        compiled: list[torch.nn.Module] = []
        threads = 1 if torch.get_num_threads() > 1 else 2
        seen = []

        real = subprocess.run

        def run(words: list[str], *, input: str = "", **options: Any) -> Any:  # noqa: A002
            if words[0] != sys.executable:
                return real(words, **options)  # git
            order = json.loads(input)
            seen.append(order["threads"])
            measured, _model = numerics.train(**order)
            answer = json.dumps(dataclasses.asdict(measured))
            return subprocess.CompletedProcess(words, 0, f"a library's line\n{answer}\n", "")

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
        with numerics._threads(threads):
            plain = numerics.train_apart({"training.max_steps": 2})
            assert compiled == []
            assert numerics.train_apart({"training.max_steps": 2}, compiled=True) == plain
        assert len(compiled) == 1
        assert len(plain.losses) == 2
        assert seen == [threads, threads]

    def test_is_given_up_on_in_the_end(self, monkeypatch: Patch) -> None:
        monkeypatch.setattr(numerics, "_LONGEST", 0.2)
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="given up after 0 seconds"):
            numerics.train_apart({})
        assert time.monotonic() - began < 5

    def test_that_dies_leaves_its_last_words(self, monkeypatch: Patch) -> None:
        dead = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: no torch\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: dead)
        with pytest.raises(RuntimeError, match=r"^ImportError: no torch$"):
            numerics.train_apart({})

    @pytest.mark.slow
    def test_compiles_or_says_why_not(self, capsys: Capture, monkeypatch: Patch) -> None:
        changes = [change for change in numerics.all_changes() if change.compiled]
        monkeypatch.setattr(numerics, "all_changes", lambda: changes)
        status, _, rows = _card(capsys)
        row = rows["torch.compile, dropout 0"]
        assert status == 0
        assert (row["reason"] == "") == (row["identical"] is not None)
        if not row["reason"]:
            assert row["relative_difference"] < 1e-4


_train_apart = numerics.train_apart
