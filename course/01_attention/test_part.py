"""Module 01, what is promised: the part with one head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import (
    expect_module_follows_device,
)
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_part_gradients,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer


def config(**settings: Any) -> ModelConfig:
    plain = {"d_model": 12, "n_heads": 1, "context_length": 9, "dropout": 0.0, "n_layers": 1}
    return ModelConfig(**{**plain, "vocab_size": 11, **settings})


def build(settings: ModelConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build the learner's part, and give it weights large enough to matter."""
    part = attention.SingleHeadAttention(settings)
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(part.named_parameters())):
            parameter.copy_(draw(*parameter.shape, seed=20 + i) * 0.5)
    return part.to(dtype)


def reference(settings: ModelConfig, part: nn.Module) -> MultiHeadAttention:
    """Return the reference with the learner's weights."""
    wanted = MultiHeadAttention(settings)
    expect_names(part, settings)
    wanted.load_state_dict(part.state_dict())
    return wanted.to(next(part.parameters()).dtype).train(part.training)


def expect_names(part: nn.Module, settings: ModelConfig) -> None:
    C = settings.d_model
    wanted = {f"{name}_proj.weight": (C, C) for name in "qkvo"}
    if settings.bias:
        wanted |= {f"{name}_proj.bias": (C,) for name in "qkvo"}
    got = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    for name, shape in wanted.items():
        expect(
            name in got,
            f"The part's state_dict has no {name}; it has {', '.join(got) or 'nothing'}.",
        )
        expect(got[name] == shape, f"{name} should have the shape {shape}, and has {got[name]}.")
    more = sorted(set(got) - set(wanted))
    expect(
        not more,
        f"The part's state_dict has more than the four layers: {', '.join(more)}. "
        "(A mask can be made in forward, or registered with persistent=False.)",
    )
    learned = {name for name, _ in part.named_parameters()}
    lost = sorted(set(wanted) - learned)
    expect(not lost, f"{', '.join(lost)} should be a parameter of its own: are two layers one?")


def test_SingleHeadAttention__has_four_layers_with_the_names_of_the_reference():
    for settings in (config(), config(bias=False), config(d_model=8, n_heads=4)):
        expect_names(attention.SingleHeadAttention(settings), settings)


def test_SingleHeadAttention__maps_every_token_to_a_vector_as_wide():
    for B, T in [(1, 1), (2, 5), (5, 2), (3, 9)]:
        got = build(config())(draw(B, T, 12))
        expect_shape(got, (B, T, 12), f"SingleHeadAttention of ({B}, {T}, 12)", "B T C")


def test_SingleHeadAttention__gives_the_first_token_its_own_value():
    part, x = build(config()), draw(2, 4, 12)
    names = dict(part.named_parameters())
    value = F.linear(x[:, 0], names["v_proj.weight"], names["v_proj.bias"])
    wanted = F.linear(value, names["o_proj.weight"], names["o_proj.bias"])
    expect_equal(
        part(x)[:, 0], wanted, "the first token, which can look at itself alone:", dims="B C"
    )


def test_SingleHeadAttention__projects_three_ways_mixes_and_projects_back():
    part, x = build(config(d_model=6), torch.float64), draw(2, 5, 6, dtype=torch.float64)
    names = dict(part.named_parameters())
    q, k, v = (F.linear(x, names[f"{n}_proj.weight"], names[f"{n}_proj.bias"]) for n in "qkv")
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    wanted = F.linear(mixed, names["o_proj.weight"], names["o_proj.bias"])
    expect_equal(part(x), wanted, "the output for 5 tokens", dims="B T C", tolerance=1e-6)


def test_SingleHeadAttention__computes_what_the_reference_computes_with_its_weights():
    for settings in (config(), config(bias=False), config(context_length=4)):
        part = build(settings)
        wanted = reference(settings, part)
        for T in (1, 2, settings.context_length):
            x = draw(3, T, 12, seed=T)
            bias = "" if settings.bias else " without biases"
            expect_equal(part(x), wanted(x), f"the output for {T} tokens{bias}", dims="B T C")


def test_SingleHeadAttention__does_not_see_the_future():
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


def test_SingleHeadAttention__keeps_sequences_apart():
    part, x = build(config()), draw(5, 5, 12)
    together = part(x)
    for b in range(5):
        expect_equal(together[b], part(x[b : b + 1])[0], f"sequence {b} among others", dims="T C")


def test_SingleHeadAttention__has_one_head_whatever_the_config_says():
    part, x = build(config(n_heads=4)), draw(2, 5, 12)
    one = config()
    expect_equal(
        part(x),
        reference(one, part)(x),
        "the output where the config has 4 heads",
        dims="B T C",
        note="This part has one head, as wide as the model.",
    )


def test_SingleHeadAttention__stands_large_inputs():
    part, x = build(config()), 100 * draw(2, 5, 12)
    expect_equal(
        part(x),
        reference(config(), part)(x),
        "the output for large inputs",
        dims="B T C",
        tolerance=1e-3,
    )


