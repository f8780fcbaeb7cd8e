"""`tiny import`: a folder of transformers becomes a run like any other, and can be fine-tuned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.cli.helpers import fingerprints, parser_refusal, refusal
from tests.interop.foreign import byte_pairs, edit_config, foreign_folder

from tiny_transformer.cli import import_model
from tiny_transformer.cli.main import main
from tiny_transformer.interop import bring_in
from tiny_transformer.interop.base import INSTALL
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import metric_by_step, read_log
from tiny_transformer.tracking.run_summary import summarize
from tiny_transformer.training.checkpoint import open_checkpoint
from tiny_transformer.training.weights import weights_hash

pytestmark = pytest.mark.requirement("import.command")

TEXT = "the cat sat on the mat and the dog sat on the cat, and so it went on\n" * 60
QUICK = [
    *("--training.device", "cpu", "--training.precision", "float32", "--training.batch-size", "4"),
    *("--training.eval-batch-size", "64", "--sampling.max-new-tokens", "4"),
    *("--data.corpus", "my.txt", "--optimizer.learning-rate", "0.01"),
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a Llama and a byte-pair encoding; the model has ids to spare."""
    folder = tmp_path_factory.mktemp("foreign") / "little-llama"
    foreign_folder(folder, "llama", vocab_size=320, initializer_range=0.02)
    byte_pairs(TEXT, 280).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").unlink()
    return folder


