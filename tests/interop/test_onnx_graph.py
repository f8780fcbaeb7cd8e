"""ONNX: a graph over whole sequences and one that takes a step, both in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.interop.helpers import WINDOW, exportable
from tests.model.architectures import CHOICES, CONTEXT, token_ids

import tiny_transformer
from tiny_transformer.config import SamplingConfig
from tiny_transformer.interop.export import export_model
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.text.tokenizer import CharTokenizer

pytestmark = [pytest.mark.requirement("export.onnx"), pytest.mark.slow]


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=["default", "window"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Transformer, Path]:
    model = exportable(**(WINDOW if request.param == "window" else {}))
    folder = tmp_path_factory.mktemp("export") / "out"
    export_model(model, CharTokenizer(), "onnx", folder)
    return model, folder


def test_the_graphs_are_sound_and_name_their_sizes(exported: tuple[Transformer, Path]) -> None:
    model, folder = exported
    for file in ("model.onnx", "step.onnx"):
        onnx.checker.check_model(folder / file, full_check=True)
        here = str(Path(tiny_transformer.__file__).parent).encode()
        assert here not in (folder / file).read_bytes()  # no path of this machine
    shapes = {node.name: node.shape for node in session(folder / "model.onnx").get_inputs()}
    assert shapes == {"ids": ["batch", "length"]}
    step = session(folder / "step.onnx")
    shapes = {node.name: node.shape for node in step.get_inputs()}
    config = model.config
    past = [config.n_layers, "batch", config.kv_heads, "past", config.head_dim]
    window = {"earlier_ids": ["batch", 3]} if config.token_window > 1 else {}
    assert shapes == {"ids": ["batch", 1], "past_keys": past, "past_values": past, **window}
    assert [node.name for node in step.get_outputs()] == ["logits", "keys", "values"]


def test_any_batch_and_any_length(exported: tuple[Transformer, Path]) -> None:
    model, folder = exported
    run = session(folder / "model.onnx").run
    for length in range(1, CONTEXT + 1):
        for batch in (1, 2, 5):
            ids = token_ids(batch, length, seed=length)
            with torch.no_grad():
                expected = model(ids).numpy()
            np.testing.assert_allclose(run(None, {"ids": ids.numpy()})[0], expected, atol=2e-5)


def test_steps_write_the_text_that_we_write(exported: tuple[Transformer, Path]) -> None:
    """What the page says is enough to generate: only the page's names are used here."""
    model, folder = exported
    step, tokenizer = session(folder / "step.onnx"), CharTokenizer()
    prompt, config = "Now\n", model.config
    size = (config.n_layers, 1, config.kv_heads, 0, config.head_dim)
    keys = values = np.zeros(size, np.float32)
    seen = tokenizer.encode(prompt).astype(np.int64).tolist()
    for position in range(CONTEXT - 1):
        inputs = {"ids": np.array([[seen[position]]]), "past_keys": keys, "past_values": values}
        if config.token_window > 1:
            earlier = ([-1] * 3 + seen[:position])[-3:]
            inputs["earlier_ids"] = np.array([earlier])
        logits, keys, values = step.run(["logits", "keys", "values"], inputs)
        assert keys.shape == values.shape == (*size[:3], position + 1, size[4])
        if position + 1 == len(seen):
            seen.append(int(logits[0, 2:].argmax()) + 2)
    settings = SamplingConfig(prompt=prompt, max_new_tokens=CONTEXT - len(prompt), temperature=0.0)
    assert tokenizer.decode(seen) == prompt + sample_text(model, tokenizer, settings)[0]


@pytest.mark.parametrize("context", [1, 3])
def test_a_context_of_few_tokens(context: int, tmp_path: Path) -> None:
    model = exportable(context_length=context)
    parity = export_model(model, CharTokenizer(), "onnx", tmp_path / "out")
    assert parity.largest_difference < 2e-5


@pytest.mark.parametrize("choice", ["position-sinusoidal", "multi-query", "qwen3"])
def test_other_architectures(choice: str, tmp_path: Path) -> None:
    """`tools/export_table.py` tries every choice."""
    parity = export_model(exportable(**CHOICES[choice]), CharTokenizer(), "onnx", tmp_path / "out")
    assert parity.largest_difference < 2e-5
