"""Attention: the formula, its two backends, its masks and its grouped heads."""

from __future__ import annotations

import math

import pytest
import torch
from tests.model.architectures import (
    ACTIVATIONS,
    NORMS,
    every_attention,
    largest_difference,
    tiny_config,
    tiny_model,
    token_ids,
)

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.attention import (
    MultiHeadAttention,
    causal_mask,
    explicit_attention,
    fused_attention,
)
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import forked_rng


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_causal_mask_lets_each_query_see_itself_and_the_past() -> None:
    assert causal_mask(3, 3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert causal_mask(2, 4).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert causal_mask(1, 3).int().tolist() == [[1, 1, 1]]


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[list, list]:
    """Attention of one head, (T, D) each, in plain Python numbers."""
    offset = k.shape[0] - q.shape[0]
    outputs, rows = [], []
    for t, query in enumerate(q.tolist()):
        seen = range(offset + t + 1)
        exponents = [
            math.exp(
                sum(a * b for a, b in zip(query, k[s].tolist(), strict=True)) / len(query) ** 0.5
            )
            for s in seen
        ]
        weights = [e / sum(exponents) for e in exponents]
        rows.append(weights + [0.0] * (k.shape[0] - len(weights)))
        outputs.append(
            [
                sum(w * v[s, d].item() for w, s in zip(weights, seen, strict=True))
                for d in range(v.shape[1])
            ]
        )
    return outputs, rows


@pytest.mark.parametrize(("n_queries", "n_keys"), [(5, 5), (3, 5), (1, 5), (1, 1)])
def test_both_forms_compute_the_formula_by_hand(n_queries: int, n_keys: int) -> None:
    q = draw(2, 3, n_queries, 4, seed=1, dtype=torch.float64)
    k, v = (draw(2, 3, n_keys, 4, seed=s, dtype=torch.float64) for s in (2, 3))
    output, weights = explicit_attention(q, k, v)
    fused = fused_attention(q, k, v)
    for b in range(2):
        for h in range(3):
            expected, rows = by_hand(q[b, h], k[b, h], v[b, h])
            expected = torch.tensor(expected, dtype=torch.float64)
            assert largest_difference(output[b, h], expected) < 1e-12
            assert largest_difference(fused[b, h], expected) < 1e-12
            assert largest_difference(weights[b, h], torch.tensor(rows).double()) < 1e-6


def test_weights_are_probabilities_over_the_past() -> None:
    q, k, v = (draw(2, 3, 6, 4, seed=s) for s in range(3))
    _, weights = explicit_attention(q, k, v)
    assert largest_difference(weights.sum(-1), torch.ones(2, 3, 6)) < 1e-6
    assert (weights.triu(diagonal=1) == 0).all()
    assert (weights.tril() > 0).sum() == 2 * 3 * 21


def loss_and_gradients(model: Transformer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ids = token_ids()
    logits = model(ids)
    compute_loss(logits, token_ids(seed=4)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), gradients


@pytest.mark.requirement("model.backends-agree")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-10)], ids=["f32", "f64"]
)
@pytest.mark.parametrize("norm", NORMS)
@every_attention
def test_the_backends_agree_forwards_and_backwards(
    attention: dict, norm: str, dtype: torch.dtype, tolerance: float
) -> None:
    for activation in ACTIVATIONS:
        config = tiny_config(**attention, norm=norm, activation=activation, n_layers=1)
        explicit_config = tiny_config(
            **attention, norm=norm, activation=activation, n_layers=1, backend="explicit"
        )
        logits, gradients = loss_and_gradients(tiny_model(config, dtype=dtype))
        others, other_gradients = loss_and_gradients(tiny_model(explicit_config, dtype=dtype))
        assert largest_difference(logits, others) < tolerance, activation
        assert gradients.keys() == other_gradients.keys()
        for name, gradient in gradients.items():
            difference = largest_difference(gradient, other_gradients[name])
            assert difference < tolerance * max(1.0, gradient.abs().max().item()), name


@pytest.mark.requirement("model.backends-agree")
@every_attention
def test_the_backends_agree_with_a_cache(attention: dict) -> None:
    ids, logits = token_ids(), []
    for backend in ("fused", "explicit"):
        config = tiny_config(**attention, backend=backend)
        model, cache = tiny_model(config), KVCache(config, 2)
        with torch.no_grad():
            pieces = [model(piece, cache) for piece in ids.split((5, 1, 4, 6), dim=1)]
        logits.append(torch.cat(pieces, dim=1))
    assert largest_difference(*logits) < 2e-5


@pytest.mark.requirement("model.backends-agree")
def test_a_backend_is_really_chosen_by_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny_transformer.model.attention as module

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the other backend ran")

    monkeypatch.setattr(module, "explicit_attention", forbidden)
    Transformer(tiny_config())(token_ids())
    monkeypatch.undo()
    monkeypatch.setattr(module, "fused_attention", forbidden)
    Transformer(tiny_config(backend="explicit"))(token_ids())


@every_attention
def test_forward_with_weights_gives_the_forward_and_its_weights(attention: dict) -> None:
    layer = MultiHeadAttention(tiny_config(**attention, dropout=0.5)).eval()
    x = draw(2, 7, 32)
    output, weights = layer.forward_with_weights(x)
    assert weights.shape == (2, 4, 7, 7)
    assert largest_difference(output, layer(x)) < 1e-6
    assert largest_difference(weights.sum(-1), torch.ones(2, 4, 7)) < 1e-6


