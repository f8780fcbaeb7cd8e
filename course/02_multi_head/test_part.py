"""Module 02, what is promised: the part with several heads."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import expect_module_follows_device
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_part_gradients,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer

PART = "MultiHeadAttention"


def config(**settings: Any) -> ModelConfig:
    plain = {"d_model": 12, "n_heads": 3, "context_length": 9, "dropout": 0.0, "n_layers": 1}
    return ModelConfig(**{**plain, "vocab_size": 11, **settings})


KINDS = {
    "3 heads": config(),
    "4 heads without biases": config(n_heads=4, bias=False),
    "1 head": config(n_heads=1),
    "12 heads of width 1": config(n_heads=12),
    "6 heads, 2 of keys and values": config(n_heads=6, n_kv_heads=2),
    "4 heads, 1 of keys and values": config(n_heads=4, n_kv_heads=1, bias=False),
    "5 heads of width 2, explicit": config(d_model=10, n_heads=5, backend="explicit"),
}


def build(settings: ModelConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build the learner's part, and give it weights large enough to matter."""
    part = attention.MultiHeadAttention(settings)
    expect_names(part, settings)
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(part.named_parameters())):
            parameter.copy_(draw(*parameter.shape, seed=20 + i) * 0.5)
    return part.to(dtype)


def reference(settings: ModelConfig, part: nn.Module) -> MultiHeadAttention:
    """Return the reference with the learner's weights."""
    wanted = MultiHeadAttention(settings)
    wanted.load_state_dict(part.state_dict())
    return wanted.to(next(part.parameters()).dtype).train(part.training)


def expect_names(part: nn.Module, settings: ModelConfig) -> None:
    C, narrow = settings.d_model, settings.kv_heads * settings.head_dim
    out = {"q_proj": C, "k_proj": narrow, "v_proj": narrow, "o_proj": C}
    wanted: dict[str, tuple[int, ...]] = {f"{name}.weight": (n, C) for name, n in out.items()}
    if settings.bias:
        wanted |= {f"{name}.bias": (n,) for name, n in out.items()}
    got = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    kind = f"{settings.n_heads} heads of queries, {settings.kv_heads} of keys and values"
    for name, shape in wanted.items():
        expect(
            name in got,
            f"The part's state_dict has no {name}; it has {', '.join(got) or 'nothing'}.",
        )
        expect(
            got[name] == shape,
            f"With {kind}, {name} should have the shape {shape}, and has {got[name]}.",
        )
    more = sorted(set(got) - set(wanted))
    expect(
        not more,
        f"The part's state_dict has more than the four layers: {', '.join(more)}. "
        "(A mask can be made in forward, or registered with persistent=False.)",
    )
    learned = {name for name, _ in part.named_parameters()}
    lost = sorted(set(wanted) - learned)
    expect(not lost, f"{', '.join(lost)} should be a parameter of its own: are two layers one?")


