"""The benchmarks run, and do their sums right. Nothing here looks at how fast anything is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tiny_transformer.bench import generation, measure, memory, peers, report, startup, training
from tiny_transformer.bench import tokenizer as tokenizers
from tiny_transformer.bench.measure import Budget, Rate
from tiny_transformer.bench.report import OURS
from tiny_transformer.cli import bench as command
from tiny_transformer.cli.main import main as tiny
from tiny_transformer.config import ModelConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, TinyError
from tiny_transformer.viz.memory import estimate_memory, flops_per_token

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


NANOGPT = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class GPTConfig:
    block_size: int; vocab_size: int; n_layer: int; n_head: int; n_embd: int
    dropout: float; bias: bool

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.head = config, nn.Embedding(config.vocab_size, config.vocab_size)
    def forward(self, idx, targets=None):
        logits = self.head(idx)
        return (logits if targets is not None else logits[:, [-1]]), None
    def generate(self, idx, max_new_tokens):
        for _ in range(max_new_tokens):
            idx = torch.cat([idx, self(idx)[0].argmax(-1)], dim=1)
        return idx
"""


@pytest.fixture
def everyone(tmp_path: Path) -> list[peers.Peer]:
    (tmp_path / "model.py").write_text(NANOGPT)
    found, missing = peers.available_peers(tmp_path)
    assert (len(found), missing) == (3, [])
    return found


def test_the_peers_are_as_large_as_the_base_model() -> None:
    ours = Transformer(ModelConfig()).n_parameters()
    gpt2 = peers.build_gpt2(ModelConfig())
    assert sum(p.numel() for p in gpt2.parameters()) == ours
    other, _ = peers.X_TRANSFORMERS.trained(ModelConfig())
    assert sum(p.numel() for p in other.parameters()) == pytest.approx(ours, rel=0.01)


def test_every_training_step_trains(everyone: list[peers.Peer]) -> None:
    torch.manual_seed(0)
    ids = torch.randint(2, 99, (4, 9))
    x, y = ids[:, :-1], ids[:, 1:]
    ours = Transformer(SMALL)
    for model, logits in [(ours, ours), *[peer.trained(SMALL) for peer in everyone]]:
        assert logits(x).shape == (4, 8, 99)
        before = [p.detach().clone() for p in model.parameters()]
        step = training.training_step(model, logits, x, y)
        losses = [step() for _ in range(3)]
        assert losses[-1] < losses[0]
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_our_step_in_shards_makes_the_same_losses_as_whole() -> None:
    ids = torch.randint(2, 99, (4, 257))
    x, y = ids[:, :-1], ids[:, 1:]
    config = dataclasses.replace(SMALL, context_length=256, dropout=0.0)
    ours = Transformer(config)
    whole, shards = training.training_step(ours, ours, x, y), training.our_step(config, x, y)
    for _ in range(2):
        assert shards() == pytest.approx(whole(), abs=1e-4)


def test_every_generator_makes_as_many_tokens_as_asked(everyone: list[peers.Peer]) -> None:
    for make in (generation.ours_generator, *[peer.generator for peer in everyone]):
        assert make(SMALL, 3, 7)() == 21


def test_who_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    found, missing = peers.available_peers()
    assert found == []
    assert [line.split(" is left out")[0] for line in missing] == [
        "transformers GPT-2",
        "x-transformers",
        "nanoGPT",
    ]


def test_a_folder_that_is_not_nanogpt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model\.py"):
        peers.available_peers(tmp_path)
    (tmp_path / "model.py").write_text("GPT = 1")
    with pytest.raises(ConfigError, match="GPTConfig"):
        peers.available_peers(tmp_path)


def test_every_tokenizer_gives_the_same_ids_and_the_text_back() -> None:
    text = tokenizers.ascii_text("simple", 30_000)  # longer than the corpus
    assert len(text) == 30_000
    codecs = tokenizers.codecs()
    expected = list(codecs[OURS][0](text))
    for encode, decode in codecs.values():
        ids = encode(text)
        assert list(ids) == expected
        assert decode(ids) == text


def test_every_part_of_the_report_runs(everyone: list[peers.Peer]) -> None:
    rows = [
        *training.training_rows(SMALL, LEAST, everyone, batch_size=2),
        *tokenizers.tokenizer_rows(LEAST, corpus="simple"),
        *generation.generation_rows(SMALL, LEAST, everyone, streams=(1, 2)),
    ]
    assert all(sample > 0 for row in rows for sample in row.rate.samples)
    assert len({row.section for row in rows}) == 5
    compared = [row.subject for row in rows if row.ours is not None]
    names = [peer.name for peer in everyone]
    codecs = [tokenizers.DICT, tokenizers.CEILING, tokenizers.RUST]
    assert names[-1] == "nanoGPT"  # which writes one text at a time
    assert compared == [*names, *codecs * 2, *names, *names[:-1]]
    machine = report.describe_machine()
    assert json.loads(json.dumps(report.to_json(rows, machine, 1.0)))["rows"][0]["median"] > 0
    text = report.format_table(rows) + report.machine_line(machine)
    assert all(row.subject in text and row.section in text for row in rows)


