"""`tiny course compare` and `tiny course train`: checked first, and what a bug costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.cli.helpers import SMALL
from tests.course.reference_parts import copy_reference, plant

from tiny_transformer.cli import course_train
from tiny_transformer.cli.main import main
from tiny_transformer.config import ModelConfig
from tiny_transformer.config.loading import load_config
from tiny_transformer.course import part_checks
from tiny_transformer.course.catalogue import Catalogue, Exercise, Module
from tiny_transformer.course.cost import Cost, Curve, reads_ahead, train_both
from tiny_transformer.course.grading import Report
from tiny_transformer.course.graft import workspace_parts
from tiny_transformer.course.verdict import Status, Verdict
from tiny_transformer.course.workspace import init_workspace
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.tracking.run_log import metric_by_step, read_log

LEAK = ("attention.py", "causal = bool(whole and n_queries > 1)", "causal = False")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a workspace whose parts are the reference's source; no child process grades it."""
    monkeypatch.chdir(tmp_path)
    copy_reference(tmp_path / "my_transformer")
    monkeypatch.setattr(part_checks, "Grader", NoExercises)
    return init_workspace(tmp_path / "my_transformer").folder


class NoExercises:
    """Passes whatever it is given."""

    def __enter__(self) -> NoExercises:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def grade(self, folder: Path, exercises: tuple[Exercise, ...]) -> Report:
        return Report(tuple(Verdict(e.id, "passed", 1, 1) for e in exercises), "")


def train(*words: str) -> int:
    return main(["course", "train", *SMALL, *words])


