"""Somebody's parts in the real model: which are taken, and that right ones change nothing."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.course.reference_parts import copy_reference, plant

from tiny_transformer.config import Config, ModelConfig, TrainingConfig
from tiny_transformer.config.loading import load_config
from tiny_transformer.course.answers import installed
from tiny_transformer.course.content import STUBS, CourseError, course_folder
from tiny_transformer.course.graft import FILES, WHOLE, require_some, workspace_parts
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.tracking.run_log import metric_by_step, read_log
from tiny_transformer.training.shards import count_shards
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.whole_model import WholeModel, build_model
from tiny_transformer.training.written_parts import WrittenParts, changed_parts, describe_parts

SMALL = ModelConfig(n_layers=2, d_model=16, n_heads=2, context_length=8, dropout=0.0)
MLP_CLASS = """
from torch import nn

class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.d_model, config.feed_forward_width)
        self.down_proj = nn.Linear(config.feed_forward_width, config.d_model)

    def forward(self, x):
        return self.down_proj(nn.functional.gelu(self.up_proj(x)))
"""


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path) -> Iterator[None]:
    """Let no test's files be another's `my_transformer`."""
    with installed(tmp_path):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a workspace in which every part is the reference's source."""
    return copy_reference(tmp_path / "workspace")


def loss_after_a_step(parts: Parts) -> tuple[float, float]:
    """Return the loss before and after one step of gradient descent."""
    model = build_model(SMALL, parts, seed=3)
    ids = torch.arange(18).reshape(2, 9)
    losses = []
    for _ in range(2):
        loss = compute_loss(model(ids[:, :-1]), ids[:, 1:])
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    return losses[0], losses[1]


@pytest.mark.requirement("course.graft-combinations")
def test_all_combinations_run_a_step_and_give_the_reference_s_loss(folder: Path) -> None:
    parts = workspace_parts(folder, SMALL)
    assert set(parts.taken) == set(FILES)
    assert {*vars(Parts()), WHOLE} == set(FILES)
    expected = loss_after_a_step(Parts.for_config(SMALL))
    for size in range(len(FILES) + 1):
        for names in itertools.combinations(FILES, size):
            chosen = {name: getattr(parts, name) for name in names}
            whole = chosen.pop(WHOLE, None)
            mixed = WrittenParts(**vars(Parts.for_config(SMALL, **chosen)), model=whole)
            assert loss_after_a_step(mixed) == expected, names


def small_run(tmp_path: Path, name: str, **model: object) -> Config:
    settings = {
        **{"data.corpus": "simple", "training.device": "cpu", "training.precision": "float32"},
        **{"training.max_steps": 4, "training.batch_size": 4, "training.eval_every": 0},
        **{"training.shards": 1, "sampling.max_new_tokens": 4, "optimizer.learning_rate": 0.01},
        **{"runs_dir": str(tmp_path / "runs"), "run_name": name},
    }
    config = load_config(None, settings)
    return dataclasses.replace(config, model=dataclasses.replace(SMALL, **model))


def losses(config: Config, parts: Parts | None) -> list[float]:
    folder = Trainer(config, parts=parts).train().folder
    return list(metric_by_step(read_log(folder.log), "train", "loss").values())


@pytest.mark.requirement("course.graft-losses")
def test_right_parts_train_to_the_reference_s_losses_bit_for_bit(
    folder: Path, tmp_path: Path
) -> None:
    config = small_run(tmp_path, "theirs")
    mine = losses(config, workspace_parts(folder, config.model))
    assert mine == losses(small_run(tmp_path, "reference"), None)
    assert len(mine) == 4


@pytest.mark.requirement("course.graft-losses")
def test_right_parts_in_another_order_of_operations_agree_to_1e_5(
    folder: Path, tmp_path: Path
) -> None:
    plant(
        folder,
        "attention.py",
        "(q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)",
        'torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5',
    )
    config = small_run(tmp_path, "theirs", backend="explicit")
    mine = losses(config, workspace_parts(folder, config.model, ["attention"]))
    wanted = losses(small_run(tmp_path, "reference", backend="explicit"), None)
    assert mine == pytest.approx(wanted, abs=1e-5)


