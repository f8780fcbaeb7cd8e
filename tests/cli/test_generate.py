"""`tiny generate`: a prompt goes in, exactly so many characters come out."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.helpers import fingerprints, refusal, start

from tiny_transformer.cli.main import main
from tiny_transformer.config import SamplingConfig
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.training.checkpoint import load_checkpoint

COUNT = 30


def generate(capsys: pytest.CaptureFixture[str], run: Path, *words: str, count: int = COUNT) -> str:
    """Return what the command writes, without the closing line break."""
    capsys.readouterr()
    assert main(["generate", str(run), "--max-new-tokens", str(count), *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith("\n")
    return out[:-1]


@pytest.mark.requirement("generate.exact-count")
@pytest.mark.parametrize("count", [0, 1, 17, 40])  # 16 is the context
def test_exactly_as_many_characters_as_asked_for(
    count: int, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = generate(capsys, trained_run, "--prompt", "ab", count=count)
    assert text.startswith("ab")
    assert len(text) == 2 + count


@pytest.mark.requirement("text.special-tokens")
def test_neither_special_token_is_generated(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At such a temperature all tokens are equally likely: of 99, one in fifty is special."""
    text = generate(capsys, trained_run, "--temperature", "1e9", count=400)
    assert len(text) == 1 + 400  # a <PAD> would be missing
    assert "\ufffd" not in text
    assert len(set(text)) > 85


