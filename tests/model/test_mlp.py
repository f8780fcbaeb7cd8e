"""The MLP: its activations, its gate, its biases."""

from __future__ import annotations

import math

import pytest
import torch
from tests.model.architectures import ACTIVATIONS, largest_difference, scramble, tiny_config

from tiny_transformer.model.mlp import MLP

pytestmark = pytest.mark.requirement("model.activations")


def by_hand(name: str, x: float) -> float:
    if name == "gelu":
        return x * 0.5 * math.erfc(-x / math.sqrt(2))
    if name == "gelu_tanh":
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "relu":
        return max(x, 0.0)
    if name == "relu2":
        return max(x, 0.0) ** 2
    return x / (1 + math.exp(-x))  # SiLU, inside SwiGLU


@pytest.mark.parametrize("backend", ["fused", "explicit"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_computes_its_formula(name: str, backend: str) -> None:
    values = [-30.0, -3.0, -1.0, -0.1, 0.0, 0.2, 1.0, 2.5, 30.0]
    activation = MLP(tiny_config(activation=name, backend=backend)).activation
    expected = torch.tensor([by_hand(name, x) for x in values], dtype=torch.float64)
    actual = activation(torch.tensor(values, dtype=torch.float64))
    assert largest_difference(actual, expected) < 1e-12


@pytest.mark.parametrize("backend", ["fused", "explicit"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_mlp_widens_bends_and_narrows(name: str, bias: bool, backend: str) -> None:
    config = tiny_config(activation=name, bias=bias, backend=backend)
    mlp = MLP(config).double()
    scramble(mlp)
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        layer = mlp.get_submodule(name)
        assert isinstance(layer, torch.nn.Linear)
        assert (layer.bias is not None) is bias
        y = torch.einsum("btc,dc->btd", x, layer.weight)
        return y if layer.bias is None else y + layer.bias

    def bend(x: torch.Tensor) -> torch.Tensor:
        flat = [by_hand(name, value) for value in x.flatten().tolist()]
        return torch.tensor(flat, dtype=torch.float64).view(x.shape)

    inner = linear("up_proj", x)
    inner = bend(linear("gate_proj", x)) * inner if name == "swiglu" else bend(inner)
    assert inner.shape == (2, 3, 48)
    assert largest_difference(mlp(x), linear("down_proj", inner)) < 1e-10


def test_only_swiglu_has_a_gate() -> None:
    gates = {name: MLP(tiny_config(activation=name)).gate_proj is not None for name in ACTIVATIONS}
    assert gates == {name: name == "swiglu" for name in ACTIVATIONS}


def test_the_mlp_treats_every_token_alone() -> None:
    mlp = MLP(tiny_config())
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([mlp(x[:, t : t + 1]) for t in range(5)], dim=1)
    assert largest_difference(mlp(x), alone) < 1e-6


def test_the_default_inner_width_is_four_times_the_stream() -> None:
    assert MLP(tiny_config(d_ff=None)).up_proj.weight.shape == (128, 32)