def by_heads(part: nn.Module, x: Tensor, settings: ModelConfig) -> Tensor:
    """Compute the output as a sum over single heads, each with its own rows of the weights."""
    named = {name: p.detach() for name, p in part.named_parameters()}
    D = settings.head_dim
    group = settings.n_heads // settings.kv_heads

    def rows(name: str, number: int) -> Tensor:
        own = slice(number * D, (number + 1) * D)
        bias = named.get(f"{name}_proj.bias")
        return F.linear(x, named[f"{name}_proj.weight"][own], None if bias is None else bias[own])

    y = torch.zeros_like(x)
    hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
    for h in range(settings.n_heads):
        q, k, v = rows("q", h), rows("k", h // group), rows("v", h // group)
        scores = torch.einsum("btd,bsd->bts", q, k) / math.sqrt(D)
        weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
        columns = named["o_proj.weight"][:, h * D : (h + 1) * D]
        y = y + torch.einsum("bts,bsd,cd->btc", weights, v, columns)
    return y + named.get("o_proj.bias", torch.zeros(()).to(x.dtype))


def test_MultiHeadAttention__has_four_layers_with_the_names_of_the_reference():
    for settings in KINDS.values():
        expect_names(attention.MultiHeadAttention(settings), settings)


def test_MultiHeadAttention__maps_every_token_to_a_vector_as_wide():
    for B, T in [(1, 1), (2, 5), (5, 2), (3, 9)]:
        got = build(config())(draw(B, T, 12))
        expect_shape(got, (B, T, 12), f"MultiHeadAttention of ({B}, {T}, 12)", "B T C")


def test_MultiHeadAttention__gives_the_first_token_its_own_values():
    part, x = build(config()), draw(2, 4, 12)
    names = dict(part.named_parameters())
    value = F.linear(x[:, 0], names["v_proj.weight"], names["v_proj.bias"])
    wanted = F.linear(value, names["o_proj.weight"], names["o_proj.bias"])
    expect_equal(
        part(x)[:, 0],
        wanted,
        "the output for the first token, which sees nothing but itself in any head,",
        dims="B C",
        note="Each head should hand over its own channels, in their place.",
    )


def test_MultiHeadAttention__is_a_sum_over_heads_with_their_own_weights():
    for kind, settings in KINDS.items():
        part = build(settings, torch.float64)
        x = draw(2, 5, settings.d_model, dtype=torch.float64)
        wanted = by_heads(part, x, settings)
        expect_equal(part(x), wanted, f"the output with {kind}", dims="B T C", tolerance=1e-6)


def test_MultiHeadAttention__computes_what_the_reference_computes_with_its_weights():
    for kind in ("3 heads", "6 heads, 2 of keys and values", "5 heads of width 2, explicit"):
        settings = KINDS[kind]
        part = build(settings)
        wanted = reference(settings, part)
        for T in (1, 3, settings.context_length):
            x = draw(3, T, settings.d_model, seed=T)
            what = f"the output for {T} tokens with {kind}"
            expect_equal(part(x), wanted(x), what, dims="B T C")


def test_MultiHeadAttention__keeps_heads_apart():
    settings = config()
    part, x = build(settings), draw(2, 5, 12)
    names = dict(part.named_parameters())
    with torch.no_grad():
        names["o_proj.weight"].copy_(torch.eye(12))  # so that channels 4 h to 4 h + 3 are head h
    before = part(x).detach()
    for layer in ("q_proj", "v_proj"):
        with torch.no_grad():
            names[f"{layer}.weight"][4:8] += 3.0  # the rows of head 1
        after = part(x).detach()
        others = [0, 1, 2, 3, 8, 9, 10, 11]
        expect_equal(
            after[..., others],
            before[..., others],
            f"what heads 0 and 2 found, after the rows of head 1 in {layer}.weight have changed,",
            dims="B T channels",
        )
        before = after


def test_MultiHeadAttention__does_not_see_the_future():
    part, x = build(config()), draw(2, 9, 12)
    before = part(x)
    for t in range(1, 9):
        changed = x.clone()
        changed[:, t:] = draw(2, 9 - t, 12, seed=t) * 5
        expect_equal(
            part(changed)[:, :t],
            before[:, :t],
            f"the output before position {t}, after tokens from {t} on have changed,",
            dims="B T C",
        )


def test_MultiHeadAttention__keeps_sequences_apart():
    part, x = build(config(n_heads=6, n_kv_heads=2)), draw(5, 5, 12)
    together = part(x)
    for b in range(5):
        expect_equal(together[b], part(x[b : b + 1])[0], f"sequence {b} among others", dims="T C")


def test_MultiHeadAttention__stands_large_inputs():
    part, x = build(config()), 100 * draw(2, 5, 12)
    wanted = reference(config(), part)(x)
    expect_equal(part(x), wanted, "the output for large inputs", dims="B T C", tolerance=1e-3)


def test_MultiHeadAttention__keeps_the_dtype_and_its_input():
    for dtype, tolerance in [(torch.float64, 1e-6), (torch.bfloat16, 6e-2)]:
        part, x = build(config(), dtype), draw(2, 5, 12, dtype=dtype)
        before = x.clone()
        wanted = reference(config(), part)(before.clone())
        expect_equal(part(x), wanted, f"the output in {dtype}", dims="B T C", tolerance=tolerance)
        expect_unchanged(before, x, "x")


def test_MultiHeadAttention__takes_tokens_that_lie_in_memory_in_any_order():
    part, x = build(config()), draw(5, 3, 12).transpose(0, 1)
    wanted = reference(config(), part)(x.contiguous())
    expect_equal(part(x), wanted, "the output for a transposed input", dims="B T C")


def test_MultiHeadAttention__stays_on_the_device_of_its_input():
    for settings in (config(), config(n_heads=6, n_kv_heads=2)):
        expect_module_follows_device(
            lambda settings=settings: attention.MultiHeadAttention(settings), draw(2, 5, 12), PART
        )


def test_MultiHeadAttention__lets_gradients_through_to_every_weight():
    for settings in (config(), config(n_heads=6, n_kv_heads=2)):
        part, x = build(settings, torch.float64), draw(2, 5, 12, dtype=torch.float64)
        expect_part_gradients(part, reference(settings, part), x, "MultiHeadAttention")


def weights_part(settings: ModelConfig, T: int) -> tuple[nn.Module, Tensor]:
    """Return a part and tokens for which the output shows every head's row of weights.

    Token t is 1 in channel t of each head, and values and outputs are the tokens themselves.
    """
    part = build(settings)
    names = dict(part.named_parameters())
    H, D = settings.n_heads, settings.head_dim
    with torch.no_grad():
        for name in ("v_proj", "o_proj"):
            names[f"{name}.weight"].copy_(torch.eye(settings.d_model))
            names[f"{name}.bias"].zero_()
    x = torch.eye(T, D).repeat(1, H)[None]  # (1, T, H D)
    return part, x


def test_MultiHeadAttention__drops_nothing_in_evaluation():
    part, x = build(config(dropout=0.5)).eval(), draw(4, 6, 12)
    wanted = reference(config(dropout=0.5), part)(x)
    expect_equal(
        part(x),
        wanted,
        "the output with dropout 0.5, after .eval(),",
        dims="B T C",
        note="Dropout is for training: ask self.training.",
    )


def test_MultiHeadAttention__drops_weights_while_it_trains_and_nothing_else():
    for dropout in (0.5, 0.25):
        part, x = weights_part(config(dropout=dropout), 4)
        weights = part.eval()(x).detach().expand(200, 4, 12)
        left = part.train()(x.expand(200, 4, 12).clone()).detach()
        dropped = left.abs() < 1e-6
        wanted = torch.where(dropped, torch.zeros_like(weights), weights / (1 - dropout))
        expect_equal(
            left,
            wanted,
            f"what is left of the weights of three heads, with dropout {dropout},",
            dims="B queries head*keys",
            note="While training, a weight is 0 or divided by 1 - dropout, and nothing else drops.",
        )
        visible = weights.abs() > 1e-6
        share = (dropped & visible).sum().item() / visible.sum().item()
        expect(
            abs(share - dropout) < 0.06,
            f"With dropout {dropout}, {share:.0%} of the weights were dropped.",
        )


def test_MultiHeadAttention__drops_before_the_average():
    part = build(config(dropout=0.5))
    names = dict(part.named_parameters())
    with torch.no_grad():  # so that every channel of a head is the sum of its dropped weights
        names["v_proj.weight"].zero_()
        names["v_proj.bias"].fill_(1.0)
        names["o_proj.weight"].copy_(torch.eye(12))
        names["o_proj.bias"].zero_()
    sums = part.train()(draw(50, 5, 12)).detach().unflatten(-1, (3, 4))
    expect_equal(
        sums,
        sums[..., :1].expand_as(sums).clone(),
        "the output where all values are 1, while training,",
        dims="B T H D",
        note="A dropped weight changes all channels of a head alike: dropout belongs on the "
        "weights, before the average.",
    )


def test_MultiHeadAttention__drops_other_weights_in_every_head_and_sequence():
    part, x = weights_part(config(dropout=0.5), 4)
    kept = part.train()(x.expand(100, 4, 12).clone()).detach().abs() > 1e-6
    last = kept[:, -1].unflatten(-1, (3, 4))  # (B, H, keys) of the last query, which sees all
    alike = all(torch.equal(last[:, 0], last[:, h]) for h in (1, 2))
    expect(not alike, "Every head drops the same weights: draw for each head.")
    expect(
        not all(torch.equal(last[0], last[b]) for b in range(1, 100)),
        "Every sequence drops the same weights: draw for all of them.",
    )
    some = last.any(dim=-1) & ~last.all(dim=-1)
    expect(some.any(), "The weights of a query are all dropped or all kept: draw for each weight.")


def test_MultiHeadAttention__drops_nothing_where_the_config_says_zero():
    part, x = build(config()).train(), draw(2, 5, 12)
    wanted = reference(config(), part).eval()(x)
    expect_equal(part(x), wanted, "the output with dropout 0, while training", dims="B T C")


def test_MultiHeadAttention__says_what_it_can_do_and_does_what_it_says():
    can = getattr(attention.MultiHeadAttention, "capabilities", ())
    expect(
        "grouped_heads" in can,
        'The class should say that it knows key-value heads: capabilities = {"grouped_heads"}, '
        "a line in the class, beside its methods.",
    )
    for name, settings in [
        ("rotary", config(position="rotary", n_heads=3)),
        ("qk_norm", config(qk_norm=True)),
    ]:
        if name in can:
            part = attention.MultiHeadAttention(settings)
            wanted, x = MultiHeadAttention(settings), draw(2, 5, 12)
            names = {n: tuple(p.shape) for n, p in part.state_dict().items()}
            right = {n: tuple(p.shape) for n, p in wanted.state_dict().items()}
            expect(names == right, f'capabilities has "{name}", and its parameters are not there.')
            wanted.load_state_dict(part.state_dict())
            what = f"the output with {name}, which capabilities says that it can,"
            expect_equal(part(x), wanted(x), what, dims="B T C")
    if "kv_cache" in can:
        settings = config(n_heads=6, n_kv_heads=2)
        part, x = build(settings).eval(), draw(2, 5, 12)
        cache = KVCache(settings, 2)
        with torch.no_grad():
            wanted = part(x)
            early = part(x[:, :3], cache.layer(0))
            cache.advance(torch.zeros(2, 3, dtype=torch.int64))
            late = part(x[:, 3:], cache.layer(0))
        expect_equal(
            torch.cat([early, late], dim=1),
            wanted,
            "the output with a cache, which capabilities says that it can keep,",
            dims="B T C",
        )
    if "weights" in can:
        part, x = build(config()).eval(), draw(2, 5, 12)
        tells: Any = part
        y, weights = tells.forward_with_weights(x)
        expect_equal(y, part(x), "the output of forward_with_weights", dims="B T C")
        expect_shape(weights, (2, 3, 5, 5), "the weights", "B H queries keys")


def test_MultiHeadAttention__takes_its_place_in_the_real_model():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 9, 1, 1, 2, 2, 3, 3, 10]])
    for settings in (config(n_layers=2), config(n_layers=2, n_heads=6, n_kv_heads=3)):
        parts = Parts.for_config(settings, attention=attention.MultiHeadAttention)
        theirs, real = Transformer(settings, parts, seed=3), Transformer(settings, seed=3)
        expect_equal(
            theirs.eval()(ids),
            real.eval()(ids),
            "the output of a model built with your part",
            dims="B T V",
        )