@pytest.fixture
def imported(theirs: Path, working_folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Import it into the working folder; return what was said."""
    (working_folder / "my.txt").write_text(TEXT)
    capsys.readouterr()
    assert main(["import", str(theirs), "--run-name", "mine"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_it_is_a_run_at_step_0_that_says_where_it_came_from(imported: str, theirs: Path) -> None:
    lines = imported.splitlines()
    assert lines[0] == ("runs/mine: llama, 2 layers, 32 wide, 4 heads, context 16, 320 tokens")
    assert lines[1].startswith("Compared with transformers: ") and "(allowed 1.0e-04)" in lines[1]
    assert lines[2].endswith(" of memory.")
    assert lines[-1].strip() == (
        "tiny train --config runs/mine/config.yaml --init-from runs/mine --data.corpus my.txt"
    )
    run, checkpoint = open_checkpoint("mine")
    source = checkpoint.metadata["imported"]
    assert checkpoint.step == 0 and checkpoint.optimizer_state == {}
    assert (source["folder"], source["model_type"]) == ("little-llama", "llama")
    digest = hashlib.sha256((theirs / "model.safetensors").read_bytes()).hexdigest()
    assert source["files"] == {"model.safetensors": digest}
    assert source["compared_with_transformers"]["largest_difference"] < 1e-4
    summary = summarize(run)
    assert (summary.status, summary.step, summary.val_loss) == ("imported", 0, None)
    assert summary.source == "little-llama (llama)"
    assert checkpoint.config.run_name is None
    assert checkpoint.config.data.tokenizer == "runs/mine/vocab.json"
    assert not list(Path("runs").glob(".*"))


def test_every_command_reads_it(imported: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompt", "the cat", "--max-new-tokens", "5"]
    assert main(["generate", "mine", *words]) == 0
    assert "the cat" in capsys.readouterr().out
    assert main(["eval", "mine", "--corpus", "my.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 0
    assert main(["runs", "list"]) == 0
    assert "imported" in capsys.readouterr().out
    assert main(["runs", "show", "mine"]) == 0
    assert "little-llama (llama)" in capsys.readouterr().out
    assert main(["runs", "verify", "mine"]) == 0
    out = capsys.readouterr().out
    assert "All is as it was written." in out and "config.yaml: as it was written" in out
    assert main(["export", "mine", "--format", "safetensors"]) == 0


def test_what_was_changed_since_is_noticed(
    imported: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/mine/config.yaml").write_text("model: {}\n")
    assert main(["runs", "verify", "mine"]) == 2
    assert "config.yaml: changed since" in capsys.readouterr().out


@pytest.mark.requirement("import.fine-tuning")
def test_fine_tuning_begins_at_its_loss_resumes_and_replays(
    imported: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["eval", "mine", "--corpus", "my.txt", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)["val_loss"]
    words = ["--config", "runs/mine/config.yaml", "--init-from", "mine", "--run-name", "tuned"]
    lengths = ["--training.max-steps", "30", "--training.stop-at", "15"]
    assert main(["train", *words, *lengths, *QUICK]) == 0
    first = read_log(Path("runs/tuned/log.jsonl"))[0]
    assert first["init_from"] == "mine"
    weights = weights_hash(open_checkpoint("mine")[1].build_model())
    assert first["weights_sha256"] == weights
    assert main(["resume", "tuned"]) == 0
    summary = summarize(RunFolder(Path("runs/tuned")))
    assert summary.status == "complete" and summary.val_loss is not None
    assert summary.val_loss < before - 0.5
    losses = metric_by_step(read_log(Path("runs/tuned/log.jsonl")), "train", "loss")
    assert abs(losses[1] - before) < 0.5
    assert main(["runs", "verify", "tuned", "--from", "1"]) == 0
    assert "replayed from the beginning" in capsys.readouterr().out
    assert main(["generate", "tuned", "--prompt", "the cat", "--max-new-tokens", "5"]) == 0
    assert weights_hash(open_checkpoint("mine")[1].build_model()) == weights


@pytest.mark.requirement("import.fine-tuning")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--model.n-layers", "3"],
            ("model.n_layers is 2 there and 3 here", "give --model.n-layers 2,"),
        ),
        (
            ["--model.rotary-base", "500"],
            ("model.rotary_base is 10000.0 there and 500.0 here", "--model.rotary-base 10000.0"),
        ),
        (
            ["--data.tokenizer", "characters", "--model.vocab-size", "99"],
            ("--model.vocab-size 320 --data.tokenizer runs/mine/vocab.json", "--config runs/mine/"),
        ),
    ],
)
def test_what_does_not_fit_is_told_with_the_flags_to_give(
    words: list[str], said: tuple[str, ...], imported: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprints(Path("runs"))
    start = ["train", "--config", "runs/mine/config.yaml", "--init-from", "mine"]
    message = refusal(capsys, *start, *QUICK, *words)
    assert all(part in message for part in said), message
    assert fingerprints(Path("runs")) == before


@pytest.mark.requirement("import.fine-tuning")
def test_a_shorter_context_is_no_other_model_where_positions_are_rotary(imported: str) -> None:
    words = ["--config", "runs/mine/config.yaml", "--init-from", "mine", "--run-name", "short"]
    shorter = ["--model.context-length", "8", "--training.max-steps", "1"]
    assert main(["train", *words, *QUICK, *shorter]) == 0


def test_an_imported_run_is_not_resumed(imported: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "resume", "mine")
    assert "was imported, and has nothing to resume" in message
    assert "tiny train --config runs/mine/config.yaml --init-from runs/mine" in message
    assert "nothing to replay" in refusal(capsys, "runs", "verify", "mine", "--from", "1")


def test_without_transformers_it_is_said_that_nothing_was_compared(
    theirs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring_in, "can_compare", lambda: False)
    assert main(["import", str(theirs), "--run-name", "mine"]) == 0
    out = capsys.readouterr().out
    assert "were not compared with transformers'" in out and INSTALL in out


def test_where_fine_tuning_takes_much_memory_it_is_said_what_takes_less(
    theirs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_model, "_MUCH", 1)
    assert main(["import", str(theirs), "--run-name", "mine"]) == 0
    assert "--training.accumulation-steps 16 there" in capsys.readouterr().out


def test_a_name_is_made_where_none_is_given(theirs: Path) -> None:
    assert main(["import", str(theirs), "--context-length", "8"]) == 0
    (run,) = Path("runs").iterdir()
    assert open_checkpoint(run)[1].config.model.context_length == 8


def test_what_cannot_be_brought_in_leaves_nothing(
    theirs: Path, working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign_folder(working_folder / "other", "llama")
    edit_config(working_folder / "other", rope_scaling={"rope_type": "yarn", "factor": 4.0})
    before = fingerprints(working_folder)
    message = refusal(capsys, "import", "other", "--run-name", "mine", begun=True)
    assert "rope_scaling is {'rope_type': 'yarn', 'factor': 4.0}" in message
    assert "nowhere is not there" in refusal(capsys, "import", "nowhere")
    assert "run_name is '../x'" in refusal(capsys, "import", "other", "--run-name", "../x")
    assert "FOLDER" in parser_refusal(capsys, "import")
    assert fingerprints(working_folder) == before


def test_the_help_names_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "FOLDER" in shown and "--context-length" in shown and "--run-name" in shown
