"""Module 03, what is promised: GELU in two forms, and the feed-forward part."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import mlp
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import expect_follows_device, expect_module_follows_device
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_gradients,
    expect_part_gradients,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw
from tiny_transformer.model.mlp import MLP
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer

PLACES = [-3.0, -2.0, -1.0, -0.75, -0.1, 0.0, 0.3, 0.5, 1.0, 1.7, 2.0, 4.0]


def exact(x: float) -> float:
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def approximate(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def expect_bend(bend: Callable[[Tensor], Tensor], wanted: Callable[[float], float]) -> None:
    name = getattr(bend, "__name__", "it")
    numbers = torch.tensor([wanted(x) for x in PLACES])
    expect_equal(bend(torch.tensor(PLACES)), numbers, f"{name} of {PLACES}", dims="x")


def expect_every_shape(
    bend: Callable[[Tensor], Tensor], wanted: Callable[[float], float], name: str
) -> None:
    for shape in [(1,), (3, 3), (2, 3, 4)]:
        x = 2 * draw(*shape, seed=1)
        numbers = torch.tensor([wanted(value) for value in x.flatten().tolist()]).view(shape)
        got = bend(x)
        expect_equal(got, numbers, f"{name} of {shape}")
    got = bend(torch.tensor(1.5))
    expect_equal(got, torch.tensor(wanted(1.5)), f"{name} of a single number")


def expect_far_out(bend: Callable[[Tensor], Tensor], name: str) -> None:
    x = torch.tensor([-1e4, -300.0, -50.0, 50.0, 300.0, 1e4])
    wanted = torch.tensor([0.0, 0.0, 0.0, 50.0, 300.0, 1e4])
    expect_equal(bend(x), wanted, f"{name} of large numbers", dims="x")


def expect_kept(
    bend: Callable[[Tensor], Tensor], wanted: Callable[[float], float], name: str
) -> None:
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.bfloat16, 3e-2)]:
        x = 2 * draw(3, 4, dtype=dtype)
        before = x.clone()
        numbers = [wanted(value) for value in before.flatten().tolist()]
        right = torch.tensor(numbers, dtype=torch.float64).view(3, 4).to(dtype)
        expect_equal(bend(x), right, f"{name} in {dtype}", tolerance=tolerance)
        expect_unchanged(before, x, "x")
    x = draw(3, 4)
    expect_follows_device(lambda: bend(x), [x], name)


# explicit_gelu


def test_explicit_gelu__is_half_of_x_near_zero_and_x_far_right():
    got = mlp.explicit_gelu(torch.tensor([0.0, 1.0, -1.0, 10.0, -10.0]))
    wanted = torch.tensor([0.0, 0.841345, -0.158655, 10.0, 0.0])
    expect_equal(got, wanted, "explicit_gelu([0, 1, -1, 10, -10])", dims="x")


def test_explicit_gelu__is_x_times_the_share_of_a_normal_distribution_below_x():
    expect_bend(mlp.explicit_gelu, exact)
    x = 1.5 * draw(40, seed=3)
    below = torch.distributions.Normal(0.0, 1.0).cdf(x)
    expect_equal(mlp.explicit_gelu(x), x * below, "explicit_gelu", dims="x")


def test_explicit_gelu__takes_any_shape():
    expect_every_shape(mlp.explicit_gelu, exact, "explicit_gelu")


def test_explicit_gelu__stands_large_numbers():
    expect_far_out(mlp.explicit_gelu, "explicit_gelu")


def test_explicit_gelu__keeps_the_dtype_and_its_input():
    expect_kept(mlp.explicit_gelu, exact, "explicit_gelu")


def test_explicit_gelu__lets_gradients_through():
    expect_gradients(mlp.explicit_gelu, F.gelu, [2 * draw(20).double()], "explicit_gelu")


# explicit_gelu_tanh


def test_explicit_gelu_tanh__is_half_of_x_near_zero_and_x_far_right():
    got = mlp.explicit_gelu_tanh(torch.tensor([0.0, 1.0, -1.0, 10.0, -10.0]))
    wanted = torch.tensor([0.0, 0.841192, -0.158808, 10.0, 0.0])
    expect_equal(got, wanted, "explicit_gelu_tanh([0, 1, -1, 10, -10])", dims="x")


def test_explicit_gelu_tanh__is_the_formula():
    expect_bend(mlp.explicit_gelu_tanh, approximate)


def test_explicit_gelu_tanh__takes_any_shape():
    expect_every_shape(mlp.explicit_gelu_tanh, approximate, "explicit_gelu_tanh")


def test_explicit_gelu_tanh__is_the_approximation_and_not_the_exact_form():
    x = 2 * draw(50, seed=4, dtype=torch.float64)
    got = mlp.explicit_gelu_tanh(x)
    wanted = F.gelu(x, approximate="tanh")
    note = "The exact form differs in the fourth digit." if got.shape == x.shape else ""
    expect_equal(got, wanted, "explicit_gelu_tanh", dims="x", tolerance=1e-9, note=note)


def test_explicit_gelu_tanh__stands_large_numbers():
    expect_far_out(mlp.explicit_gelu_tanh, "explicit_gelu_tanh")


def test_explicit_gelu_tanh__keeps_the_dtype_and_its_input():
    expect_kept(mlp.explicit_gelu_tanh, approximate, "explicit_gelu_tanh")


def test_explicit_gelu_tanh__lets_gradients_through():
    expect_gradients(
        mlp.explicit_gelu_tanh,
        lambda x: F.gelu(x, approximate="tanh"),
        [2 * draw(20).double()],
        "explicit_gelu_tanh",
    )


# MLP


def config(**settings: Any) -> ModelConfig:
    plain = {"d_model": 6, "n_heads": 2, "context_length": 9, "n_layers": 1, "vocab_size": 11}
    return ModelConfig(**{**plain, **settings})


CONFIGS = [
    config(),
    config(d_ff=5, bias=False),
    config(d_ff=17, activation="gelu_tanh"),
    config(d_model=4, activation="gelu_tanh", bias=False),
    config(d_model=8, d_ff=8, dropout=0.5, backend="explicit"),
]


def build(settings: ModelConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build the learner's part, and give it weights large enough to matter."""
    part = mlp.MLP(settings)
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(part.named_parameters())):
            parameter.copy_(draw(*parameter.shape, seed=20 + i))
    return part.to(dtype)


