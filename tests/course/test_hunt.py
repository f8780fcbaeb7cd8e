"""Bug hunts: each bug can be planted, is noticed, and can be mended; nothing else may change."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from tools.hunt_evidence.shows import SHOWS

from tiny_transformer.cli.main import main
from tiny_transformer.course import hunt as hunts
from tiny_transformer.course.answers import installed
from tiny_transformer.course.catalogue import Difficulty
from tiny_transformer.course.content import VARIABLE, CourseError
from tiny_transformer.course.grading import Grader
from tiny_transformer.course.hunt import EVIDENCE, FILES, Hunt, begin_hunt, find_hunt, load_hunts
from tiny_transformer.course.hunt_check import examine_hunt
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.course.workspace import init_workspace
from tiny_transformer.runtime.errors import ConfigError

NAMES = list(load_hunts())
SYMPTOMS = {
    "too-good": "a prediction does not depend on later tokens",
    "too-many-numbers": "its parameters have the reference's names, shapes and first values",
    "forgets-its-place": "it keeps what it has read, and predicts with it what it predicts without",
    "loses-letters": "in training it computes what the reference computes, dropout and gradients "
    "included",
    "never-twice-the-same": "evaluating twice gives the same numbers",
    "different-in-company": "a prediction does not depend on the other texts of a batch",
    "slower-and-slower": "it keeps what it has read, and predicts with it what it predicts without",
    "best-at-the-beginning": "a prediction does not depend on later tokens",
    "deeper-is-worse": "in evaluation it computes what the reference computes",
    "fine-with-one-layer": "its parameters have the reference's names, shapes and first values",
}
HALF_MENDED = {
    "too-good": "    return mask.tril(diagonal=n_keys - n_queries - 1)",
    "too-many-numbers": "            self.lm_head.weight.data = "
    'self.get_parameter("embeddings.token.weight").data\n',
    "forgets-its-place": "            x = x + self.position(ids.shape[1], min(offset, 1))",
    "loses-letters": "    logits, targets = logits[:, 1:], targets[:, 1:]\n"
    "    return F.cross_entropy(",
    "never-twice-the-same": "        dropout = 0.0\n        if",
    "different-in-company": "    variance = x.square().mean(dim=-1, keepdim=True)\n",
    "slower-and-slower": "        return True\n",
    "best-at-the-beginning": "        return self.o_proj(heads.permute(0, 2, 3, 1).flatten(-2))\n",
    "deeper-is-worse": "        x = x + y\n",
    "fine-with-one-layer": "    return std / math.sqrt(n_layers)\n",
}
"""What somebody might write instead of the bug, and is not right either."""


def ground(workspace: Path, name: str, **changes: tuple[str, str]) -> Path:
    """Begin a hunt, make changes to its files, and return its folder."""
    begin_hunt(find_hunt(name), workspace)
    folder = hunts.hunting_ground(find_hunt(name), workspace)
    for stem, (old, new) in changes.items():
        path = folder / f"{stem}.py"
        text = path.read_text()
        assert text.count(old) == 1, (stem, old)
        path.write_text(text.replace(old, new))
    return folder


def mended(hunt: Hunt) -> dict[str, tuple[str, str]]:
    return {hunt.file.removesuffix(".py"): (hunt.new, hunt.old)}


def examined(folder: Path, name: str) -> Verdict:
    with installed(folder):
        return examine_hunt(find_hunt(name), folder)


@functools.cache
def right_as_it_is() -> Verdict:
    """Examine the model without a bug, once for all hunts that are mended to it."""
    with tempfile.TemporaryDirectory() as temporary:
        for file, text in hunts.model_sources().items():
            (Path(temporary) / file).write_text(text)
        return examined(Path(temporary), NAMES[0])


@pytest.mark.requirement("course.hunt-kinds")
def test_there_are_ten_from_easy_to_very_hard() -> None:
    assert len(NAMES) >= 10
    assert set(SYMPTOMS) == set(HALF_MENDED) == set(NAMES)
    assert {find_hunt(name).difficulty for name in NAMES} == set(get_args(Difficulty))
    assert len({find_hunt(name).evidence for name in NAMES}) == len(NAMES)


@pytest.mark.requirement("course.hunt-evidence")
def test_every_kind_of_evidence_can_be_made() -> None:
    assert set(SHOWS) == set(EVIDENCE)
    assert {kind for name in NAMES for kind in find_hunt(name).evidence} == set(EVIDENCE)


@pytest.mark.requirement("course.hunt-planted")
@pytest.mark.parametrize("name", NAMES)
def test_a_bug_is_planted_exactly(name: str) -> None:
    hunt = find_hunt(name)
    right, wrong = hunts.model_sources(), hunt.sources()
    assert [file for file in FILES if right[file] != wrong[file]] == [hunt.file]
    assert wrong[hunt.file].replace(hunt.new, hunt.old) == right[hunt.file]
    assert all("tiny_transformer.model" not in text for text in wrong.values())
    assert all(len(hint) > 20 for hint in hunt.hints)


@pytest.mark.requirement("course.hunt-evidence")
@pytest.mark.parametrize("name", NAMES)
def test_a_bug_has_evidence_and_what_made_it(name: str) -> None:
    hunt = find_hunt(name)
    assert len(hunt.shown()) >= len(hunt.evidence)
    assert all(0 < path.stat().st_size < 200_000 for path in hunt.shown())
    made = (hunt.folder / hunts.MADE_WITH).read_text()
    assert f"tools/bug_hunts.py {name}" in made
    told = (
        hunt.story
        + hunt.title
        + "".join(path.read_text() for path in hunt.shown() if path.suffix == ".txt")
    )
    assert hunt.file not in told


@pytest.mark.requirement("course.hunt-check")
@pytest.mark.parametrize("name", NAMES)
def test_a_bug_is_noticed_and_its_mending_passes(name: str, tmp_path: Path) -> None:
    hunt = find_hunt(name)
    verdict = examined(ground(tmp_path / "with", name), name)
    assert verdict.status == "wrong"
    assert verdict.test == SYMPTOMS[name]
    assert hunt.file not in verdict.message
    assert "✗" in verdict.picture
    folder = ground(tmp_path / "without", name, **mended(hunt))
    assert {file: (folder / file).read_text() for file in FILES} == hunts.model_sources()
    assert right_as_it_is().passed, right_as_it_is().message
    assert right_as_it_is().n_passed == right_as_it_is().n_tests == 7


@pytest.mark.requirement("course.hunt-check")
@pytest.mark.parametrize("name", NAMES)
def test_a_half_mended_bug_does_not_pass(name: str, tmp_path: Path) -> None:
    hunt = find_hunt(name)
    change = {hunt.file.removesuffix(".py"): (hunt.new, HALF_MENDED[name])}
    assert examined(ground(tmp_path, name, **change), name).status == "wrong"


@pytest.mark.requirement("course.hunt-check")
@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"loss": ("reduction=reduction)", "reduction=reduction) * 2")}, "wrong", "loss is"),
        ({"mlp": ('"swiglu": F.silu', '"swiglu": F.gelu')}, "wrong", "activation swiglu"),
        ({"transformer": ("self.lm_head.weight = self.get_parameter(", "_ = (")}, "wrong",
         "It trains 7,520 numbers, and the reference 7,152"),
        ({"transformer_block": ("self.norm1 = parts.build_norm(config)\n        self.attention = "
                                "parts.attention(config)", "self.attention = "
                                "parts.attention(config)\n        self.norm1 = "
                                "parts.build_norm(config)")}, "wrong", "come in another order"),
        ({"initialization": ("STD = 0.02", "STD = 0.03")}, "wrong", "have other values"),
        ({"dropout": ("_LEVELS / (_LEVELS - zeroed)", "1.0")}, "wrong", "In training"),
        ({"layer_norm": ("self.eps = eps\n        self.explicit = explicit\n        self.weight = "
                         "nn.Parameter(torch.ones(dim))\n        self.bias", "self.eps = 2 * eps\n"
                         "        self.explicit = explicit\n        self.weight = "
                         "nn.Parameter(torch.ones(dim))\n        self.bias")},
         "wrong", "logits are not"),
        ({"mlp": ("inner = self.up_proj(x)", "inner = self.up(x)")}, "raised", "no attribute 'up'"),
        ({"mlp": ("import math\n", "import nowhere\n")}, "raised", "nowhere"),
        ({"mlp": ("import math\n", "import math\nimport tiny_transformer.model.mlp\n")},
         "not theirs", "tiny_transformer.model.mlp"),
    ],
)  # fmt: skip
def test_a_mended_bug_with_another_change_does_not_pass(
    changes: dict[str, tuple[str, str]], status: str, says: str, tmp_path: Path
) -> None:
    name = "too-good"
    verdict = examined(ground(tmp_path, name, **mended(find_hunt(name)), **changes), name)
    assert verdict.status == status
    assert says in verdict.message


def test_a_folder_without_the_model_is_told(tmp_path: Path) -> None:
    assert examined(tmp_path, "too-good").status == "missing"


@pytest.mark.requirement("course.hunt-check")
def test_what_ends_the_process_ends_a_child_alone(tmp_path: Path) -> None:
    name = "deeper-is-worse"
    folder = ground(tmp_path, name, **mended(find_hunt(name)))
    (folder / "mlp.py").write_text("import os\nprint('hello')\nos._exit(3)\n")
    with Grader(spare=True) as grader:
        report = grader.grade_hunt(folder, find_hunt(name))
    assert report.verdicts[0].status == "crashed"


MANIFEST = {
    **{"title": "A", "difficulty": "easy", "minutes": 1, "story": "S", "file": "mlp.py"},
    **{"old": "import math\n", "new": "import maths\n", "hints": ["a", "b", "c"]},
    **{"explanation": "E", "evidence": []},
}


@pytest.fixture
def other_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put another course in the place of the real one, with one hunt in it."""
    folder = tmp_path / "course" / "bug_hunts" / "made-up"
    folder.mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "course"))
    load_hunts.cache_clear()
    yield folder / "bug.yaml"
    load_hunts.cache_clear()


