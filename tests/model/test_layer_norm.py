"""The norms: the formula, the place of eps, and both backends."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from tests.model.architectures import largest_difference, tiny_config

from tiny_transformer.model.layer_norm import LayerNorm, RMSNorm
from tiny_transformer.model.transformer import Transformer

pytestmark = pytest.mark.requirement("model.norms")
both_backends = pytest.mark.parametrize("explicit", [False, True], ids=["fused", "explicit"])

X = [[1.0, 2.0, 4.0, 9.0], [0.01, -0.01, 0.02, 0.0]]
WEIGHT, BIAS, EPS = [1.5, -2.0, 0.5, 1.0], [0.1, 0.2, 0.3, 0.4], 1e-3


def layer_norm_by_hand(row: list[float]) -> list[float]:
    mean = sum(row) / 4
    variance = sum((x - mean) ** 2 for x in row) / 4
    return [
        (x - mean) / math.sqrt(variance + EPS) * w + b
        for x, w, b in zip(row, WEIGHT, BIAS, strict=True)
    ]


def rms_norm_by_hand(row: list[float]) -> list[float]:
    root = math.sqrt(sum(x * x for x in row) / 4 + EPS)
    return [x / root * w for x, w in zip(row, WEIGHT, strict=True)]


@both_backends
@pytest.mark.parametrize(
    ("kind", "by_hand"), [(LayerNorm, layer_norm_by_hand), (RMSNorm, rms_norm_by_hand)]
)
def test_a_norm_computes_its_formula_by_hand(kind, by_hand, explicit: bool) -> None:
    norm = kind(4, eps=EPS, bias=True, explicit=explicit).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(WEIGHT))
        if kind is LayerNorm:
            norm.bias.copy_(torch.tensor(BIAS))
    expected = torch.tensor([by_hand(row) for row in X], dtype=torch.float64)
    assert largest_difference(norm(torch.tensor(X, dtype=torch.float64)), expected) < 1e-6


@both_backends
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_a_fresh_norm_gives_every_token_unit_size_at_any_scale(kind, explicit: bool) -> None:
    norm = kind(64, explicit=explicit)
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 1e6):
        y = norm(x * scale)
        assert largest_difference(y.square().mean(-1), torch.ones(3, 5)) < 1e-3
    assert largest_difference(norm(x * 1e3), norm(x * 1e6)) < 1e-4


@both_backends
def test_layer_norm_ignores_a_shift_and_rms_norm_does_not(explicit: bool) -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    layer_norm, rms_norm = LayerNorm(64, explicit=explicit), RMSNorm(64, explicit=explicit)
    assert largest_difference(layer_norm(x + 3), layer_norm(x)) < 1e-5
    assert largest_difference(rms_norm(x + 3), rms_norm(x)) > 0.1


@both_backends
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_a_vector_of_zeros_stays_finite_forwards_and_backwards(kind, explicit: bool) -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    y = kind(8, explicit=explicit)(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 8))
    assert x.grad is not None
    assert x.grad.isfinite().all()


@both_backends
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(kind, dtype: torch.dtype, explicit: bool) -> None:
    norm = kind(8, explicit=explicit).to(dtype)
    assert norm(torch.ones(2, 8, dtype=dtype)).dtype == dtype


@both_backends
def test_rms_norm_keeps_the_dtype_of_half_precision_heads_beside_float32_weights(
    explicit: bool,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # mixed dtypes would leave the fused path, with a warning
        y = RMSNorm(8, explicit=explicit)(torch.ones(2, 8, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_eps_is_1e_5_by_default(kind) -> None:
    assert kind(4).eps == 1e-5


@pytest.mark.requirement("model.bias")
def test_only_layer_norm_can_have_a_bias() -> None:
    def names(norm: torch.nn.Module) -> set[str]:
        return {name for name, _ in norm.named_parameters()}

    assert names(LayerNorm(4)) == {"weight", "bias"}
    assert names(LayerNorm(4, bias=False)) == {"weight"}
    assert names(RMSNorm(4, bias=True)) == {"weight"}


@pytest.mark.parametrize(("name", "kind"), [("layer_norm", LayerNorm), ("rms_norm", RMSNorm)])
@pytest.mark.parametrize("backend", ["fused", "explicit"])
def test_the_config_chooses_norm_eps_and_backend_everywhere(name: str, kind, backend: str) -> None:
    model = Transformer(tiny_config(norm=name, norm_eps=0.125, backend=backend, qk_norm=True))
    norms = [module for module in model.modules() if isinstance(module, LayerNorm | RMSNorm)]
    assert len(norms) == 5 + 4  # queries and keys are normed in two layers, always by RMSNorm
    assert [type(norm) for norm in norms].count(kind) >= 5
    assert all(norm.eps == 0.125 for norm in norms)
    assert all(norm.explicit == (backend == "explicit") for norm in norms)