def expect_names(part: nn.Module, settings: ModelConfig) -> None:
    C, inside = settings.d_model, settings.feed_forward_width
    wanted: dict[str, tuple[int, ...]] = {
        "up_proj.weight": (inside, C),
        "down_proj.weight": (C, inside),
    }
    if settings.bias:
        wanted |= {"up_proj.bias": (inside,), "down_proj.bias": (C,)}
    got = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    where = f"(d_model={C}, d_ff={settings.d_ff}, bias={settings.bias})"
    for name, shape in wanted.items():
        expect(
            name in got,
            f"The state_dict {where} has no {name}; it has {', '.join(got) or 'nothing'}.",
        )
        expect(
            got[name] == shape,
            f"{name} {where} should have the shape {shape}, and has {got[name]}.",
        )
    more = sorted(set(got) - set(wanted))
    expect(not more, f"The state_dict {where} has more than the two layers: {', '.join(more)}.")
    learned = {name for name, _ in part.named_parameters()}
    lost = sorted(set(wanted) - learned)
    expect(not lost, f"{', '.join(lost)} should be a parameter of its own.")


def reference(settings: ModelConfig, part: nn.Module) -> MLP:
    """Return the reference with the learner's weights."""
    expect_names(part, settings)
    wanted = MLP(settings)
    wanted.load_state_dict(part.state_dict())
    return wanted.to(next(part.parameters()).dtype)


def test_MLP__has_two_layers_with_the_names_of_the_reference():
    for settings in CONFIGS:
        expect_names(mlp.MLP(settings), settings)


def test_MLP__widens_bends_and_narrows():
    part = mlp.MLP(config(d_model=1, n_heads=1, d_ff=2))
    expect_names(part, config(d_model=1, n_heads=1, d_ff=2))
    with torch.no_grad():
        names = dict(part.named_parameters())
        names["up_proj.weight"].copy_(torch.tensor([[1.0], [-1.0]]))
        names["up_proj.bias"].copy_(torch.tensor([0.0, 1.0]))
        names["down_proj.weight"].copy_(torch.tensor([[1.0, 10.0]]))
        names["down_proj.bias"].fill_(100.0)
    got = part(torch.tensor([[[0.0], [1.0], [30.0], [-30.0]]]))
    wanted = [[exact(0) + 10 * exact(1), exact(1) + 10 * exact(0), 30.0, 310.0]]
    expect_equal(
        got,
        100 + torch.tensor(wanted).unsqueeze(-1),
        "gelu(x) + 10 gelu(1 - x) + 100, for x = 0, 1, 30 and -30,",
        dims="B T C",
    )