@pytest.mark.requirement("course.hunt-planted")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"old": "import maths\n", "new": "x"}, "stands 0 times in mlp.py"),
        ({"old": "Tensor", "new": "x"}, "times in mlp.py, and must stand there once"),
    ],
)
def test_a_bug_that_no_longer_fits_the_source_is_not_planted(
    other_course: Path, changes: dict[str, str], says: str, tmp_path: Path
) -> None:
    other_course.write_text(yaml.safe_dump({**MANIFEST, **changes}))
    with pytest.raises(CourseError, match=says):
        begin_hunt(find_hunt("made-up"), tmp_path / "workspace")
    assert not (tmp_path / "workspace" / "bug_hunts" / "made-up").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"file": "trainer.py"}, "not a file of the model"),
        ({"new": "import math\n"}, "the same text"),
        ({"evidence": ["loses"]}, "Did you mean 'losses'"),
        ({"difficulty": "mean"}, "difficulty"),
    ],
)
def test_a_damaged_manifest_is_refused(
    other_course: Path, changes: dict[str, object], says: str
) -> None:
    other_course.write_text(yaml.safe_dump({**MANIFEST, **changes}))
    with pytest.raises(ConfigError, match=says):
        load_hunts()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return init_workspace(tmp_path / "my_transformer").folder


