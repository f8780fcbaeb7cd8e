"""Exports of int8 weights: they hold our integers, compute our logits, or are not kept."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper
from tests.interop.helpers import GPT2, LLAMA, QWEN3, WINDOW, exportable
from tests.model.architectures import largest_difference, token_ids

from tiny_transformer.interop import q8_0
from tiny_transformer.interop.base import ExportError, Format, Subject
from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.formats import FORMATS, quantized_for
from tiny_transformer.interop.gguf_file import load_gguf
from tiny_transformer.interop.q8_0 import quantize_q8_0
from tiny_transformer.interop.safetensors_folder import load_safetensors
from tiny_transformer.model.quantized import Int8Linear, is_quantized, quantize_int8
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import CheckpointError, ConfigError
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.training.weights import weights_hash

pytestmark = pytest.mark.requirement("quantize.export")
SIZES = {"d_ff": 64}  # whole blocks of Q8_0
CARRIERS = [name for name, one in FORMATS.items() if one.quantize]
slowly = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("torch-export", "onnx") else name
    for name in CARRIERS
]


def export_int8(folder: Path, format_name: str, **settings: Any) -> tuple[Transformer, Path]:
    """Export a tiny model as int8; return the quantised model and the folder."""
    model = exportable(**SIZES | settings)
    quantized = quantized_for(model, FORMATS[format_name], "int8")
    export_model(quantized, CharTokenizer(), format_name, folder / "out")
    return quantized, folder / "out"


def with_one_integer_changed(model: Transformer) -> Transformer:
    """Return a copy of which one int8 number is one larger or smaller."""
    other = copy.deepcopy(model)
    int8 = other.get_parameter("blocks.0.mlp.down_proj.weight_int8")
    int8[3, 5] += 1 if int8[3, 5] < 127 else -1
    return other


@pytest.mark.parametrize("format_name", slowly)
def test_one_changed_integer_is_refused_and_nothing_is_left(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = FORMATS[format_name]

    def write(subject: Subject, folder: Path) -> None:
        other = with_one_integer_changed(subject.model)
        honest.write(dataclasses.replace(subject, model=other), folder)

    dishonest: Format = dataclasses.replace(honest, write=write)
    monkeypatch.setitem(FORMATS, format_name, dishonest)
    with pytest.raises(ExportError, match=r"was not kept: .* first part at position 0 of row 0"):
        export_int8(tmp_path, format_name, **GPT2)
    assert list(tmp_path.glob("**/*out*")) == []


@pytest.mark.parametrize("settings", [GPT2, LLAMA, WINDOW], ids=["gpt2", "llama", "window"])
def test_safetensors_give_the_same_quantised_model_without_torchao(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized, folder = export_int8(tmp_path, "safetensors", **settings)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    back = load_safetensors(folder)
    assert weights_hash(back) == weights_hash(quantized) and not back.training
    assert torch.equal(back(token_ids()), quantized(token_ids()))
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    name = "blocks.0.attention.q_proj.weight"
    assert stored[f"{name}_int8"].dtype == torch.int8 and name not in stored
    assert stored[f"{name}_scale"].shape == (32, 1)
    product = stored[f"{name}_int8"] * stored[f"{name}_scale"]
    assert torch.equal(product, quantized.get_submodule("blocks.0.attention.q_proj").weight)  # pyright: ignore[reportArgumentType]
    assert ("lm_head.weight_int8" in stored) != quantized.config.tie_weights
    assert json.loads((folder / "config.json").read_text())["quantization"] == "int8"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s, n: s.pop(f"{n}_scale"), "no blocks.0.mlp.up_proj.weight_scale"),
        (lambda s, n: s.update({f"{n}_int8": s[f"{n}_int8"].float()}), "it is torch.float32"),
        (lambda s, n: s.update({f"{n}_scale": s[f"{n}_scale"][:5]}), r"scales of shape \(5, 1\)"),
        (lambda s, n: s.update({f"{n}_scale": -s[f"{n}_scale"]}), "is not of numbers from zero"),
        (lambda s, n: s[f"{n}_scale"].fill_(float("nan")), "is not of numbers from zero on"),
        (lambda s, n: s.update({f"{n}_int8": s[f"{n}_int8"].T.contiguous()}), r"of shape \(64, 32"),
        (lambda s, n: s.pop(f"{n}_int8"), "does not fit config.json"),
        (lambda s, n: s.update({"x_scale": torch.ones(3)}), "does not fit config.json"),
        (lambda s, n: s.update({"weight_int8": s.pop(f"{n}_int8")}), "lacks|does not fit"),
    ],
)
def test_a_damaged_file_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    file = export_int8(tmp_path, "safetensors")[1] / "model.safetensors"
    stored = safetensors.torch.load_file(file)
    change(stored, "blocks.0.mlp.up_proj.weight")
    safetensors.torch.save_file(stored, file)
    with pytest.raises((ExportError, CheckpointError), match=said):
        load_safetensors(file.parent)


@pytest.mark.parametrize(
    "format_name", [pytest.param("torch-export", marks=pytest.mark.slow), "torchscript"]
)
def test_a_program_needs_neither_torchao_nor_this_package(format_name: str, tmp_path: Path) -> None:
    quantized, folder = export_int8(tmp_path, format_name, **GPT2)
    with torch.no_grad():
        torch.save(quantized(token_ids()), tmp_path / "logits.pt")
    load = "torch.export.load(f).module()" if format_name == "torch-export" else "torch.jit.load(f)"
    (file,) = (folder / name for name in ("model.pt2", "model.ts") if (folder / name).exists())
    code = f"""