@pytest.mark.requirement("generate.reproducible")
def test_the_same_seed_gives_the_same_text_and_another_gives_another(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = generate(capsys, trained_run, "--seed", "4")
    assert generate(capsys, trained_run, "--seed", "4") == first
    assert generate(capsys, trained_run, "--seed", "5") != first


@pytest.mark.requirement("generate.options")
def test_defaults_are_pure_multinomial_at_temperature_one(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = generate(capsys, trained_run)
    spelled = ["--prompt", "\n", "--temperature", "1.0", "--seed", "0", "--num-samples", "1"]
    assert generate(capsys, trained_run, *spelled) == text
    assert generate(capsys, trained_run, "--top-k", "97", "--top-p", "1") == text


@pytest.mark.requirement("generate.options")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["--temperature", "0", "--seed", "1"], ["--temperature", "0", "--seed", "2"]),
        (["--top-k", "1", "--seed", "1"], ["--temperature", "0"]),
        (["--top-p", "1e-9", "--seed", "1"], ["--temperature", "0"]),
    ],
)
def test_settings_that_leave_one_choice_take_the_likeliest(
    first: list[str],
    second: list[str],
    trained_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    likeliest = generate(capsys, trained_run, *second)
    assert generate(capsys, trained_run, *first) == likeliest
    assert generate(capsys, trained_run) != likeliest


@pytest.mark.requirement("generate.options")
def test_several_samples_differ_and_the_first_is_the_single_one(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--prompt", "ab", "--top-k", "20", "--seed", "3")
    text = generate(capsys, trained_run, *words, "--num-samples", "3")
    _, first, rest = text.split("--- sample ", 2)
    assert first == f"1 of 3 ---\n{generate(capsys, trained_run, *words)}\n"
    second, third = rest.split("\n--- sample 3 of 3 ---\n")
    second = second.removeprefix("2 of 3 ---\n")
    assert len(second) == len(third) == 2 + COUNT
    assert len({second, third, first}) == 3


@pytest.mark.requirement("generate.options")
def test_every_setting_reaches_the_sampler(
    trained_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def record(model: object, tokenizer: object, config: object, **options: object) -> list[str]:
        seen.update(config=config, **options)
        return ["x", "y"]

    monkeypatch.setattr("tiny_transformer.cli.generate.sample_text", record)
    words = "--prompt p --max-new-tokens 7 --temperature 0.5 --top-k 9 --top-p 0.8 --seed 6"
    more = "--num-samples 2 --errors replace --crop-prompt --device cpu"
    assert main(["generate", str(trained_run), *words.split(), *more.split()]) == 0
    config = seen.pop("config")
    assert seen == {"n_samples": 2, "errors": "replace", "crop": True}
    assert (config.prompt, config.max_new_tokens, config.temperature) == ("p", 7, 0.5)
    assert (config.top_k, config.top_p, config.seed) == (9, 0.8, 6)


def test_a_run_an_id_and_a_checkpoint_all_name_a_model(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = generate(capsys, run)
    assert generate(capsys, Path("small")) == latest
    assert generate(capsys, run / "checkpoints" / "step-00000006") == latest
    assert generate(capsys, run / "checkpoints" / "step-00000003", count=300) != generate(
        capsys, run, count=300
    )
    monkeypatch.chdir("/")
    assert generate(capsys, Path("small"), "--runs-dir", str(run.parent)) == latest


def test_generating_changes_nothing_on_disk(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprints(run)
    generate(capsys, run, "--num-samples", "2")
    assert fingerprints(run) == before


@pytest.mark.requirement("bad.empty-prompt")
def test_an_empty_prompt_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprints(run)
    message = refusal(capsys, "generate", str(run), "--prompt", "")
    assert "The prompt is empty" in message and "--prompt $'\\n'" in message
    assert fingerprints(run) == before


@pytest.mark.requirement("bad.unknown-prompt")
def test_unknown_characters_are_refused_or_read_as_unknown(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprints(run)
    message = refusal(capsys, "generate", str(run), "--prompt", "caf\u00e9 \u2014")
    assert "'\u00e9' (U+00E9)" in message and "'\u2014' (U+2014)" in message
    assert "--errors replace" in message
    text = generate(capsys, run, "--prompt", "caf\u00e9", "--errors", "replace")
    assert text.startswith("caf\u00e9") and len(text) == 4 + COUNT
    placeholder = generate(capsys, run, "--prompt", "caf\ufffd", "--errors", "replace")
    assert placeholder[4:] == text[4:]
    assert fingerprints(run) == before


@pytest.mark.requirement("bad.long-prompt")
def test_a_long_prompt_is_refused_or_cropped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprints(run)
    prompt = "a" * 4 + "0123456789abcdef"
    message = refusal(capsys, "generate", str(run), "--prompt", prompt)
    assert "20 characters" in message and " 16 " in message and "--crop-prompt" in message
    text = generate(capsys, run, "--prompt", prompt, "--crop-prompt")
    assert text.startswith(prompt) and len(text) == 20 + COUNT
    assert generate(capsys, run, "--prompt", prompt[-16:])[16:] == text[20:]
    assert fingerprints(run) == before


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (["--top-p", "2"], "top_p is 2.0"),
        (["--top-p", "0"], "top_p is 0.0"),
        (["--top-k", "0"], "top_k is 0"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--seed", "-1"], "seed is -1"),
        (["--num-samples", "0"], "--num-samples is 0"),
        (["--max-new-tokens", "-3"], "max_new_tokens is -3"),
    ],
)
def test_a_bad_value_names_its_setting(
    words: list[str], setting: str, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setting in refusal(capsys, "generate", str(trained_run), *words)


@pytest.mark.requirement("bad.checkpoint")
@pytest.mark.parametrize("damage", ["truncated", "tampered", "missing"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "config.yaml", "vocab.json"]
)
def test_a_damaged_checkpoint_is_refused_and_an_older_one_named(
    name: str, damage: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "checkpoints" / "step-00000006" / name
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(data[:-1] if damage == "truncated" else data[:-1] + b"\x07")
    before = fingerprints(run)
    for command in ("generate", "resume", "eval", "interactive"):
        message = refusal(capsys, command, str(run))
        assert str(file) in message and ("missing" if damage == "missing" else "damaged") in message
        older = run / "checkpoints" / "step-00000003"
        assert f"An older one is {older}" in message
    assert generate(capsys, older)
    assert fingerprints(run) == before


def test_an_interrupted_text_ends_with_130(
    trained_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pieces(*_: object, **__: object):
        yield "x"
        raise KeyboardInterrupt

    monkeypatch.setattr("tiny_transformer.cli.generate.stream_text", pieces)
    assert main(["generate", str(trained_run), "--prompt", "ab"]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("abx", "tiny: Interrupted.\n")


def test_a_process_gives_the_text_that_the_library_gives(
    trained_run: Path, environment: dict[str, str]
) -> None:
    """The prompt ends with a byte that is not UTF-8: it can be read, and must be writable."""
    words = ["generate", str(trained_run), "--errors", "replace", "--max-new-tokens", "40"]
    status, out, err = start([*words, "--prompt", "a\udcff"], environment)
    checkpoint = load_checkpoint(trained_run / "checkpoints" / "step-00000006")
    text = sample_text(
        checkpoint.build_model(),
        checkpoint.tokenizer,
        SamplingConfig(prompt="a\ufffd", max_new_tokens=40),
        errors="replace",
    )[0]
    assert (status, out, err) == (0, f"a?{text}\n", "")
