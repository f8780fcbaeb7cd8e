"""`--quantize int8`: of every command that takes it, what it computes, tells and refuses."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from tests.cli.helpers import fingerprints, refusal

from tiny_transformer.cli.main import main
from tiny_transformer.interop.safetensors_folder import load_safetensors
from tiny_transformer.model.quantized import quantize_int8, weight_bytes
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.weights import weights_hash

pytestmark = pytest.mark.requirement("quantize.commands")
FLAG = ("--quantize", "int8")


def evaluate(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> dict[str, float]:
    capsys.readouterr()
    assert main(["eval", str(run), "--json", "--device", "cpu", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_eval_sets_the_quantised_model_beside_the_float_one(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprints(trained_run)
    plain, both = evaluate(capsys, trained_run), evaluate(capsys, trained_run, *FLAG)
    assert both["quantize"] == "int8" and both["float_val_loss"] == plain["val_loss"]
    assert both["val_loss"] != plain["val_loss"]
    assert both["loss_increase"] == both["val_loss"] - plain["val_loss"]
    assert both["bits_per_char_increase"] == both["bits_per_char"] - plain["bits_per_char"]
    assert abs(both["loss_increase"]) < 1e-3  # of a toy that was trained
    print(f"the toy's loss increase is {both['loss_increase']:+.6f} nats")
    model = load_checkpoint(trained_run / "checkpoints" / "step-00000006").build_model()
    assert both["float_weight_bytes"] == weight_bytes(model)
    assert both["weight_bytes"] == weight_bytes(quantize_int8(model)) < weight_bytes(model) / 2
    assert fingerprints(trained_run) == before


def test_evals_table_shows_small_increases(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = evaluate(capsys, trained_run, *FLAG)
    assert main(["eval", str(trained_run), "--device", "cpu", *FLAG]) == 0
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert table.keys() == both.keys()
    assert table["loss_increase"] == f"{both['loss_increase']:+.6f}"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--num-samples", "3"],
        ["--num-beams", "2"],
        ["--contrastive-alpha", "0.4"],
        ["--draft", "DRAFT"],
        ["--explain"],
        ["--compare"],
    ],
)
def test_every_way_to_generate_takes_a_quantised_model(
    words: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = str(run / "checkpoints" / "step-00000003")
    words = [draft if word == "DRAFT" else word for word in words]
    words = ["generate", str(run), "--prompt", "a", "--max-new-tokens", "20", *words]
    before = fingerprints(run)
    assert main([*words, *FLAG]) == 0
    out, err = capsys.readouterr()
    assert out.strip() and err.count("The weights take") == 1 and "instead of" in err
    assert fingerprints(run) == before
    assert main([*words, *FLAG]) == 0
    again = capsys.readouterr()[0]
    assert again == out or "--compare" in words  # which tells speeds


def test_a_file_of_prompts(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\nbc\n")
    words = ["generate", str(run), "--prompts", "prompts.txt", "--max-new-tokens", "5", *FLAG]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["a", "bc"]


def test_the_prompt_that_streams(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/set max_new_tokens 5\na\n"))
    assert main(["interactive", str(run), *FLAG]) == 0
    out, err = capsys.readouterr()
    assert "a" in out and "The weights take" in err


@pytest.mark.requirement("quantize.export")
def test_export_writes_int8_and_says_what_it_costs(
    trained_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    assert main(["export", str(trained_run), "--format", "safetensors", *FLAG]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("exports/small-safetensors-int8: ")
    assert lines[2].startswith("The weights take ") and lines[3].startswith("The loss is ")
    assert "nats" in lines[3] and "bits a character" in lines[3]
    assert lines[4] == "They are the first of the validation part of simple."
    folder = tmp_path / "exports" / "small-safetensors-int8"
    model = load_checkpoint(trained_run / "checkpoints" / "step-00000006").build_model()
    assert weights_hash(load_safetensors(folder)) == weights_hash(quantize_int8(model))
    told = json.loads((folder / "export.json").read_text())["quantization"]
    assert told["name"] == "int8" and told["weight_bytes"] < told["float_weight_bytes"]
    assert f"{told['loss_increase']:+.5f} nats" in lines[3]


@pytest.mark.requirement("quantize.export")
def test_a_corpus_that_is_gone_is_told(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.cli.helpers import SMALL

    (tmp_path / "own.txt").write_text("To be, or not to be.\n" * 300)
    words = [own if word == "simple" else word for word in SMALL for own in ["own.txt"]]
    assert main(["train", *words, "--run-name", "own"]) == 0
    (tmp_path / "own.txt").unlink()
    capsys.readouterr()
    assert main(["export", "own", "--format", "safetensors", *FLAG]) == 0
    out = capsys.readouterr().out
    assert "What the loss gains was not measured: " in out and "own.txt" in out
    told = json.loads((tmp_path / "exports/own-safetensors-int8/export.json").read_text())
    assert told["quantization"].keys() == {"name", "float_weight_bytes", "weight_bytes"}


@pytest.mark.requirement("quantize.refused")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "RUN", "--quantize", "int4"], "'int4' is not a quantisation."),
        (["generate", "RUN", "--quantize", "q8"], "There is: int8."),
        (["interactive", "RUN", "--quantize", ""], "'' is not a quantisation."),
        (["export", "RUN", "--format", "onnx", "--quantize", "int4"], "Did you mean 'int8'?"),
        (
            ["export", "RUN", "--format", "huggingface", *FLAG],
            "huggingface carries float32 weights alone. Formats that carry int8: safetensors,",
        ),
        (["export", "RUN", "--format", "gguf", *FLAG], "model.activation is 'gelu'"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    words: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprints(run)
    assert said in refusal(capsys, *[str(run) if word == "RUN" else word for word in words])
    assert fingerprints(run) == before and not Path("exports").exists()


@pytest.mark.requirement("quantize.refused")
@pytest.mark.parametrize("words", [["eval"], ["generate"], ["export", "--format", "safetensors"]])
def test_a_missing_torchao_is_one_message(
    words: list[str],
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refusal(capsys, words[0], str(run), *words[1:], *FLAG)
    assert "needs torchao" in message and "pip install 'tiny-transformer[quantize]'" in message


def test_a_second_export_is_refused_before_anything_is_measured(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(run), "--format", "safetensors", *FLAG]
    assert main(words) == 0
    shutil.rmtree(run / "samples")  # nothing of the export
    assert "exists already" in refusal(capsys, *words)