def test_the_loader_takes_a_share_of_a_step() -> None:
    (row,) = training.loader_rows(SMALL, LEAST, batch_size=2, corpus="simple")
    assert all(0 < share < 100 for share in row.rate.samples)


@pytest.mark.skipif(memory.anonymous_bytes() is None, reason="needs /proc/self/status")
def test_the_peak_of_training_is_set_beside_its_estimate() -> None:
    config = ModelConfig(n_layers=2, d_model=128, context_length=128)
    (row,) = memory.memory_rows(config, LEAST, batch_size=16)
    estimate = estimate_memory(config, batch_size=16).total / 2**20
    assert row.rate.median > 0.5 * estimate  # the tensors were there
    assert f"{row.rate.median / estimate:.2f} of the estimate" in row.note


def test_where_no_one_tells_the_memory_there_is_no_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "missing")
    assert memory.memory_rows(SMALL, LEAST) == []


def test_start_up_is_measured_to_the_first_update() -> None:
    told, first = startup.startup_rows(LEAST, corpus="simple")
    assert 0 < told.rate.median < first.rate.median


def test_a_command_that_fails_fails_the_measurement() -> None:
    with pytest.raises(TinyError, match="no-such-corpus"):
        startup.startup_rows(LEAST, corpus="no-such-corpus")


def test_the_share_of_the_roofline_is_work_over_what_the_machine_can_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    per_token = flops_per_token(SMALL)
    rates = {
        OURS: Rate((4.0, 6.0)),
        "other": Rate((2.0, 2.0)),
        training.ROOFLINE: Rate((8.0 * per_token, 12.0 * per_token)),
    }
    monkeypatch.setattr(training, "measure_training", lambda *_, **__: dict(rates))
    ours, theirs, _ = training.training_rows(SMALL, LEAST, [])
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


def test_the_tables_in_markdown() -> None:
    rates = {"ours": Rate((2.0, 4.0)), "theirs": Rate((1.0, 1.0))}
    text = report.format_markdown(report.section_rows("reading", "MB/s", rates, ours="ours"))
    lines = text.splitlines()
    assert lines[0] == "**reading**"
    assert lines[-2:] == [
        "| ours | 3 MB/s | 2 to 4 |  |  |",
        "| theirs | 1 MB/s | 1 to 1 | 3.00 (2.00 to 4.00) |  |",
    ]
    assert len({line.count("|") for line in lines[2:]}) == 1


def test_a_page_keeps_what_is_outside_its_marks() -> None:
    page = "# Title\n<!-- tiny bench: begin -->\nold\n<!-- tiny bench: end -->\nmore\n"
    once = report.put_into_page(page, "new\n")
    assert once.startswith("# Title\n<!-- tiny bench: begin -->\n\nnew\n")
    assert once.endswith("<!-- tiny bench: end -->\nmore\n")
    assert "old" not in once
    assert report.put_into_page(once, "new\n") == once
    assert report.put_into_page("# no marks", "new\n") == "new\n"


def _instead(monkeypatch: pytest.MonkeyPatch, rows: list[report.Row]) -> None:
    for name in command.SECTIONS:
        monkeypatch.setitem(command.SECTIONS, name, lambda *_: rows)


def test_the_command_writes_every_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _instead(monkeypatch, [report.Row("reading", "ours", "MB/s", Rate((1.0, 2.0)))])
    path, page = tmp_path / "report.json", tmp_path / "page.md"
    words = ["bench", "--quick", "--json", str(path), "--markdown", str(page)]
    assert tiny(words) == 0
    samples = [row["samples"] for row in json.loads(path.read_text())["rows"]]
    assert samples == [[1.0, 2.0]] * len(command.SECTIONS)
    assert "| ours | 1.5 MB/s |" in page.read_text()
    assert "reading" in capsys.readouterr().out


def test_sections_are_chosen_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _instead(monkeypatch, [report.Row("reading", "ours", "MB/s", Rate((1.0,)))])
    assert tiny(["bench", "loader", "memory"]) == 0
    assert capsys.readouterr().err.splitlines() == ["1/2 loader ...", "2/2 memory ..."]
    assert tiny(["bench", "memori"]) == 2
    assert "memory" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _instead(monkeypatch, [])
    assert tiny(["bench", "--json", str(tmp_path / "missing" / "report.json")]) == 2
    assert "could not be written" in capsys.readouterr().err