@pytest.mark.requirement("course.graft")
def test_a_run_records_and_keeps_the_parts(folder: Path, tmp_path: Path) -> None:
    config = small_run(tmp_path, "theirs")
    parts = workspace_parts(folder, config.model, ["mlp", "norm"])
    run = Trainer(config, parts=parts).train().folder
    digest = hashlib.sha256((folder / "mlp.py").read_bytes()).hexdigest()
    recorded = read_log(run.log)[0]["parts"]
    assert recorded[0] == {"part": "mlp", "class": "MLP", "file": "mlp.py", "sha256": digest}
    assert [one["part"] for one in recorded] == ["mlp", "norm"]
    assert '"parts"' in (run.path / "environment.json").read_text()
    kept = {path.name: path.read_bytes() for path in (run.path / "parts").iterdir()}
    assert kept == {name: (folder / name).read_bytes() for name in ("mlp.py", "layer_norm.py")}
    assert "parts/mlp.py" in read_log(run.log)[0]["files"]
    again = workspace_parts(run.path / "parts", config.model)
    assert describe_parts(again) == recorded


def test_stubs_are_not_taken() -> None:
    parts = workspace_parts(course_folder() / STUBS, SMALL)
    assert parts.taken == {}
    with pytest.raises(CourseError, match="no part of the model that is written"):
        require_some(parts, "my_transformer")


STUB = "from torch import nn\n\nclass MLP(nn.Module):\n    def __init__(self, config):\n        {}\n\n    def forward(self, x):\n        {}\n"  # noqa: E501
RAISE = '"""Say what."""\n        raise NotImplementedError("mlp")'


@pytest.mark.parametrize(
    ("init", "forward", "taken", "note"),
    [
        (RAISE, RAISE, False, ""),
        ("super().__init__()", "return x", True, ""),
        ("super().__init__()", RAISE, False, "mlp: MLP.forward of mlp.py is not written yet."),
        ("raise NotImplementedError", "return x", False, "mlp: MLP.__init__ of mlp.py"),
        ("raise ValueError('no')", "return x", True, ""),
    ],
)
def test_a_class_is_taken_once_both_its_methods_are_written(
    tmp_path: Path, init: str, forward: str, taken: bool, note: str
) -> None:
    (tmp_path / "mlp.py").write_text(STUB.format(init, forward))
    parts = workspace_parts(tmp_path, SMALL)
    assert ("mlp" in parts.taken) == taken
    assert " ".join(parts.notes).startswith(note)
    assert bool(note) == bool(parts.notes)


SINGLE = (
    "from torch import nn\n\nclass SingleHeadAttention(nn.Module):\n"
    "    def __init__(self, config):\n        super().__init__()\n\n"
    "    def forward(self, x):\n        return x\n"
)


@pytest.mark.requirement("course.graft")
def test_a_single_head_serves_where_the_model_has_one(tmp_path: Path) -> None:
    (tmp_path / "attention.py").write_text(SINGLE)
    one = workspace_parts(tmp_path, dataclasses.replace(SMALL, n_heads=1))
    assert one.taken == {"attention": ("attention.py", "SingleHeadAttention")}
    two = workspace_parts(tmp_path, SMALL)
    assert two.taken == {}
    assert "--model.n-heads 1" in two.notes[0]
    with pytest.raises(CourseError, match=r"--model\.n-heads 1"):
        require_some(two, tmp_path)


def test_many_heads_are_preferred_to_one(folder: Path) -> None:
    with (folder / "attention.py").open("a") as file:
        file.write("\n" + SINGLE)
    parts = workspace_parts(folder, dataclasses.replace(SMALL, n_heads=1))
    assert parts.taken["attention"] == ("attention.py", "MultiHeadAttention")


@pytest.mark.parametrize(
    ("changes", "part", "note"),
    [
        ({"position": "rotary"}, "positional_embedding", "model.position is rotary"),
        ({"norm": "rms_norm"}, "norm", None),
    ],
)
def test_parts_that_the_config_has_no_use_for(
    folder: Path, changes: dict[str, str], part: str, note: str | None
) -> None:
    parts = workspace_parts(folder, dataclasses.replace(SMALL, **changes))
    assert (part in parts.taken) == (note is None)
    if note is None:
        assert parts.taken[part] == ("layer_norm.py", "RMSNorm")
    else:
        assert any(note in line for line in parts.notes)


