"""The commands with a run of byte pairs."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from tests.cli.helpers import SMALL, refusal

from tiny_transformer.cli.main import main
from tiny_transformer.text.load import load_tokenizer
from tiny_transformer.text.tokenizer import CharTokenizer

BPE = ["--data.tokenizer", "bpe", "--model.vocab-size", "300"]


@pytest.fixture(scope="module")
def bpe_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("byte-pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_TRANSFORMER_CACHE", str(folder / "cache"))
        words = ["--runs-dir", str(folder / "runs"), "--run-name", "pairs"]
        assert main(["train", *SMALL, *BPE, *words]) == 0
    return folder / "runs" / "pairs"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.requirement("tokenizers.generate")
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--num-samples", "2"),
        ("--num-beams", "2"),
        ("--contrastive-alpha", "0.4"),
        ("--explain",),
        ("--compare", "--max-new-tokens", "4"),
        ("--stop", "e"),
    ],
)
def test_every_way_to_write_takes_a_prompt_of_any_characters(
    bpe_run: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    out = said(
        capsys, "generate", str(bpe_run), "--prompt", "1 é😀", "--max-new-tokens", "6", *words
    )
    assert "1 é😀" in out


@pytest.mark.requirement("tokenizers.generate")
def test_a_draft_and_a_file_of_prompts(
    bpe_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trained_run: Path
) -> None:
    words = ("generate", str(bpe_run), "--max-new-tokens", "6")
    assert said(capsys, *words, "--prompt", "1 2", "--draft", str(bpe_run)).startswith("1 2")
    message = refusal(capsys, *words, "--draft", str(trained_run))
    assert "another vocabulary" in message and "--data.tokenizer" in message
    (tmp_path / "prompts.txt").write_text("中 1\nabc\n", encoding="utf-8")
    out = said(capsys, *words, "--prompts", str(tmp_path / "prompts.txt"))
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"] for line in lines] == ["中 1", "abc"]
    assert [line["tokens"] for line in lines] == [6, 6]


def test_a_long_prompt_is_refused_in_tokens(
    bpe_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, "generate", str(bpe_run), "--prompt", "中" * 20)
    assert "60 tokens; the model sees 16 at once" in message


@pytest.mark.requirement("tokenizers.bits-per-byte")
def test_eval_and_runs_tell_bits_per_byte(
    bpe_run: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(bpe_run.parent.parent / "cache", ignore_errors=True)
    metrics = json.loads(said(capsys, "eval", str(bpe_run), "--json"))
    assert metrics["bits_per_byte"] == metrics["bits_per_char"] > 0  # the corpus is ASCII
    assert metrics["bits_per_byte"] < metrics["val_loss"] / 0.6931
    shown = f"{metrics['bits_per_byte']:.4f}"
    assert shown in said(capsys, "runs", "list", "--runs-dir", str(bpe_run.parent))
    assert re.search(rf"bits per byte +{shown}", said(capsys, "runs", "show", str(bpe_run)))
    compared = said(capsys, "runs", "compare", str(bpe_run), str(trained_run))
    assert shown in compared and "data.tokenizer" in compared


@pytest.mark.requirement("tokenizers.cached")
def test_prepare_and_describe_take_a_tokenizer(
    bpe_run: Path, cache_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--tokenizer", "bpe", "--vocab-size", "300")
    assert "tokens in" in said(capsys, "data", "prepare", "simple", *words)
    (file,) = (cache_folder / "tokenizers").iterdir()
    assert load_tokenizer(file) == load_tokenizer(bpe_run)  # what a run would train
    plot = tmp_path / "tokens.png"
    out = said(capsys, "data", "describe", "simple", *words, "--plot", str(plot))
    assert "bytes a token" in out and "of 300 tokens" in out and "' 1'" in out
    assert plot.is_file() and len(list((cache_folder / "prepared").iterdir())) == 1
    by_path = said(capsys, "data", "describe", "simple", "--tokenizer", str(bpe_run))
    assert by_path.splitlines()[:9] == out.splitlines()[:9]


def test_interactive_and_resume_go_on_with_it(
    bpe_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "runs" / "pairs"
    shutil.copytree(bpe_run, copy)
    assert main(["resume", str(copy), "--training.max-steps", "8"]) == 0
    assert load_tokenizer(copy) == load_tokenizer(bpe_run) != CharTokenizer()


@pytest.mark.requirement("tokenizers.missing-package")
def test_without_the_package_one_line_tells_what_to_install(
    bpe_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for words in (["train", *SMALL, *BPE], ["generate", str(bpe_run)]):
        assert "pip install 'tiny-transformer[bpe]'" in refusal(capsys, *words)
