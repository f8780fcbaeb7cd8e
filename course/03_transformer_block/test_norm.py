"""Module 03, what is promised: LayerNorm, as a function and as a part."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import layer_norm
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import expect_follows_device, expect_module_follows_device
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_gradients,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer


def in_loops(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise with Python's numbers alone, one vector at a time, in float64."""
    rows = []
    shifts = [0.0] * x.shape[-1] if bias is None else bias.tolist()
    for row in x.reshape(-1, x.shape[-1]).tolist():
        mean = sum(row) / len(row)
        variance = sum((number - mean) ** 2 for number in row) / len(row)
        root = (variance + eps) ** 0.5
        triples = zip(row, weight.tolist(), shifts, strict=True)
        rows.append([(number - mean) / root * w + b for number, w, b in triples])
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape)


# explicit_layer_norm


def test_explicit_layer_norm__gives_two_numbers_by_hand():
    x = torch.tensor([[1.0, 5.0]])
    got = layer_norm.explicit_layer_norm(x, torch.ones(2), None, 0.0)
    expect_equal(
        got,
        torch.tensor([[-1.0, 1.0]]),
        "explicit_layer_norm([[1, 5]]), mean 3 and variance 4,",
        dims="T dim",
    )
    got = layer_norm.explicit_layer_norm(torch.tensor([[2.0, 4.0, 6.0]]), torch.ones(3), None, 0.0)
    root = (8 / 3) ** 0.5
    wanted = torch.tensor([[-2 / root, 0.0, 2 / root]])
    expect_equal(
        got,
        wanted,
        "explicit_layer_norm([[2, 4, 6]]), mean 4 and variance 8/3,",
        dims="T dim",
        note="The variance is divided by the number of channels, 3.",
    )


def test_explicit_layer_norm__has_eps_inside_the_root():
    x = torch.tensor([[1.0, 5.0], [3.0, 3.0]])
    got = layer_norm.explicit_layer_norm(x, torch.ones(2), None, 5.0)
    wanted = torch.tensor([[-2 / 3, 2 / 3], [0.0, 0.0]])
    expect_equal(
        got,
        wanted,
        "explicit_layer_norm([[1, 5], [3, 3]]) with eps=5, divided by sqrt(4 + 5) = 3,",
        dims="T dim",
    )


def test_explicit_layer_norm__scales_and_then_shifts_each_channel():
    x = torch.tensor([[1.0, 5.0]])
    weight, bias = torch.tensor([10.0, 100.0]), torch.tensor([0.5, -7.0])
    got = layer_norm.explicit_layer_norm(x, weight, bias, 0.0)
    expect_equal(
        got,
        torch.tensor([[-9.5, 93.0]]),
        "explicit_layer_norm([[1, 5]]) with the scales 10, 100 and the shifts 0.5, -7",
        dims="T dim",
    )


def test_explicit_layer_norm__gives_what_loops_over_single_numbers_give():
    for shape in [(5,), (3, 4), (2, 3, 5), (4, 4, 4), (2, 1, 3, 6)]:
        x = 2 * draw(*shape, seed=1) + 3
        weight, bias = draw(shape[-1], seed=2), draw(shape[-1], seed=3)
        got = layer_norm.explicit_layer_norm(x.clone(), weight, bias, 0.1)
        wanted = in_loops(x, weight, bias, 0.1).float()
        dims = " ".join(["A", "B", "T"][4 - len(shape) :]) + " dim"
        expect_equal(got, wanted, f"explicit_layer_norm of {shape}", dims=dims)


def test_explicit_layer_norm__takes_no_shift_for_none():
    x, weight = draw(3, 4), draw(4, seed=2)
    got = layer_norm.explicit_layer_norm(x, weight, None, 1e-5)
    expect_equal(got, in_loops(x, weight, None, 1e-5).float(), "with bias=None", dims="T dim")


def test_explicit_layer_norm__looks_at_each_token_alone():
    x, weight, bias = draw(3, 4, 5), draw(5, seed=2), draw(5, seed=3)
    before = layer_norm.explicit_layer_norm(x.clone(), weight, bias, 1e-5)
    for b, t in [(0, 0), (1, 2), (2, 3)]:
        other = draw(3, 4, 5, seed=9) * 30
        other[b, t] = x[b, t]
        after = layer_norm.explicit_layer_norm(other, weight, bias, 1e-5)
        expect_equal(
            after[b, t],
            before[b, t],
            f"token {t} of sequence {b}, after all the others have changed,",
            dims="dim",
        )


