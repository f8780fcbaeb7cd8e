"""ONNX: a graph over whole sequences, and one that takes a step with a cache.

    model.onnx   ids (B, T)                                 -> logits (B, T, V)
    step.onnx    ids (B, 1), past_keys and past_values
                 (L, B, H_kv, P, D), and with a token
                 window earlier_ids (B, token_window - 1)   -> logits (B, V), keys, values

Int8 weights are initialisers, and DequantizeLinear turns them to floats.

Batch, length T and past P are free; P begins at 0, and ends below the context's length.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop.base import (
    CONFIG,
    Format,
    Logits,
    Subject,
    read_architecture,
    write_settings,
)
from tiny_transformer.interop.torch_export import any_size, check_context
from tiny_transformer.interop.traceable import NONE, OneStep, WholeSequence
from tiny_transformer.model.quantized import Int8Linear, quantize_int8
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.runtime.quiet import quiet

WHOLE, STEP = "model.onnx", "step.onnx"
_PAST = 3  # tokens before the one of the traced example


def _write(subject: Subject, folder: Path) -> None:
    model, config = _with_dequantized_linear(subject.model), subject.model.config
    check_context(config)
    ids, sizes = any_size(config)
    whole = _graph(WholeSequence(model), {"ids": ids}, {"ids": sizes}, ["logits"])
    files.write_bytes(folder / WHOLE, whole)
    example, step_sizes = _step_example(config)
    outputs = ["logits", "keys", "values"]
    files.write_bytes(folder / STEP, _graph(OneStep(model), example, step_sizes, outputs))
    write_settings(subject, folder)


class _DequantizedLinear(nn.Module):
    """A linear layer as ONNX says it: DequantizeLinear, then a product.

    What the layer computes itself, a cast of a constant, the exporter would compute at once, and
    store floats.
    """

    def __init__(self, linear: Int8Linear) -> None:
        super().__init__()
        self.weight_int8, self.weight_scale = linear.weight_int8, linear.weight_scale
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B N"]:
        """Multiply by the weight and add the bias."""
        weight = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.weight_int8, self.weight_scale.flatten()),
            {"axis": 0},
            dtype=torch.float32,
            shape=self.weight_int8.shape,
        )  # (N, K)
        return F.linear(x, weight, self.bias)


def _with_dequantized_linear(model: Transformer) -> Transformer:
    """Return a model whose int8 layers an exporter keeps as int8."""
    twin = copy.deepcopy(model)
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Int8Linear):
                setattr(parent, name, _DequantizedLinear(child))
    return twin


def _step_example(config: ModelConfig) -> tuple[dict[str, Tensor], dict[str, dict[int, Any]]]:
    batch, past = Dim("batch", min=1), min(_PAST, config.context_length - 1)
    size = (config.n_layers, 2, config.kv_heads, past, config.head_dim)
    sizes: dict[int, Any] = {1: batch}
    if past > 1:
        sizes[3] = Dim("past", min=0, max=config.context_length - 1)
    example = {
        "ids": torch.zeros(2, 1, dtype=torch.int64),
        "past_keys": torch.zeros(size),
        "past_values": torch.zeros(size),  # of its own: one tensor given twice becomes one input
    }
    shapes: dict[str, dict[int, Any]] = {"ids": {0: batch}, "past_keys": sizes}
    shapes["past_values"] = sizes
    if config.token_window > 1:
        example["earlier_ids"] = torch.zeros(2, config.token_window - 1, dtype=torch.int64)
        shapes["earlier_ids"] = {0: batch}
    return example, shapes


def _graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, Mapping[int, Any]],
    outputs: list[str],
) -> bytes:
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=dict(sizes),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    for nodes in (graph.graph.node, *(function.node for function in graph.functions)):
        for node in nodes:
            del node.metadata_props[:]  # where on this machine the code of each lies
    return graph.SerializeToString()


def _read(folder: Path) -> Mapping[str, Logits]:
    config = read_architecture(folder / CONFIG)
    whole, step = _session(folder / WHOLE), _session(folder / STEP)

    def logits(ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        return torch.from_numpy(whole.run(["logits"], {"ids": ids.numpy()})[0])

    def stepwise(ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        return torch.from_numpy(_stepwise(step, config, ids.numpy()))

    return {WHOLE: logits, STEP: stepwise}


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)


def _stepwise(step: Any, config: ModelConfig, ids: np.ndarray) -> np.ndarray:
    """Run `step.onnx` over ids `(B, T)`, a token at a time; return logits `(B, T, V)`."""
    B, T = ids.shape
    keys = values = np.zeros((config.n_layers, B, config.kv_heads, 0, config.head_dim), np.float32)
    n_earlier = config.token_window - 1
    seen = np.concatenate([np.full((B, n_earlier), NONE), ids], axis=1)  # (B, N + T)
    columns = []
    for t in range(T):
        inputs = {"ids": ids[:, t : t + 1], "past_keys": keys, "past_values": values}
        if n_earlier:
            inputs["earlier_ids"] = seen[:, t : t + n_earlier]
        logits, keys, values = step.run(["logits", "keys", "values"], inputs)
        columns.append(logits)
    return np.stack(columns, axis=1)


FORMAT = Format(
    "onnx",
    _write,
    _read,
    packages=("onnx", "onnxscript", "onnxruntime"),
    quantize=quantize_int8,
)