def test_a_layer_norm_does_not_stand_for_an_rms_norm(tmp_path: Path) -> None:
    (tmp_path / "layer_norm.py").write_text("class LayerNorm:\n    pass\n")
    parts = workspace_parts(tmp_path, dataclasses.replace(SMALL, norm="rms_norm"))
    assert "--model.norm layer_norm" in parts.notes[0]
    with pytest.raises(CourseError, match="LayerNorm is not used"):
        workspace_parts(tmp_path, dataclasses.replace(SMALL, norm="rms_norm"), ["norm"])


def test_what_a_config_asks_for_must_be_declared(tmp_path: Path) -> None:
    (tmp_path / "attention.py").write_text(SINGLE.replace("SingleHead", "MultiHead"))
    with pytest.raises(ConfigError, match="rotary"):
        workspace_parts(tmp_path, dataclasses.replace(SMALL, position="rotary"))


def test_a_single_file_with_its_helpers(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("FACTOR = 4\n")
    (tmp_path / "unused.py").write_text("raise RuntimeError\n")
    (tmp_path / "mine.py").write_text("from .helpers import FACTOR\n" + MLP_CLASS)
    parts = workspace_parts(tmp_path / "mine.py", SMALL)
    assert parts.taken == {"mlp": ("mine.py", "MLP")}
    assert sorted(parts.sources) == ["helpers.py", "mine.py"]
    assert workspace_parts(tmp_path, SMALL).taken == parts.taken  # the only file that has one


def test_a_folder_above_the_workspace_will_do(tmp_path: Path) -> None:
    copy_reference(tmp_path / STUBS)
    assert set(workspace_parts(tmp_path, SMALL).taken) == set(FILES)


def test_the_reference_imported_is_not_a_part_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mlp.py").write_text("from tiny_transformer.model.mlp import MLP\n")
    parts = workspace_parts(tmp_path, SMALL)
    assert parts.taken == {}
    assert "the reference's, imported" in parts.notes[0]


@pytest.mark.parametrize(
    ("file", "text", "source", "only", "says"),
    [
        ("mlp.py", "", "nowhere", None, "tiny course init"),
        ("mlp.txt", "", "mlp.txt", None, "not a Python file"),
        ("mlp.py", "class MLP(:", "", None, "mlp.py cannot be imported: SyntaxError"),
        (
            "mlp.py",
            "import nowhere\nMLP = 1\n",
            "",
            None,
            "ModuleNotFoundError: .*line 1.*the other parts only",
        ),
        ("mlp.py", "raise SystemExit(3)\nMLP = 1\n", "", None, "SystemExit: 3"),
        ("mlp.py", MLP_CLASS, "", ["mlpp"], "'mlpp' is not a part .* 'mlp'"),
        ("mlp.py", MLP_CLASS, "", ["norm"], "part norm cannot be taken. No class LayerNorm"),
    ],
)
def test_what_cannot_be_taken_is_refused(
    tmp_path: Path, file: str, text: str, source: str, only: list[str] | None, says: str
) -> None:
    (tmp_path / file).write_text(text)
    (tmp_path / "other.py").write_text("")
    with pytest.raises(CourseError, match=says):
        workspace_parts(tmp_path / source, SMALL, only)


def test_a_broken_file_does_not_matter_where_it_is_not_asked_for(folder: Path) -> None:
    (folder / "attention.py").write_text("def f(:")
    assert set(workspace_parts(folder, SMALL, ["mlp"]).taken) == {"mlp"}


def test_a_block_that_takes_no_cache_makes_a_model_without_one(folder: Path) -> None:
    path = folder / "transformer_block.py"
    text = path.read_text()
    text = text.replace("cache: LayerCache | None = None", "").replace(
        "self.attention(y) if cache is None else self.attention(y, cache=cache)",
        "self.attention(y)",
    )
    path.write_text(text)
    parts = workspace_parts(folder, SMALL, ["block"])
    assert not Transformer(SMALL, parts).can_cache
    assert Transformer(SMALL, workspace_parts(folder, SMALL, ["attention"])).can_cache


ONE = {"part": "mlp", "class": "MLP", "file": "mlp.py", "sha256": "1"}


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        (None, [], []),
        ([ONE], [ONE], []),
        ("rubbish", [ONE], ["was the reference's and is MLP of mlp.py now"]),
        ([ONE], [], ["was MLP of mlp.py and is the reference's now"]),
        ([ONE], [{**ONE, "sha256": "2"}], ["its file mlp.py has changed"]),
        ([ONE], [{**ONE, "class": "Other"}], ["was MLP of mlp.py and is Other of mlp.py now"]),
        ([ONE, 3], [{**ONE, "file": "renamed.py"}], []),
    ],
)
def test_how_parts_have_changed_is_said(
    before: object, now: list[dict[str, str]], says: list[str]
) -> None:
    changes = changed_parts(before, now)
    assert len(changes) == len(says)
    assert all(text in change for text, change in zip(says, changes, strict=True))


