"""`tiny generate` beyond sampling: searches, drafts, comparisons, files of prompts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.cli.helpers import refusal

from tiny_transformer.cli.generate_compare import BEAMS, CONTRASTIVE, SAMPLED
from tiny_transformer.cli.main import main
from tiny_transformer.sampling.beam import beam_search
from tiny_transformer.sampling.contrastive import contrastive_search
from tiny_transformer.training.checkpoint import open_checkpoint


def run_it(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> tuple[str, str]:
    """Return what `tiny generate` writes to both streams."""
    capsys.readouterr()
    assert main(["generate", str(run), *words]) == 0
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.requirement("generate.beam")
def test_beams_are_those_of_the_search(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--prompt", "ab", "--max-new-tokens", "9", "--num-beams", "3")
    checkpoint = open_checkpoint(str(trained_run), "runs")[1]
    tokenizer = checkpoint.tokenizer
    found = beam_search(
        checkpoint.build_model(),
        tokenizer.encode("ab").tolist(),
        max_new_tokens=9,
        num_beams=3,
        forbidden=tokenizer.special_ids,
    )
    texts = ["ab" + tokenizer.decode(hypothesis.ids) for hypothesis in found]
    assert run_it(capsys, trained_run, *words)[0] == f"{texts[0]}\n"
    several = run_it(capsys, trained_run, *words, "--num-samples", "2")[0]
    assert several == f"--- sample 1 of 2 ---\n{texts[0]}\n--- sample 2 of 2 ---\n{texts[1]}\n"


@pytest.mark.requirement("generate.contrastive")
def test_contrastive_search_is_the_librarys(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = open_checkpoint(str(trained_run), "runs")[1]
    tokenizer = checkpoint.tokenizer
    ids = contrastive_search(
        checkpoint.build_model(),
        tokenizer.encode("ab").tolist(),
        max_new_tokens=12,
        k=3,
        alpha=0.5,
        forbidden=tokenizer.special_ids,
    )
    words = "--prompt ab --max-new-tokens 12 --top-k 3 --contrastive-alpha 0.5"
    found = run_it(capsys, trained_run, *words.split())[0]
    assert found == f"ab{tokenizer.decode(list(ids))}\n"


@pytest.mark.requirement("generate.speculative")
def test_a_draft_changes_no_greedy_text_and_tells_how_much_was_accepted(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--prompt", "ab", "--max-new-tokens", "40", "--temperature", "0")
    expected = run_it(capsys, trained_run, *words)[0]
    found, told = run_it(capsys, trained_run, *words, "--draft", str(trained_run))
    assert found == expected
    # The same model as its own draft: everything is accepted.
    accepted, proposed = map(int, re.findall(r"accepted (\d+) of (\d+)", told)[0])
    assert accepted == proposed > 20


@pytest.mark.requirement("generate.stop")
def test_a_speaker_speaks_to_the_end_of_the_speech(
    trained_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def record(model: object, tokenizer: object, config: object, **how: object) -> object:
        seen.append(config)
        return iter(["Speech"])

    monkeypatch.setattr("tiny_transformer.cli.generate.stream_text", record)
    assert run_it(capsys, trained_run, "--speaker", "ROMEO:")[0] == "ROMEO:\nSpeech\n"
    assert (seen[0].prompt, seen[0].stop) == ("ROMEO:\n", ("\n\n",))
    run_it(capsys, trained_run, "--speaker", "ROMEO", "--stop", "x", "yz")
    assert (seen[1].prompt, seen[1].stop) == ("ROMEO:\n", ("x", "yz"))


@pytest.mark.requirement("generate.stop")
def test_stop_texts_end_it(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--prompt", "ab", "--max-new-tokens", "40", "--num-samples", "2")
    whole = run_it(capsys, trained_run, *words[:4])[0].removeprefix("ab")
    stop = whole[5:7]
    found = run_it(capsys, trained_run, *words[:4], "--stop", stop)[0]
    assert found == f"ab{whole[: whole.index(stop)]}\n"


# Files of prompts


def lines_of(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.requirement("generate.many")
def test_each_prompt_of_a_file_becomes_a_json_line(
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(
        'ab\n\n{"prompt": "a\\nb", "seed": 5, "id": [1]}\nlonger one\n{"prompt": "c"}\n'
    )
    words = ("--prompts", str(file), "--max-new-tokens", "11")
    found = lines_of(run_it(capsys, trained_run, *words)[0])
    assert [line["prompt"] for line in found] == ["ab", "a\nb", "longer one", "c"]
    assert [line["index"] for line in found] == [0, 1, 2, 3]
    assert [line.get("id") for line in found] == [None, [1], None, None]
    for line in found:
        assert (len(str(line["text"])), line["tokens"], line["finish_reason"]) == (11, 11, "length")
        assert -11 * 6 < float(str(line["log_probability"])) < 0
    monkeypatch.setattr("tiny_transformer.cli.generate_many._AT_ONCE", 1)
    alone = lines_of(run_it(capsys, trained_run, *words)[0])
    assert [line["text"] for line in alone] == [line["text"] for line in found]
    other = lines_of(run_it(capsys, trained_run, *words, "--seed", "1")[0])
    changed = [a["text"] != b["text"] for a, b in zip(found, other, strict=True)]
    assert changed == [True, False, True, True]  # the second has a seed of its own


@pytest.mark.requirement("generate.many")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('ok\n{"prompt": 3}\n', 'Line 2 of .* has no text "prompt"'),
        ('{"prompt": "a"\n', "Line 1 of .* is not JSON"),
        ('{"prompt": "a", "seed": -1}\n', '"seed" must be a whole number'),
        ('{"prompt": ""}\n', "The prompt is empty"),
        ("caf\u00e9\n", "outside the model's vocabulary"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_prompts_that_makes_no_sense_is_refused(
    text: str | None,
    message: str,
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "prompts.txt"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert re.search(message, refusal(capsys, "generate", str(trained_run), "--prompts", str(file)))


# Looking inside


@pytest.mark.requirement("generate.explain")
def test_each_token_is_shown_with_its_probability_and_others(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--prompt", "ab", "--max-new-tokens", "20", "--temperature", "0")
    text = run_it(capsys, trained_run, *words)[0]
    figure = tmp_path / "attention.png"
    out = run_it(capsys, trained_run, *words, "--explain", "--attention-figure", str(figure))[0]
    assert out.startswith(text)
    rows = [line for line in out.splitlines() if re.match(r" +'.*' 0\.\d{3}   |  ", line)]
    shown = [re.findall(r"('[^']+'|\"'\") ([01]\.\d{3})", row) for row in rows]
    shown = [row for row in shown if len(row) == 6]
    assert len(shown) == 20
    for row in shown:
        own, *others = [float(probability) for _, probability in row]
        assert own >= max(others)  # greedy
        assert others == sorted(others, reverse=True)
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.requirement("generate.compare")
def test_strategies_stand_side_by_side_with_a_text_of_each(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--compare", "--prompt", "ab", "--max-new-tokens", "30")
    out = run_it(capsys, trained_run, *words)[0]
    for name in (*SAMPLED, BEAMS, CONTRASTIVE):
        assert re.search(rf"^ {re.escape(name)} +\d ", out, re.MULTILINE)
        assert f"{name} ─" in out
    assert "as given" not in out
    greedy = run_it(capsys, trained_run, *words[1:], "--temperature", "0")[0]
    assert greedy in out
    assert "as given" in run_it(capsys, trained_run, *words, "--top-k", "5")[0]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--num-beams 2 --temperature 0.5", ("num-beams", "temperature")),
        ("--num-beams 2 --top-k 5", ("num-beams", "top-k")),
        ("--contrastive-alpha 0.5 --top-p 0.5", ("contrastive-alpha", "top-p")),
        ("--contrastive-alpha 0.5 --num-beams 3", ("num-beams", "contrastive-alpha")),
        ("--draft x --num-beams 3", ("num-beams", "draft")),
        ("--draft x --num-samples 3", ("draft", "num-samples")),
        ("--speaker A --prompt b", ("speaker", "prompt")),
        ("--prompts f --prompt b", ("prompts", "prompt")),
        ("--prompts f --explain", ("prompts", "explain")),
        ("--compare --explain", ("compare", "explain")),
        ("--explain --num-samples 2", ("explain", "num-samples")),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    words: str, named: tuple[str, str], trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, "generate", str(trained_run), *words.split())
    assert all(f"--{name}" in told for name in named)
    assert "contradict" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--num-beams 0", "--num-beams is 0"),
        ("--num-beams 2 --num-samples 3", "as many texts as it has beams"),
        ("--min-p 2", "sampling.min_p is 2"),
        ("--draft nowhere", "nowhere"),
        ("--attention-figure a.bmp --max-new-tokens 3", ".png, .pdf or .svg"),
    ],
)
def test_what_makes_no_sense_is_told(
    words: str, told: str, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, "generate", str(trained_run), *words.split())
