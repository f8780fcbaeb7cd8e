"""The benchmarks run, and do their sums right. Nothing here looks at how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.measure import Budget, Rate

from benchmarks import __main__ as command
from benchmarks import generation, measure, peer, report, tokenizer, training
from tiny_transformer.config import ModelConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.viz.memory import flops_per_token

pytestmark = pytest.mark.requirement("bench.compares")

SMALL = ModelConfig(n_layers=1, d_model=16, n_heads=2, context_length=8)
LEAST = Budget(rounds=1, training_steps=1, new_tokens=4, characters=1000, seconds=0.0, gemm_size=8)


def test_a_ratio_pairs_the_rounds() -> None:
    paired = measure.ratio(Rate((2.0, 40.0, 3.0)), Rate((1.0, 10.0, 6.0)))
    assert (paired.median, paired.least, paired.most) == (2.0, 0.5, 4.0)


def test_a_ratio_needs_as_many_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="zip"):
        measure.ratio(Rate((1.0,)), Rate((1.0, 2.0)))


def test_subjects_take_turns_after_a_round_that_is_not_counted() -> None:
    turns: list[str] = []

    def subject(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    rates = measure.in_turns({"a": lambda: subject("a"), "b": lambda: subject("b")}, rounds=2)
    assert turns == ["a", "b"] * 3
    assert rates == {"a": Rate((3.0, 5.0)), "b": Rate((4.0, 6.0))}


def test_rates_are_units_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def work() -> None:
        now[0] += 0.5

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    assert measure.rate_of(work, 10, times=4) == 20.0
    assert measure.rate_for(work, 10, seconds=2.0) == 20.0
    assert now[0] == 4.0  # four calls by count, and four until two seconds had passed
    assert measure.rate_for(work, 10, seconds=0.0) == 20.0  # once at least


def test_the_peer_has_as_many_parameters_as_the_base_model() -> None:
    gpt2 = peer.build_gpt2(ModelConfig())
    assert sum(p.numel() for p in gpt2.parameters()) == Transformer(ModelConfig()).n_parameters()


def test_both_training_steps_train() -> None:
    torch.manual_seed(0)
    ids = torch.randint(2, 99, (4, 9))
    x, y = ids[:, :-1], ids[:, 1:]
    for model in (Transformer(SMALL), peer.build_gpt2(SMALL)):
        before = [p.detach().clone() for p in model.parameters()]

        def logits(ids: torch.Tensor, model: Any = model) -> torch.Tensor:
            output = model(ids)
            return output if isinstance(output, torch.Tensor) else output.logits

        step = training.training_step(model, logits, x, y)
        losses = [step() for _ in range(3)]
        assert losses[-1] < losses[0]
        assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_both_generators_make_as_many_tokens_as_asked() -> None:
    for make in (generation.ours_generator, generation.peer_generator):
        assert make(SMALL, 3, 7)() == 21


def test_every_tokenizer_gives_the_same_ids_and_the_text_back() -> None:
    text = tokenizer.ascii_text("simple", 30_000)  # longer than the corpus
    assert len(text) == 30_000
    codecs = tokenizer.codecs()
    expected = list(codecs[tokenizer.OURS][0](text))
    for encode, decode in codecs.values():
        ids = encode(text)
        assert list(ids) == expected
        assert decode(ids) == text


def test_every_part_of_the_report_runs() -> None:
    rows = [
        *command.training_rows(SMALL, LEAST, batch_size=2),
        *command.tokenizer_rows(LEAST, corpus="simple"),
        *command.generation_rows(SMALL, LEAST, streams=(1, 2)),
    ]
    assert all(sample > 0 for row in rows for sample in row.rate.samples)
    assert len({row.section for row in rows}) == 5
    compared = [row.subject for row in rows if row.ours is not None]
    tokenizers = [tokenizer.DICT, tokenizer.RUST, tokenizer.CEILING]
    assert compared == [training.PEER, *tokenizers * 2, generation.PEER, generation.PEER]
    machine = report.describe_machine()
    assert json.loads(json.dumps(report.to_json(rows, machine, 1.0)))["rows"][0]["median"] > 0
    text = report.format_table(rows) + report.machine_line(machine)
    assert all(row.subject in text and row.section in text for row in rows)


def test_the_share_of_the_roofline_is_work_over_what_the_machine_can_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    per_token = flops_per_token(SMALL)
    rates = {
        training.OURS: Rate((4.0, 6.0)),
        training.PEER: Rate((2.0, 2.0)),
        training.ROOFLINE: Rate((8.0 * per_token, 12.0 * per_token)),
    }
    monkeypatch.setattr(training, "measure_training", lambda *_, **__: dict(rates))
    ours, theirs, _ = command.training_rows(SMALL, LEAST)
    assert "50% of the roofline" in ours.note
    assert theirs.to_dict()["ours_to_this"] == {"median": 2.5, "min": 2.0, "max": 3.0}


def test_a_table_lines_up_and_shows_the_ratio() -> None:
    rates = {"ours": Rate((2e6, 4e6)), "theirs": Rate((1e6, 1e6))}
    rows = report.section_rows("reading", "MB/s", rates, ours="ours", scale=1e6)
    _, _, section, ours, theirs = report.format_table(rows).splitlines()
    assert section == "reading"
    assert ours.split() == ["ours", "3", "2", "..", "4", "MB/s"]
    assert theirs.split() == ["theirs", "1", "1", "..", "1", "MB/s", "3.00", "(2.00", "..", "4.00)"]
    assert ours.index("MB/s") == theirs.index("MB/s")


def test_the_command_writes_every_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = report.Row("reading", "ours", "MB/s", Rate((1.0, 2.0)))
    for part in ("training_rows", "tokenizer_rows", "generation_rows"):
        monkeypatch.setattr(command, part, lambda *_: [row])
    path = tmp_path / "report.json"
    assert command.main(["--quick", "--json", str(path)]) == 0
    assert [r["samples"] for r in json.loads(path.read_text())["rows"]] == [[1.0, 2.0]] * 3
    assert "reading" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("training_rows", "tokenizer_rows", "generation_rows"):
        monkeypatch.setattr(command, part, lambda *_: [])
    assert command.main(["--json", str(tmp_path / "missing" / "report.json")]) == 2
    assert "could not be written" in capsys.readouterr().err