@pytest.mark.requirement("model.grouped-heads")
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("position", ["none", "rotary"])
def test_grouped_heads_equal_full_heads_with_repeated_weights(kv_heads: int, position: str) -> None:
    grouped = MultiHeadAttention(tiny_config(n_kv_heads=kv_heads, position=position))
    full = MultiHeadAttention(tiny_config(position=position))
    assert grouped.k_proj.weight.shape == grouped.v_proj.weight.shape == (kv_heads * 8, 32)
    state = grouped.state_dict()
    for name in ("k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias"):
        heads = state[name].unflatten(0, (kv_heads, 8))
        state[name] = heads.repeat_interleave(4 // kv_heads, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    x = draw(2, 9, 32)
    assert largest_difference(grouped(x), full(x)) < 1e-6


@pytest.mark.requirement("model.qk-norm")
def test_qk_norm_makes_the_scale_of_queries_and_keys_irrelevant() -> None:
    for qk_norm, expected in ((True, True), (False, False)):
        layer = MultiHeadAttention(tiny_config(qk_norm=qk_norm, bias=False))
        x = draw(2, 9, 32)
        before = layer(x)
        with torch.no_grad():
            layer.q_proj.weight.mul_(50)
            layer.k_proj.weight.mul_(50)
        assert (largest_difference(layer(x), before) < 1e-3) is expected


@pytest.mark.requirement("model.qk-norm")
def test_qk_norm_has_one_weight_per_channel_of_a_head_and_uses_it() -> None:
    layer = MultiHeadAttention(tiny_config(qk_norm=True))
    names = {name: p.shape for name, p in layer.named_parameters() if "norm" in name}
    assert names == {"q_norm.weight": (8,), "k_norm.weight": (8,)}
    x = draw(2, 9, 32)
    for name in names:
        before = layer(x)
        with torch.no_grad():
            layer.get_parameter(name).mul_(3)
        assert largest_difference(layer(x), before) > 1e-4
    assert not [n for n, _ in MultiHeadAttention(tiny_config()).named_parameters() if "norm" in n]


@pytest.mark.parametrize("backend", ["fused", "explicit"])
def test_attention_dropout_acts_in_training_only_and_keeps_the_mean(backend: str) -> None:
    layer = MultiHeadAttention(tiny_config(dropout=0.5, backend=backend))
    x = draw(1, 8, 32).expand(2000, 8, 32)
    with torch.no_grad():
        expected = layer.eval()(x)
        assert torch.equal(layer(x), expected)
        layer.train()
        with forked_rng(1):
            draws = layer(x)
    assert not torch.equal(draws[0], draws[1])
    spread = draws.std(0) / math.sqrt(2000)
    assert ((draws.mean(0) - expected[0]).abs() <= 6 * spread + 1e-6).all()


@pytest.mark.requirement("model.backends-agree")
def test_on_a_cpu_both_forms_drop_the_same_weights() -> None:
    q, k, v = (draw(1, 2, 6, 4, seed=s) for s in range(3))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        with forked_rng(1):
            explicit, _ = explicit_attention(q, k, v, dropout=0.5)
        with forked_rng(1):
            fused = fused_attention(q, k, v, dropout=0.5)
        assert fused.dtype == dtype
        assert largest_difference(fused, explicit) < 1e-6


@pytest.mark.requirement("model.backends-agree")
@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 33])
@pytest.mark.parametrize("dropout", [1 / 256, 26 / 256, 0.75])
def test_attention_with_dropout_has_the_explicit_forms_values_and_gradients(
    length: int, dropout: float
) -> None:
    found = []
    for attend in (fused_attention, lambda *a, **k: explicit_attention(*a, **k)[0]):
        leaves = [draw(2, 3, length, 8, seed=s).requires_grad_() for s in range(3)]
        # As the projections give them: heads beside each other in memory.
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in leaves)
        with forked_rng(length):
            output = attend(q, k, v, dropout=dropout)
        (output * draw(*output.shape, seed=9)).sum().backward()
        found.append([output, *(leaf.grad for leaf in leaves)])
    for mine, expected in zip(*found, strict=True):
        assert largest_difference(mine, expected) < 1e-5


def test_explicit_dropout_leaves_the_returned_weights_whole() -> None:
    q, k, v = (draw(1, 1, 6, 4, seed=s) for s in range(3))
    with forked_rng(1):
        output, weights = explicit_attention(q, k, v, dropout=0.5)
    clean, clean_weights = explicit_attention(q, k, v)
    assert torch.equal(weights, clean_weights)
    assert largest_difference(output, clean) > 0.01


@pytest.mark.requirement("model.bias")
@pytest.mark.parametrize("bias", [True, False])
def test_projections_have_the_documented_names_and_biases(bias: bool) -> None:
    config: ModelConfig = tiny_config(bias=bias)
    names = {name for name, _ in MultiHeadAttention(config).named_parameters()}
    kinds = ("weight", "bias") if bias else ("weight",)
    assert names == {f"{p}_proj.{kind}" for p in "qkvo" for kind in kinds}