@pytest.mark.requirement("course.bug-hunt")
@pytest.mark.requirement("course.hunt-check")
def test_a_hunt_from_its_beginning_to_its_end(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hunt = find_hunt("too-good")
    bug_hunt = functools.partial(_bug_hunt, capsys)
    assert "too-good" in bug_hunt(0)
    assert "losses.png" in bug_hunt(0, "too-good")
    folder = hunts.hunting_ground(hunt, workspace)
    assert {path.name for path in folder.iterdir()} >= {*FILES, "losses.png", "sample.txt"}
    assert "bug.yaml" not in {path.name for path in folder.iterdir()}
    (folder / "mlp.py").write_text((folder / "mlp.py").read_text() + "\n# mine\n")
    assert "nothing in it was changed" in bug_hunt(0, "too-good")
    assert (folder / "mlp.py").read_text().endswith("# mine\n")
    told = bug_hunt(1, "check", "too-good")
    assert "What does not hold: a prediction does not depend on later tokens." in told
    assert "Hint 1 of 3" in bug_hunt(0, "hint", "too-good")
    bug_hunt(0, "hint", "too-good")
    told = bug_hunt(0, "hint", "too-good")
    assert told.count("Hint ") == 3
    assert "That was the last" in bug_hunt(0, "hint", "too-good")
    assert "begun" in bug_hunt(0, "list")
    assert hunt.old.strip() in bug_hunt(0, "give-up", "too-good")
    assert "given up" in bug_hunt(0, "list")
    path = folder / hunt.file
    path.write_text(path.read_text().replace(hunt.new, hunt.old))
    assert "found and mended" in bug_hunt(0, "check", "too-good")
    assert "solved (given up before)" in bug_hunt(0, "list")
    assert hunts.read_record(workspace)["too-good"]["hints"] == 3


def _bug_hunt(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> str:
    assert main(["course", "bug-hunt", *words]) == status
    return capsys.readouterr().out


@pytest.mark.requirement("course.bug-hunt")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["too-god"], "Did you mean 'too-good'?"),
        (["chek", "too-good"], "Did you mean 'check'?"),
        (["check"], "Which hunt? tiny course bug-hunt check NAME. There are: "),
        (["check", "too-good"], "It is not begun yet: tiny course bug-hunt too-good"),
        (["hint", "too-god"], "Did you mean 'too-good'?"),
        (["too-good", "check"], "tiny course bug-hunt check too-good"),
    ],
)
def test_wrong_words_are_refused(
    workspace: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["course", "bug-hunt", *words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"too-good": 3}', '{"too-good": {"hints": "x"}}'])
def test_a_damaged_record_is_no_obstacle(
    workspace: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "bug_hunts").mkdir()
    (workspace / "bug_hunts" / "record.json").write_text(content)
    assert "Hint 1 of 3" in _bug_hunt(capsys, 0, "hint", "too-good")
    assert "too-good" in _bug_hunt(capsys, 0, "list")