def test_SingleHeadAttention__keeps_the_dtype_and_its_input():
    for dtype, tolerance in [(torch.float64, 1e-6), (torch.bfloat16, 6e-2)]:
        part, x = build(config(), dtype), draw(2, 5, 12, dtype=dtype)
        before = x.clone()
        wanted = reference(config(), part)(before.clone())
        expect_equal(part(x), wanted, f"the output in {dtype}", dims="B T C", tolerance=tolerance)
        expect_unchanged(before, x, "x")


def test_SingleHeadAttention__stays_on_the_device_of_its_input():
    expect_module_follows_device(
        lambda: attention.SingleHeadAttention(config()), draw(2, 5, 12), "SingleHeadAttention"
    )


def test_SingleHeadAttention__lets_gradients_through_to_every_weight():
    part, x = build(config(), torch.float64), draw(2, 5, 12, dtype=torch.float64)
    expect_part_gradients(part, reference(config(), part), x, "SingleHeadAttention")


def dropout_part(dropout: float) -> nn.Module:
    """Return a part whose output at a token is the sum of its (dropped) weights, in every place."""
    part = build(config(dropout=dropout))
    expect_names(part, config())
    with torch.no_grad():
        names = dict(part.named_parameters())
        names["v_proj.weight"].zero_()
        names["v_proj.bias"].fill_(1.0)
        names["o_proj.weight"].copy_(torch.eye(12))
        names["o_proj.bias"].zero_()
    return part


def test_SingleHeadAttention__drops_nothing_in_evaluation():
    part, x = dropout_part(0.5).eval(), draw(4, 6, 12)
    expect_equal(
        part(x),
        torch.ones(4, 6, 12),
        "the output where all values are 1, after .eval()",
        dims="B T C",
        note="Dropout is for training: ask self.training.",
    )


def test_SingleHeadAttention__drops_weights_while_it_trains_and_enlarges_the_others():
    for dropout in (0.5, 0.25):
        y = dropout_part(dropout).train()(draw(600, 3, 12)).detach()
        expect_equal(
            y,
            y[..., :1].expand_as(y).clone(),
            "the output where all values are 1, while training",
            dims="B T C",
            note="A dropped weight changes all channels "
            "of a token alike: dropout belongs on the weights, before the average.",
        )
        first = y[:, 0, 0]  # its one weight is 1: dropped to 0, or enlarged
        larger = torch.full_like(first, 1 / (1 - dropout))
        wanted = torch.where(first.abs() < 1e-6, torch.zeros_like(first), larger)
        expect_equal(
            first,
            wanted,
            f"the first token's output, where all values are 1, with "
            f"dropout {dropout}, dropped or enlarged by 1 / (1 - {dropout}),",
            dims="B",
        )
        share = (first.abs() < 1e-6).float().mean().item()
        expect(
            abs(share - dropout) < 0.1,
            f"With dropout {dropout}, {share:.0%} of the weights were dropped.",
        )
        last = y[:, 2, 0]
        some = (last > 1e-3).logical_and((last - larger).abs() > 1e-3)
        expect(
            some.any(), "The weights of a token are all dropped or all kept: draw for each weight."
        )


def test_SingleHeadAttention__drops_weights_and_nothing_else():
    part = build(config(dropout=0.5))
    x = torch.eye(6, 12).expand(50, 6, 12).clone()  # token t is 1 in channel t
    with torch.no_grad():
        names = dict(part.named_parameters())
        for name in ("v_proj", "o_proj"):  # so the output of a token is its row of weights
            names[f"{name}.weight"].copy_(torch.eye(12))
            names[f"{name}.bias"].zero_()
    weights, dropped = part.eval()(x).detach(), part.train()(x).detach()
    wanted = torch.where(dropped.abs() < 1e-6, torch.zeros_like(weights), 2 * weights)
    expect_equal(
        dropped,
        wanted,
        "what is left of the weights, with dropout 0.5,",
        dims="B queries keys",
        note="While training, a weight is 0 or twice what it is in evaluation: nothing else drops.",
    )


def test_SingleHeadAttention__drops_nothing_where_the_config_says_zero():
    part, x = build(config()).train(), draw(2, 5, 12)
    expect_equal(
        part(x),
        reference(config(), part).eval()(x),
        "the output with dropout 0, while training",
        dims="B T C",
    )


def test_SingleHeadAttention__takes_its_place_in_the_real_model():
    settings = config(n_layers=2, position="learned")
    theirs = Transformer(
        settings, Parts.for_config(settings, attention=attention.SingleHeadAttention), seed=3
    )
    real = Transformer(settings, seed=3)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 9, 1, 1, 2, 2, 3, 3, 10]])
    expect_equal(
        theirs.eval()(ids),
        real.eval()(ids),
        "the output of a model built with your part",
        dims="B T V",
    )
