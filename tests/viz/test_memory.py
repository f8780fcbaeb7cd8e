from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_transformer.config import ModelConfig, OptimizerConfig
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.device import Precision, autocast
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.viz.memory import (
    count_parameters,
    estimate_activations,
    estimate_memory,
    flops_per_token,
    format_bytes,
    format_count,
    measure_saved_bytes,
)

BASE = ModelConfig()


@st.composite
def architectures(draw: st.DrawFn) -> ModelConfig:
    """Small models over every choice that the config offers."""
    n_heads = draw(st.sampled_from([1, 2, 4]))
    return ModelConfig(
        n_layers=draw(st.integers(1, 3)),
        d_model=n_heads * draw(st.sampled_from([4, 6, 16])),
        n_heads=n_heads,
        n_kv_heads=draw(st.sampled_from([None, 1])),
        d_ff=draw(st.sampled_from([None, 24])),
        context_length=draw(st.sampled_from([4, 9])),
        vocab_size=draw(st.sampled_from([11, 99])),
        dropout=draw(st.sampled_from([0.0, 0.1])),
        activation=draw(st.sampled_from(["gelu", "gelu_tanh", "relu", "relu2", "swiglu"])),
        norm=draw(st.sampled_from(["layer_norm", "rms_norm"])),
        position=draw(st.sampled_from(["learned", "sinusoidal", "rotary", "none"])),
        tie_weights=draw(st.booleans()),
        token_window=draw(st.sampled_from([1, 3])),
        bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        backend=draw(st.sampled_from(["fused", "explicit"])),
    )


def _loss(model: Transformer, batch_size: int, precision: Precision = "float32") -> torch.Tensor:
    size = (batch_size, model.config.context_length)
    ids = torch.randint(model.config.vocab_size, size)
    targets = torch.randint(model.config.vocab_size, size)
    with autocast(torch.device("cpu"), precision):
        logits = model(ids)
    return compute_loss(logits, targets)


def _saved_bytes(config: ModelConfig, batch_size: int, precision: Precision = "float32") -> int:
    model = Transformer(config).train()
    tensors = [*model.parameters(), *model.buffers()]
    return measure_saved_bytes(lambda: _loss(model, batch_size, precision), tensors)


def _n_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.requirement("model.memory")
@given(architectures())
def test_every_component_has_the_parameters_of_the_real_model(config: ModelConfig) -> None:
    model = Transformer(config)
    counted = dict.fromkeys(
        ["token_embedding", "positions", "attention", "mlp", "norms", "output_head"], 0
    )
    for name, parameter in model.named_parameters():
        component = next(
            component
            for part, component in [
                ("norm", "norms"),
                ("embeddings.token", "token_embedding"),
                ("embeddings.earlier", "token_embedding"),
                ("embeddings.position", "positions"),
                ("attention", "attention"),
                ("mlp", "mlp"),
                ("lm_head", "output_head"),
            ]
            if part in name
        )
        counted[component] += parameter.numel()
    count = count_parameters(config)
    assert vars(count) == counted
    assert count.total == sum(p.numel() for p in model.parameters()) == model.n_parameters()


@pytest.mark.requirement("model.memory")
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("changes", [{}, {"activation": "swiglu", "tie_weights": False}])
def test_weights_gradients_and_state_are_those_of_real_tensors(name: Any, changes: Any) -> None:
    config = ModelConfig(n_layers=2, d_model=32, context_length=16, **changes)
    model = Transformer(config).train()
    optimizer = Optimizer(model, OptimizerConfig(name=name))
    _loss(model, 2).backward()
    optimizer.step()
    parameters = list(model.parameters())
    state = [tensor for tensor in optimizer.state_tensors().values() if tensor.ndim > 0]
    estimate = estimate_memory(config, batch_size=2, optimizer=name)
    assert estimate.weights == _n_bytes(list(parameters))
    assert estimate.gradients == _n_bytes([p.grad for p in parameters if p.grad is not None])
    assert estimate.optimizer == _n_bytes(state)


@pytest.mark.requirement("model.memory")
@pytest.mark.parametrize("n_kv_heads", [None, 2])
def test_generating_needs_weights_and_the_cache_alone(n_kv_heads: int | None) -> None:
    config = ModelConfig(n_kv_heads=n_kv_heads, context_length=32)
    cache = KVCache(config, 3)
    estimate = estimate_memory(config, batch_size=3, training=False)
    assert estimate.kv_cache == _n_bytes([cache.keys, cache.values])
    assert estimate.total == estimate.weights + estimate.kv_cache


@pytest.mark.requirement("model.memory")
@pytest.mark.parametrize("batch_size", [4, 5])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_of_the_base_model_at_several_batch_sizes(
    batch_size: int, dropout: float
) -> None:
    config = ModelConfig(dropout=dropout)
    estimate = estimate_activations(config, batch_size=batch_size).total
    assert estimate == pytest.approx(_saved_bytes(config, batch_size), rel=0.02)