import sys, torch
sys.modules["tiny_transformer"] = sys.modules["torchao"] = None
f = {str(file)!r}
program = {load}
kinds = [t.dtype for t in program.state_dict().values()]
assert torch.int8 in kinds, kinds
expected = torch.load({str(tmp_path / "logits.pt")!r}, weights_only=True)
ids = torch.tensor({token_ids().tolist()})
with torch.no_grad():
    assert (program(ids) - expected).abs().max() < 1e-5
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [GPT2, QWEN3, WINDOW], ids=["gpt2", "qwen3", "window"])
def test_onnx_holds_the_integers_and_dequantises_them(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    quantized, folder = export_int8(tmp_path, "onnx", **settings)
    ours = {
        int8.numpy().tobytes()
        for name, int8 in quantized.named_parameters()
        if name.endswith("_int8")
    }
    for file in ("model.onnx", "step.onnx"):
        onnx.checker.check_model(folder / file, full_check=True)
        graph = onnx.load(folder / file).graph
        theirs = {
            numpy_helper.to_array(one).tobytes()
            for one in graph.initializer
            if one.data_type == onnx.TensorProto.INT8
        }
        assert ours <= theirs
        linear = sum(isinstance(module, Int8Linear) for module in quantized.modules())
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("DequantizeLinear") == linear
        largest = max(
            numpy_helper.to_array(one).size
            for one in graph.initializer
            if one.data_type == onnx.TensorProto.FLOAT
        )
        window = quantized.config.token_window  # whose table stays float
        assert largest <= max(32 * 16, (window - 1) * 99 * 32)


BLOCKS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 3).map(lambda n: 32 * n)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


def reference_q8_0(weight: np.ndarray) -> np.ndarray:
    """Return what Q8_0 makes of a weight, by its description: d in 16 bits, q the nearest."""
    blocks = weight.reshape(len(weight), -1, 32).astype(np.float64)
    d = np.abs(blocks).max(axis=2, keepdims=True) / 127
    q = np.rint(np.divide(blocks, d, out=np.zeros(blocks.shape), where=d > 0))
    return (q * d.astype(np.float16).astype(np.float64)).reshape(weight.shape)


@given(BLOCKS)
@settings(max_examples=60, deadline=None)
def test_q8_0_is_the_rounding_of_its_description(weight: np.ndarray) -> None:
    int8, scale = q8_0._by_gguf(torch.from_numpy(weight))
    floats = (int8.unflatten(1, (-1, 32)) * scale[..., None]).flatten(1).double().numpy()
    step = scale.repeat_interleave(32, dim=1).double().numpy()
    allowed = step * q8_0._LARGEST_ERROR + q8_0._FLOOR
    assert (np.abs(floats - weight) <= allowed).all()
    expected = reference_q8_0(weight)
    off = np.abs(floats - expected) > 1e-6 * np.abs(expected)
    assert (np.abs(floats - expected) <= step * 1.0001)[off].all()  # a tie, to the other side
    assert off.mean() <= 0.5


