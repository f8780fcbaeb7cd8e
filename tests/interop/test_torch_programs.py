"""torch.export and TorchScript: any architecture, batch and length, without our code."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interop.helpers import WINDOW, exportable
from tests.model.architectures import CHOICES, CONTEXT, largest_difference, token_ids

import tiny_transformer
from tiny_transformer.interop.base import ExportError
from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.formats import FORMATS
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.text.tokenizer import CharTokenizer

FILES = {"torch-export": "model.pt2", "torchscript": "model.ts"}
both = pytest.mark.parametrize("format_name", list(FILES))


def load(format_name: str, folder: Path) -> Any:
    if format_name == "torch-export":
        return torch.export.load(folder / "model.pt2").module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(folder / "model.ts")


def check_sizes(model: Transformer, program: Any) -> None:
    """Compare at every length of the context, with batches of one, two and five."""
    for length in range(1, model.config.context_length + 1):
        for batch in (1, 2, 5):
            ids = token_ids(batch, length, seed=length)
            with torch.no_grad():
                assert largest_difference(program(ids), model(ids)) < 1e-5


@pytest.fixture(scope="module")
def defaults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of both exports of the default architecture."""
    folder = tmp_path_factory.mktemp("export")
    for format_name in FILES:
        export_model(exportable(), CharTokenizer(), format_name, folder / format_name)
    return {format_name: folder / format_name for format_name in FILES}


@pytest.mark.requirement("export.torch-export")
@pytest.mark.requirement("export.torchscript")
@both
def test_any_batch_and_any_length(format_name: str, defaults: dict[str, Path]) -> None:
    check_sizes(exportable(), load(format_name, defaults[format_name]))
    names = {path.name for path in defaults[format_name].iterdir()}
    assert names == {FILES[format_name], "config.json", "vocab.json", "export.json"}


@pytest.mark.slow
@pytest.mark.requirement("export.torch-export")
@pytest.mark.requirement("export.torchscript")
@both
def test_any_batch_and_any_length_with_a_token_window(format_name: str, tmp_path: Path) -> None:
    model = exportable(**WINDOW)
    export_model(model, CharTokenizer(), format_name, tmp_path / "out")
    check_sizes(model, load(format_name, tmp_path / "out"))


@both
def test_no_path_of_this_machine_is_written(format_name: str, defaults: dict[str, Path]) -> None:
    content = (defaults[format_name] / FILES[format_name]).read_bytes()
    assert str(Path(tiny_transformer.__file__).parent).encode() not in content


@pytest.mark.requirement("export.torchscript")
@pytest.mark.parametrize("choice", list(CHOICES))
def test_every_architecture_as_a_script(choice: str, tmp_path: Path) -> None:
    model = exportable(**CHOICES[choice])
    parity = export_model(model, CharTokenizer(), "torchscript", tmp_path / "out")
    assert parity.largest_difference < 1e-5


@pytest.mark.requirement("export.torch-export")
@pytest.mark.slow
@pytest.mark.parametrize(
    "choice", ["position-sinusoidal", "scaled-embeddings", "multi-query", "qk-norm", "qwen3"]
)
def test_other_architectures_as_a_program(choice: str, tmp_path: Path) -> None:
    """`tools/export_table.py` tries every choice."""
    model = exportable(**CHOICES[choice])
    parity = export_model(model, CharTokenizer(), "torch-export", tmp_path / "out")
    assert parity.largest_difference < 1e-5


@pytest.mark.slow
@pytest.mark.requirement("export.torch-export")
@pytest.mark.requirement("export.torchscript")
@both
@pytest.mark.parametrize("context", [1, 3])
def test_a_context_of_few_tokens(context: int, format_name: str, tmp_path: Path) -> None:
    model = exportable(context_length=context)
    export_model(model, CharTokenizer(), format_name, tmp_path / "out")
    check_sizes(model, load(format_name, tmp_path / "out"))


@pytest.mark.requirement("export.refused-architecture")
@pytest.mark.parametrize("format_name", ["torch-export", "onnx"])
def test_a_context_of_two_cannot_be_traced_and_is_refused(format_name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model.context_length is 2.*safetensors, torchscript"):
        export_model(exportable(context_length=2), CharTokenizer(), format_name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.requirement("export.torch-export")
def test_a_text_longer_than_the_context_is_refused_by_the_program(
    defaults: dict[str, Path],
) -> None:
    program = load("torch-export", defaults["torch-export"])
    with pytest.raises((RuntimeError, AssertionError)):
        program(token_ids(length=CONTEXT + 1))


@pytest.mark.slow
@pytest.mark.requirement("export.torch-export")
@pytest.mark.requirement("export.torchscript")
@both
def test_the_file_needs_none_of_our_code(format_name: str, defaults: dict[str, Path]) -> None:
    file = FILES[format_name]
    loads = {"model.pt2": "torch.export.load(p).module()", "model.ts": "torch.jit.load(p)"}[file]
    program = (
        f"import sys, torch; p = {str(defaults[format_name] / file)!r}; model = {loads}\n"
        "print(tuple(model(torch.tensor([[5, 6, 7]])).shape))\n"
        "print([name for name in sys.modules if 'tiny' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["(1, 3, 99)", "[]"]


@pytest.mark.requirement("export.torchscript")
def test_that_torchscript_is_deprecated_is_said() -> None:
    assert "deprecated" in " ".join(FORMATS["torchscript"].notes)
    page = Path(__file__).resolve().parents[2] / "docs" / "export.md"
    assert "TorchScript is deprecated" in page.read_text(encoding="utf-8")
