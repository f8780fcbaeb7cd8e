"""Training compiled: the same losses, recorded, kept by resume, and refused in words."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.helpers import log_of, resumed, tiny_config, train, trainer

from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.tracking.run_log import metric_by_step
from tiny_transformer.training.weights import weights_hash

pytestmark = pytest.mark.requirement("training.compile")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Compile by tracing alone, which needs no compiler; return the models compiled."""
    compiled = []
    real = functools.partial(torch.compile, backend="aot_eager")

    def compile_and_tell(model: Any) -> Any:
        compiled.append(model)
        return real(model)

    monkeypatch.setattr(torch, "compile", compile_and_tell)
    return compiled


def losses(tmp_path: Path, **changes: Any) -> list[float]:
    _, result = train(tmp_path, **changes)
    return list(metric_by_step(log_of(result.folder), "train", "loss").values())


def test_a_compiled_model_learns_the_same(tmp_path: Path, traced: list[Any]) -> None:
    expected = losses(tmp_path / "a", model__dropout=0.0)
    assert traced == []
    found = losses(tmp_path / "b", model__dropout=0.0, training__compile=True)
    assert len(traced) == 1
    assert found == pytest.approx(expected, abs=1e-4)


def test_resume_compiles_too_and_ends_with_the_same_weights(
    tmp_path: Path, traced: list[Any]
) -> None:
    whole, _ = train(tmp_path / "a", training__compile=True)
    _, result = train(tmp_path / "b", training__compile=True, training__stop_at=3)
    continued = resumed(result.folder.path)
    continued.train()
    assert len(traced) == 3
    assert weights_hash(continued.model) == weights_hash(whole.model)


def test_a_compiled_batch_is_computed_whole(tmp_path: Path, traced: list[Any]) -> None:
    config = tiny_config(tmp_path, training__compile=True, model__context_length=256)
    assert trainer(config).state.n_shards == 1
    with pytest.raises(ConfigError, match=r"training\.compile is on"):
        trainer(tiny_config(tmp_path, training__compile=True, training__shards=2))


def test_what_cannot_be_compiled_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: Any) -> Any:
        return torch.compiler.disable(_no_compiler)

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler found.*--training.compile False"):
        train(tmp_path, training__compile=True)


def _no_compiler(ids: Any) -> Any:
    from torch._inductor.exc import InductorError

    raise InductorError(RuntimeError("no C++ compiler found"), None)