def test_explicit_layer_norm__stands_numbers_far_from_zero():
    x = 1000 + draw(4, 8)
    wanted = in_loops(x, torch.ones(8), None, 1e-5).float()
    got = layer_norm.explicit_layer_norm(x, torch.ones(8), None, 1e-5)
    expect_equal(
        got,
        wanted,
        "explicit_layer_norm of numbers near 1000",
        dims="T dim",
        tolerance=2e-3,
        note="Take the mean away before you square.",
    )


def test_explicit_layer_norm__gives_the_shift_where_all_numbers_are_equal():
    x, bias = torch.full((2, 3), 7.0), torch.tensor([1.0, -2.0, 0.5])
    got = layer_norm.explicit_layer_norm(x, torch.ones(3), bias, 1e-5)
    expect_equal(got, bias.expand(2, 3).clone(), "explicit_layer_norm of equal numbers", dims="T d")


def test_explicit_layer_norm__keeps_the_dtype_and_its_inputs():
    for dtype, tolerance in [(torch.float64, 1e-9), (torch.bfloat16, 6e-2)]:
        x, weight = draw(2, 3, 8, dtype=dtype), draw(8, seed=2, dtype=dtype)
        bias = draw(8, seed=3, dtype=dtype)
        inputs = (x, weight, bias)
        before = [each.clone() for each in inputs]
        wanted = in_loops(x, weight, bias, 1e-3).to(dtype)
        got = layer_norm.explicit_layer_norm(x, weight, bias, 1e-3)
        what = f"explicit_layer_norm in {dtype}"
        expect_equal(got, wanted, what, dims="B T dim", tolerance=tolerance)
        for name, old, new in zip(("x", "weight", "bias"), before, inputs, strict=True):
            expect_unchanged(old, new, name)


def test_explicit_layer_norm__stays_on_the_device_of_its_input():
    x, weight, bias = draw(2, 4), draw(4, seed=2), draw(4, seed=3)
    expect_follows_device(
        lambda: layer_norm.explicit_layer_norm(x, weight, bias, 1e-5),
        [x, weight, bias],
        "explicit_layer_norm",
    )


def test_explicit_layer_norm__lets_gradients_through():
    inputs = [draw(3, 5, dtype=torch.float64), *(draw(5, seed=s).double() for s in (2, 3))]
    expect_gradients(
        lambda x, w, b: layer_norm.explicit_layer_norm(x, w, b, 1e-2),
        lambda x, w, b: F.layer_norm(x, (5,), w, b, 1e-2),
        inputs,
        "explicit_layer_norm",
    )


# LayerNorm


def part(dim: int, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
    """Build the learner's part, and give it a scale and a shift that matter."""
    built = layer_norm.LayerNorm(dim, **settings)
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(built.named_parameters())):
            parameter.copy_(draw(*parameter.shape, seed=20 + i))
    return built.to(dtype)


def right(built: nn.Module, x: Tensor, eps: float) -> Tensor:
    """Return what PyTorch computes with the weights of a part."""
    weights = dict(built.named_parameters())
    return F.layer_norm(x, x.shape[-1:], weights["weight"], weights.get("bias"), eps)


def test_LayerNorm__has_a_scale_of_ones_and_a_shift_of_zeros():
    for settings, shifted in [({}, True), ({"bias": True}, True), ({"bias": False}, False)]:
        built = layer_norm.LayerNorm(6, **settings)
        state = built.state_dict()
        wanted = {"weight": torch.ones(6)} | ({"bias": torch.zeros(6)} if shifted else {})
        for name, values in wanted.items():
            has = ", ".join(sorted(state)) or "nothing"
            expect(name in state, f"The part's state_dict has no {name}; it has {has}.")
            expect_equal(state[name], values, f"{name}, at first,", dims="dim", tolerance=0)
        more = sorted(set(state) - set(wanted))
        call = "LayerNorm(6, bias=False)" if not shifted else "LayerNorm(6)"
        expect(not more, f"The state_dict of {call} has more than it should: {', '.join(more)}.")
        learned = {name for name, _ in built.named_parameters()}
        expect(learned == set(wanted), f"The parameters of {call} should be {sorted(wanted)}.")
        expect(
            shifted or getattr(built, "bias", 0) is None,
            "Where there is no shift, `self.bias` should be None.",
        )


def test_LayerNorm__normalises_by_hand():
    built = layer_norm.LayerNorm(2, eps=5.0)
    got = built(torch.tensor([[1.0, 5.0], [3.0, 3.0]]))
    expect_equal(
        got,
        torch.tensor([[-2 / 3, 2 / 3], [0.0, 0.0]]),
        "LayerNorm(2, eps=5) of [[1, 5], [3, 3]], divided by sqrt(4 + 5) = 3,",
        dims="T dim",
        note="eps is what the constructor was given, added to the variance, inside the root.",
    )