def test_plain_parts_have_no_files_to_tell_of() -> None:
    assert describe_parts(Parts()) == describe_parts(None) == []
    assert not WrittenParts().taken


WHOLE_MODEL = """
import torch
from torch import nn
from tiny_transformer import Parts


class Transformer(nn.Module):
    def __init__(self, config, parts=None, *, seed=0):
        super().__init__()
        parts = parts or Parts.for_config(config)
        self.embeddings = parts.embeddings(config, parts)
        self.blocks = nn.ModuleList(parts.block(config, parts) for _ in range(config.n_layers))
        self.final_norm = parts.build_norm(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_weights:
            self.lm_head.weight = self.embeddings.token.weight

    def forward(self, ids, cache=None, *, last_only=False):
        assert not last_only and cache is None
        x = self.embeddings(ids)
        for block in self.blocks:
            x = block(x)
        x = nn.functional.dropout(x, 0.5 * (self.training and DROPS))
        return self.lm_head(self.final_norm(x))
"""


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Return a workspace in which a model is written and none of its parts."""
    path = tmp_path / "whole"
    path.mkdir()
    (path / "transformer.py").write_text("DROPS = False\n" + WHOLE_MODEL)
    return path


@pytest.mark.requirement("course.graft-whole")
def test_a_whole_model_of_ones_own_trains_to_the_reference_s_losses(
    whole: Path, tmp_path: Path
) -> None:
    config = small_run(tmp_path, "theirs", dropout=0.25)
    parts = workspace_parts(whole, config.model)
    assert parts.taken == {"model": ("transformer.py", "Transformer")}
    assert losses(config, parts) == losses(small_run(tmp_path, "reference", dropout=0.25), None)


@pytest.mark.requirement("course.graft-whole")
def test_a_whole_model_s_own_forward_pass_runs_in_its_mode(whole: Path) -> None:
    ids = torch.arange(12).reshape(2, 6)
    reference = Transformer(SMALL, seed=5).eval()
    model = build_model(SMALL, workspace_parts(whole, SMALL), seed=5)
    assert isinstance(model, WholeModel)
    assert not model.can_cache
    assert list(model.state_dict()) == list(reference.state_dict())
    assert model.n_parameters() == reference.n_parameters()
    assert torch.equal(model.eval()(ids), reference(ids))
    assert torch.equal(model(ids, last_only=True), reference(ids)[:, -1:])
    twin = copy.deepcopy(model)
    assert torch.equal(twin.double()(ids).float(), twin(ids).float())
    assert twin.written is not model.written
    assert torch.equal(model(ids), reference(ids))
    (whole / "transformer.py").write_text("DROPS = True\n" + WHOLE_MODEL)
    model = build_model(SMALL, workspace_parts(whole, SMALL), seed=5)
    assert not torch.equal(model.train()(ids), reference(ids))
    assert torch.equal(model.eval()(ids), reference(ids))


def test_the_parts_of_a_workspace_make_its_own_model(folder: Path) -> None:
    model = build_model(SMALL, workspace_parts(folder, SMALL))
    assert isinstance(model, WholeModel)
    kinds = {type(module).__module__ for module in [model.written, *model.modules()]}
    theirs = {kind for kind in kinds if kind.startswith(STUBS)}
    assert theirs == {f"{STUBS}.{file.removesuffix('.py')}" for file, _ in FILES.values()}


def test_shards_are_refused_to_a_whole_model_of_ones_own(whole: Path) -> None:
    model = build_model(SMALL, workspace_parts(whole, SMALL))
    settings = TrainingConfig(shards=2)
    with pytest.raises(ConfigError, match=r"part of its own, my_transformer\.transformer"):
        count_shards(settings, model, torch.device("cpu"), 8)