@pytest.mark.parametrize("settings", [GPT2, LLAMA, QWEN3], ids=["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("width", [32, 64])
def test_gguf_holds_blocks_that_the_gguf_package_reads(
    settings: dict[str, Any], width: int, tmp_path: Path
) -> None:
    quantized, folder = export_int8(tmp_path, "gguf", **settings, d_model=width)
    back = load_gguf(folder / "model.gguf")
    assert not is_quantized(back)
    for name, weight in back.named_parameters():
        holder, _, leaf = name.rpartition(".")
        assert torch.equal(getattr(quantized.get_submodule(holder), leaf), weight), name
    with torch.no_grad():
        assert largest_difference(back(token_ids()), quantized(token_ids())) < 1e-5
    reader = gguf.GGUFReader(folder / "model.gguf")
    kinds = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    matrices = {name for name in kinds if name.endswith("weight") and "norm" not in name}
    for name, kind in kinds.items():
        expected = "Q8_0" if name in matrices - {"position_embd.weight"} else "F32"
        assert kind == gguf.GGMLQuantizationType[expected], name
    field = reader.get_field("general.file_type")
    assert field is not None and field.contents() == gguf.LlamaFileType.MOSTLY_Q8_0


def test_q8_0_refuses_a_width_that_blocks_do_not_fill(tmp_path: Path) -> None:
    for choice, said in (
        ({"d_model": 48, "n_heads": 4}, "model.d_model is 48, which is not a multiple of 32"),
        ({"d_ff": 40}, "model.d_ff is 40, which"),
        ({"d_model": 24, "d_ff": 8}, "model.d_model is 24 and model.d_ff is 8"),
    ):
        with pytest.raises(ExportError) as refused:
            quantized_for(exportable(**GPT2 | SIZES | choice), FORMATS["gguf"], "int8")
        assert said in str(refused.value)
        others = [name for name in CARRIERS if name != "gguf"]
        assert ", ".join(others) in str(refused.value)


def test_an_int8_of_another_rule_is_not_written_as_q8_0(tmp_path: Path) -> None:
    model = quantize_int8(exportable(**GPT2 | SIZES, d_model=64))
    with pytest.raises(ExportError, match=r"keeps int8 as Q8_0, and embeddings.token.weight was"):
        export_model(model, CharTokenizer(), "gguf", tmp_path / "out")
    assert list(tmp_path.glob("**/*out*")) == []


def test_a_scale_beyond_sixteen_bits_is_refused() -> None:
    model = exportable(**GPT2 | SIZES)
    with torch.no_grad():
        model.get_parameter("blocks.0.mlp.up_proj.weight")[0, 0] = 1e20
    with pytest.raises(ConfigError, match=r"blocks.0.mlp.up_proj.weight was rounded by"):
        quantize_q8_0(model)


@pytest.mark.requirement("quantize.refused")
def test_a_format_of_floats_alone_names_those_that_carry_int8(tmp_path: Path) -> None:
    assert CARRIERS == ["safetensors", "torch-export", "torchscript", "onnx", "gguf"]
    said = r"huggingface carries float32 weights alone. Formats that carry int8: safetensors, torch"
    with pytest.raises(ExportError, match=said):
        quantized_for(exportable(**GPT2), FORMATS["huggingface"], "int8")
    with pytest.raises(ExportError, match=said):
        export_model(
            quantize_int8(exportable(**GPT2)), CharTokenizer(), "huggingface", tmp_path / "out"
        )
    with pytest.raises(ConfigError, match="'int4' is not a quantisation"):
        quantized_for(exportable(**GPT2), FORMATS["huggingface"], "int4")
    with pytest.raises(ExportError, match="position is 'rotary'"):
        quantized_for(exportable(**WINDOW), FORMATS["gguf"], "int8")


def test_the_record_holds_what_it_is_told(tmp_path: Path) -> None:
    about = {"quantization": {"name": "int8", "loss_increase": 0.25}}
    export_model(exportable(), CharTokenizer(), "safetensors", tmp_path / "out", about=about)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["quantization"] == about["quantization"] and record["format"] == "safetensors"


def round_activations(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """Round what goes into a product to Q8_0, as llama.cpp does to multiply integers."""
    blocks = inputs[0].unflatten(-1, (-1, 32))
    d = (blocks.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-30)
    return ((blocks / d).round() * d.half().float()).flatten(-2)


@pytest.mark.parametrize("choice", [GPT2, LLAMA, QWEN3], ids=["gpt2", "llama", "qwen3"])
def test_llama_cpp_computes_the_quantised_model(choice: dict[str, Any], tmp_path: Path) -> None:
    """It rounds activations to 8 bits as well; with those rounded too, its logits are ours, but
    for steps at which an activation lies between two integers and falls to the other side."""
    pytest.importorskip("xllamacpp")
    from tests.interop.test_gguf_file import CONTEXT, PROMPT, complete, log_probabilities, start

    quantized, folder = export_int8(tmp_path, "gguf", **choice, context_length=CONTEXT)
    rounding = copy.deepcopy(quantized)
    for module in rounding.modules():
        if isinstance(module, Int8Linear):
            module.register_forward_pre_hook(round_activations)
    seen = CharTokenizer().encode(PROMPT).tolist()
    chosen, likeliest, _ = complete(start(folder / "model.gguf"), PROMPT, CONTEXT - len(seen))
    off: dict[str, list[float]] = {"as it is": [], "activations rounded": []}
    for token, rated in zip(chosen, likeliest, strict=True):
        for name, model in zip(off, (quantized, rounding), strict=True):
            ours = log_probabilities(model, seen)
            off[name].append(max(abs(value - ours[index]).item() for index, value in rated.items()))
        seen.append(token)
    print({name: (min(steps), max(steps)) for name, steps in off.items()})
    assert len(chosen) > 20 and max(off["as it is"]) < 0.5
    assert min(off["activations rounded"]) < 1e-4 and max(off["activations rounded"]) < 0.3