@pytest.mark.requirement("course.train")
def test_right_parts_are_trained(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--only", "attention, mlp", "--run-name", "mine") == 0
    shown = capsys.readouterr()
    assert "✓ attention and mlp: equal to the reference, bit for bit" in shown.out
    assert "parts of your own: attention (attention.py), mlp (mlp.py)" in shown.err
    assert sorted(p.name for p in Path("runs/mine/parts").iterdir()) == ["attention.py", "mlp.py"]
    assert main(["train", "--config", "course", *SMALL, "--run-name", "reference"]) == 0
    mine, reference = (
        metric_by_step(read_log(Path(f"runs/{name}/log.jsonl")), "train", "loss")
        for name in ("mine", "reference")
    )
    assert list(mine.values()) == pytest.approx(list(reference.values()), abs=1e-5)


@pytest.mark.requirement("course.train")
def test_wrong_parts_are_refused_before_training(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(workspace, *LEAK)
    assert train("--only", "attention,mlp") == 2
    shown = capsys.readouterr()
    assert "✗ attention: Its numbers are not the reference's in evaluation." in shown.out
    assert "nothing was trained" in shown.err
    assert "--only mlp. Or see what the bug costs: --anyway" in shown.err
    assert not Path("runs").exists()


@pytest.mark.requirement("course.train-anyway")
def test_what_a_leak_costs(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(workspace, *LEAK)
    assert train("--only", "attention", "--run-name", "mine", "--anyway") == 0
    shown = capsys.readouterr().out
    assert "training loss" in shown
    assert "the reference writes" in shown
    assert "yours writes" in shown
    assert "reads ahead" in shown
    assert "too good" in shown or "such a loss is a bug" in shown
    figure = Path("runs/mine/cost.png")
    assert figure.read_bytes().startswith(b"\x89PNG")
    first, second = (
        metric_by_step(read_log(Path(f"runs/{name}/log.jsonl")), "train", "loss")
        for name in ("mine-reference", "mine")
    )
    assert len(first) == len(second) == 6
    assert first != second
    assert train("--only", "attention", "--run-name", "mine", "--anyway") == 2


@pytest.mark.requirement("course.train-anyway")
def test_what_not_a_number_costs(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(workspace, "mlp.py", "return self.down_proj(self.activation(inner))",
          "self.n = getattr(self, 'n', 0) + self.training\n"
          "            return self.down_proj(self.activation(inner)) / (self.n < 2)")  # fmt: skip
    assert train("--only", "mlp", "--run-name", "mine", "--anyway") == 0
    shown = capsys.readouterr().out
    assert "did not get to the end. Training diverged at step 2" in shown
    assert "the run ended before its sample" in shown


def curve(*losses: float, failed: str = "") -> Curve:
    steps = dict(enumerate(losses, start=1))
    return Curve(Path("run"), steps, {len(losses): losses[-1]}, "text", failed)


@pytest.mark.requirement("course.train-anyway")
@pytest.mark.parametrize(
    ("theirs", "ahead", "says"),
    [
        (curve(4, 3, 2.5), False, "It learns all the same, and ends 0.500 nats worse"),
        (curve(4, 4, 3.9), False, "It hardly learns, and ends 1.900 nats worse"),
        (curve(4, 3, 2.001), False, "the losses are the same"),
        (curve(4, 1, 0.1), True, "1.900 nats better than the reference's, and a loss that is too"),
        (curve(4, 3, 2.1), True, "The longer it trains, the better its loss will look"),
        (curve(4, 3, 1.5), False, "0.500 nats better, without reading ahead"),
        (curve(4, failed="It broke."), False, "It broke."),
    ],
)
def test_what_is_said_of_two_curves(theirs: Curve, ahead: bool, says: str) -> None:
    cost = Cost(curve(4, 3, 2), theirs, ahead, Path("cost.png"))
    assert says in cost.sentence()
    rows = cost.table()
    assert rows[-1][0] == "validation"
    assert rows[0] == ("step 1", "4.000", "4.000", "+0.000")
    assert (rows[-2][2] == "-") == (len(theirs.train) < 3)


def test_reading_ahead_is_seen_and_leaves_the_model_as_it_was(workspace: Path) -> None:
    config = ModelConfig(n_layers=1, d_model=16, n_heads=2, context_length=8)
    assert not reads_ahead(Transformer(config).train())
    plant(workspace, *LEAK)
    model = Transformer(config, workspace_parts(workspace, config)).train()
    assert reads_ahead(model)
    assert model.training


@pytest.mark.requirement("course.train")
@pytest.mark.parametrize("status", ["wrong", "crashed"])
def test_a_part_whose_exercise_fails_is_wrong(
    workspace: Path, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grade(self: object, folder: Path, exercises: tuple[Exercise, ...]) -> Report:
        return Report(tuple(Verdict(e.id, status) for e in exercises), "")

    monkeypatch.setattr(NoExercises, "grade", grade)
    exercise = Exercise("mlp", "t", "mlp.py", "MLP", "easy", 1, ("a", "b", "c"), "e", "s")
    other = dataclasses.replace(exercise, id="other", file="warm_up.py", function="f")
    catalogue = Catalogue((Module("00", "t", 1.0, (exercise, other)),))
    config = ModelConfig()
    parts = workspace_parts(workspace, config, ["mlp", "norm"])
    checked = part_checks.check_parts(parts, workspace, config, catalogue)
    assert checked.wrong == ("mlp",)
    assert [e.id for e, _ in checked.verdicts] == ["mlp"]
    assert bool(checked.comparisons) == (status == "wrong")  # what crashed there is not run here


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--parts", "x"], "--parts is tiny train's"),
        (["--only", "mpl"], "Did you mean 'mlp'?"),
        (["--workspace", "nowhere"], "nowhere is no workspace"),
        (["--anyway", "--init-from", "x", "--only", "attention"], "no --init-from"),
    ],
)
def test_wrong_flags_are_refused(
    workspace: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(workspace, *LEAK)
    assert train(*words) == 2
    assert says in capsys.readouterr().err


def test_without_flags_it_is_the_course_s_config(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(course_train, "load_config", lambda source: seen.append(source) or 1 / 0)
    for words, source in (([], "course"), (["--config", "tiny"], "tiny")):
        with pytest.raises(ZeroDivisionError):
            course_train.main(words)
        assert seen[-1] == source


@pytest.mark.requirement("course.compare")
def test_compare_names_what_differs(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["course", "compare", "mlp"]) == 0
    assert "✓ mlp: equal to the reference, bit for bit" in capsys.readouterr().out
    plant(workspace, "mlp.py", "self.activation(inner))\n", "inner)\n")
    assert main(["course", "compare", "mlp", "norm"]) == 1
    shown = capsys.readouterr().out
    assert "✗ mlp: Its numbers are not the reference's in evaluation." in shown
    assert "linear in blocks.0.mlp.up_proj, (B, T, F) = (2, 5, 96)" in shown
    assert "✓ norm" in shown
    path = str(workspace / "mlp.py")
    assert main(["course", "compare", "--folder", path, "--config", "base"]) == 1
    assert "Comparing mlp (mlp.py)" in capsys.readouterr().out


def test_compare_says_what_it_leaves_out(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = "class SingleHeadAttention:\n    def forward(self, x):\n        return x\n"
    (workspace / "attention.py").write_text(single)
    assert main(["course", "compare"]) == 0
    assert "Not taken: attention: SingleHeadAttention" in capsys.readouterr().out
    assert main(["course", "compare", "--heads", "1", "attention"]) == 1


def test_a_long_sample_is_shortened() -> None:
    assert course_train._shortened("a\nb") == "a\nb"
    assert course_train._shortened("a\n" * 20).splitlines()[-2:] == ["a", "(and 8 lines more)"]


@pytest.mark.requirement("course.train-anyway")
def test_both_runs_begin_alike_and_see_the_same_batches(workspace: Path) -> None:
    settings = {"training.max_steps": 3, "data.corpus": "simple", "sampling.max_new_tokens": 3}
    config = load_config("course", {**settings, "training.seed": 5, "model.d_model": 16})
    cost = train_both(config, workspace_parts(workspace, config.model, ["mlp"]))
    assert cost.theirs.train == cost.reference.train
    assert cost.theirs.sample == cost.reference.sample
    assert not cost.reads_ahead
    assert "the losses are the same" in cost.sentence()