def test_LayerNorm__uses_its_scale_its_shift_and_its_eps():
    for shape in [(4,), (3, 5), (2, 3, 4), (5, 5, 5), (1, 2, 3, 6)]:
        for settings in ({}, {"eps": 0.5}, {"bias": False, "eps": 0.1}):
            built, x = part(shape[-1], **settings), 2 * draw(*shape, seed=1) + 1
            wanted = right(built, x, settings.get("eps", 1e-5))
            named = ", ".join(f"{name}={value}" for name, value in settings.items())
            what = f"LayerNorm({', '.join(filter(None, [str(shape[-1]), named]))}) of {shape}"
            expect_equal(built(x), wanted, what, tolerance=1e-4)


def test_LayerNorm__has_an_eps_of_1e_5_where_none_is_given():
    built, x = part(4), 0.003 * draw(3, 4)
    expect_equal(
        built(x), right(built, x, 1e-5), "LayerNorm(4) of small numbers", dims="T d", tolerance=1e-4
    )


def test_LayerNorm__looks_at_each_token_alone():
    built, x = part(5), draw(4, 3, 5)
    together = built(x)
    for b in range(4):
        for t in range(3):
            alone = built(x[b : b + 1, t : t + 1])[0, 0]
            what = f"token {t} of sequence {b} among others"
            expect_equal(together[b, t], alone, what, dims="dim")


def test_LayerNorm__is_the_same_in_training_and_in_evaluation():
    built = part(4)
    for i in range(3):  # nothing of these should be remembered
        built.train()(50 * draw(6, 4, seed=i) + 100)
    x = draw(3, 4, seed=8)
    wanted = right(built, x, 1e-5)
    expect_equal(built.train()(x), wanted, "the output in training", dims="T dim", tolerance=1e-4)
    expect_equal(built.eval()(x), wanted, "the output in evaluation", dims="T dim", tolerance=1e-4)


def test_LayerNorm__stands_numbers_far_from_zero():
    built = part(8)
    x = 1000 + draw(4, 8)
    wanted = right(built.double(), x.double(), 1e-5).float()
    got = built.float()(x)
    expect_equal(got, wanted, "LayerNorm of numbers near 1000", dims="T dim", tolerance=5e-3)


def test_LayerNorm__keeps_the_dtype_and_its_input():
    for dtype, tolerance in [(torch.float64, 1e-9), (torch.bfloat16, 6e-2)]:
        built, x = part(8, dtype), draw(2, 3, 8, dtype=dtype)
        before = x.clone()
        wanted = right(built.double(), before.double(), 1e-5).to(dtype)
        got = built.to(dtype)(x)
        what = f"the output in {dtype}"
        expect_equal(got, wanted, what, dims="B T dim", tolerance=tolerance)
        expect_unchanged(before, x, "x")


def test_LayerNorm__stays_on_the_device_of_its_input():
    expect_module_follows_device(lambda: layer_norm.LayerNorm(4), draw(2, 4), "LayerNorm")


def test_LayerNorm__lets_gradients_through_to_scale_shift_and_input():
    built, x = part(5, torch.float64, eps=0.1), draw(3, 5, dtype=torch.float64).requires_grad_()
    leaves = [x, *(parameter for _, parameter in sorted(built.named_parameters()))]
    pull = draw(3, 5, seed=9, dtype=torch.float64)
    wanted = torch.autograd.grad(right(built, x, 0.1), leaves, pull)
    y = built(x)
    expect(
        isinstance(y, Tensor) and y.requires_grad,
        "No gradient flows back through LayerNorm: is there a .detach() or no_grad() in it?",
    )
    got = torch.autograd.grad(y, leaves, pull, allow_unused=True)
    for name, a, b in zip(("x", "bias", "weight"), got, wanted, strict=True):
        expect(a is not None, f"No gradient reaches {name}: it is not used.")
        note = "Mean and variance depend on x, too." if name == "x" else ""
        expect_equal(a, b, f"the gradient of {name}", tolerance=1e-6, note=note)


def test_LayerNorm__takes_its_place_in_the_real_model():
    for bias in (True, False):
        config = ModelConfig(
            n_layers=1, d_model=12, n_heads=2, vocab_size=11, dropout=0.0, norm_eps=0.3, bias=bias
        )
        mine = Transformer(config, Parts.for_config(config, norm=layer_norm.LayerNorm), seed=3)
        real = Transformer(config, seed=3)
        expect(
            set(mine.state_dict()) == set(real.state_dict()),
            "A model built with your part has not the reference's parameters.",
        )
        ids = torch.tensor([[1, 2, 3, 4], [10, 9, 0, 0]])
        got = mine.eval()(ids)
        expect_shape(got, (2, 4, 11), "the output of a model built with your part", "B T V")
        what = f"the output of a model built with your part, where bias is {bias},"
        expect_equal(got, real.eval()(ids), what, dims="B T V")