@pytest.mark.requirement("model.memory")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.0},
        {"norm": "rms_norm"},
        {"norm": "rms_norm", "dropout": 0.0},
        {"activation": "swiglu", "dropout": 0.0},
        {"activation": "relu", "dropout": 0.0},
        {"position": "rotary", "dropout": 0.0},
        {"position": "rotary", "qk_norm": True, "n_kv_heads": 2},
        {"n_layers": 1, "tie_weights": False, "bias": False},
        {"vocab_size": 4096, "n_layers": 1, "dropout": 0.0},
        {"context_length": 64},
        {"backend": "explicit"},
        {"backend": "explicit", "dropout": 0.0},
        {"backend": "explicit", "norm": "rms_norm", "activation": "gelu_tanh"},
    ],
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()) or "base",
)
def test_activations_near_the_base_model_are_within_two_percent(changes: Any) -> None:
    config = ModelConfig(**changes)
    estimate = estimate_activations(config, batch_size=1).total
    assert estimate == pytest.approx(_saved_bytes(config, 1), rel=0.02)


@pytest.mark.requirement("model.memory")
@pytest.mark.parametrize("backend", ["fused", "explicit"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_under_bfloat16_are_within_two_percent(backend: Any, dropout: float) -> None:
    config = ModelConfig(n_layers=2, backend=backend, dropout=dropout, activation="swiglu")
    estimate = estimate_activations(config, batch_size=2, precision="bfloat16")
    assert estimate.total == pytest.approx(_saved_bytes(config, 2, "bfloat16"), rel=0.02)
    assert estimate.weight_copies == 2 * sum(
        p.numel()
        for n, p in Transformer(config).named_parameters()
        if p.ndim == 2 and "pos" not in n
    )


@pytest.mark.requirement("model.memory")
@settings(max_examples=40)
@given(architectures(), st.sampled_from([1, 3]))
def test_activations_of_any_small_model_are_within_fifteen_percent(
    config: ModelConfig, batch_size: int
) -> None:
    estimate = estimate_activations(config, batch_size=batch_size).total
    assert estimate == pytest.approx(_saved_bytes(config, batch_size), rel=0.15)


@pytest.mark.requirement("model.memory")
def test_activations_grow_with_the_micro_batch_alone() -> None:
    whole = estimate_memory(BASE, batch_size=16)
    parts = estimate_memory(BASE, batch_size=16, accumulation_steps=4)
    assert parts.activations == estimate_memory(BASE, batch_size=4).activations
    assert 4 * parts.activations == whole.activations
    assert (parts.weights, parts.gradients, parts.optimizer) == (
        whole.weights,
        whole.gradients,
        whole.optimizer,
    )
    assert whole.total == 4 * whole.weights + whole.activations


@pytest.mark.requirement("model.memory")
def test_a_measurement_counts_each_storage_once_and_leaves_parameters_out() -> None:
    weight = torch.ones(8, 8, requires_grad=True)
    x = torch.ones(4, 8)

    def forward() -> torch.Tensor:
        return ((x @ weight) * (x.view(4, 8) @ weight)).sum()

    # Saved: x (one storage, twice), and the two products (4 x 8 float32 each).
    assert measure_saved_bytes(forward, [weight]) == 3 * 4 * 8 * 4
    assert measure_saved_bytes(forward, []) == 3 * 4 * 8 * 4  # x needs no gradient
    assert measure_saved_bytes(lambda: weight.square().sum(), []) == 8 * 8 * 4


@pytest.mark.requirement("model.memory")
def test_operations_of_the_base_model() -> None:
    n_parameters = Transformer(BASE).n_parameters()
    assert flops_per_token(BASE) == 6 * n_parameters + 12 * 4 * 256 * 256
    assert format_count(flops_per_token(BASE)) == "22.6 M"


@pytest.mark.requirement("model.memory")
def test_operations_leave_out_a_table_that_is_only_looked_up() -> None:
    assert flops_per_token(ModelConfig(tie_weights=False)) == flops_per_token(BASE)


@pytest.mark.requirement("model.memory")
@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1.00 KiB"),
        (13 * 1024 * 1024 - 1, "13.0 MiB"),
        (200 << 30, "200 GiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_bytes_are_told_in_the_unit_that_suits_them(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text


@pytest.mark.requirement("model.memory")
def test_counts_are_told_in_thousands() -> None:
    assert [format_count(n) for n in (12, 1500, 3_250_432)] == ["12", "1.50 k", "3.25 M"]


@pytest.mark.requirement("model.memory")
@pytest.mark.parametrize(
    ("settings_", "named"),
    [
        ({"batch_size": 0}, "training.batch_size"),
        ({"batch_size": 4, "accumulation_steps": 3}, "must divide"),
        ({"batch_size": 4, "precision": "float16"}, "float32 or bfloat16"),
        ({"batch_size": 4, "optimizer": "sgd"}, "adamw or muon"),
    ],
)
def test_an_impossible_question_is_refused_with_the_setting(settings_: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        estimate_memory(BASE, **settings_)