def test_MLP__maps_every_token_to_a_vector_as_wide():
    for B, T in [(1, 1), (2, 5), (5, 2), (3, 9)]:
        got = build(config(d_ff=7))(draw(B, T, 6))
        expect_shape(got, (B, T, 6), f"MLP of ({B}, {T}, 6)", "B T C")


def test_MLP__computes_what_the_reference_computes_with_its_weights():
    for settings in CONFIGS:
        part, x = build(settings), draw(3, 4, settings.d_model, seed=1)
        what = (
            f"the output with d_ff={settings.d_ff}, activation={settings.activation} and "
            f"bias={settings.bias}"
        )
        expect_equal(part(x), reference(settings, part)(x), what, dims="B T C")


def test_MLP__bends_as_the_config_says():
    x = 2 * draw(4, 5, 6, seed=2, dtype=torch.float64)
    bends = {"gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}
    for activation, bend in bends.items():
        part = build(config(activation=activation), torch.float64)
        weights = dict(part.named_parameters())
        inside = bend(F.linear(x, weights["up_proj.weight"], weights["up_proj.bias"]))
        wanted = F.linear(inside, weights["down_proj.weight"], weights["down_proj.bias"])
        what = f"the output with activation={activation}, in float64,"
        expect_equal(part(x), wanted, what, dims="B T C", tolerance=1e-6)


def test_MLP__transforms_each_token_alone_and_all_alike():
    part, x = build(config()), draw(3, 4, 6)
    together = part(x)
    for b in range(3):
        for t in range(4):
            alone = part(x[b : b + 1, t : t + 1])[0, 0]
            what = f"token {t} of sequence {b} among others"
            expect_equal(together[b, t], alone, what, dims="C")


def test_MLP__drops_nothing_itself():
    settings = config(dropout=0.5)
    part, x = build(settings), draw(2, 5, 6)
    wanted = reference(settings, part)(x)
    note = "What a branch adds is dropped by the block, not here."
    for mode in (True, False):
        what = f"the output in {'training' if mode else 'evaluation'}, with dropout=0.5,"
        expect_equal(part.train(mode)(x), wanted, what, dims="B T C", note=note)


def test_MLP__keeps_the_dtype_and_its_input():
    for dtype, tolerance in [(torch.float64, 1e-6), (torch.bfloat16, 8e-2)]:
        part, x = build(config(), dtype), draw(2, 5, 6, dtype=dtype)
        before = x.clone()
        wanted = reference(config(), part)(before.clone())
        expect_equal(part(x), wanted, f"the output in {dtype}", dims="B T C", tolerance=tolerance)
        expect_unchanged(before, x, "x")


def test_MLP__takes_tokens_that_lie_in_memory_in_any_order():
    part, x = build(config()), draw(5, 3, 6).transpose(0, 1)
    wanted = reference(config(), part)(x.contiguous())
    expect_equal(part(x), wanted, "the output for a transposed input", dims="B T C")


def test_MLP__stays_on_the_device_of_its_input():
    expect_module_follows_device(lambda: mlp.MLP(config()), draw(2, 5, 6), "MLP")


def test_MLP__lets_gradients_through_to_every_weight():
    part, x = build(config(d_ff=7), torch.float64), draw(2, 5, 6, dtype=torch.float64)
    expect_part_gradients(part, reference(config(d_ff=7), part), x, "MLP")


def test_MLP__takes_its_place_in_the_real_model():
    settings = config(dropout=0.0, d_ff=10, activation="gelu_tanh")
    mine = Transformer(settings, Parts.for_config(settings, mlp=mlp.MLP), seed=3)
    real = Transformer(settings, seed=3)
    ids = torch.tensor([[1, 2, 3, 4], [10, 9, 0, 0]])
    expect_equal(
        mine.eval()(ids),
        real.eval()(ids),
        "the output of a model built with your part",
        dims="B T V",
    )
