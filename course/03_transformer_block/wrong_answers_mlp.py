"""Module 03, wrong answers: GELU in two forms, and the feed-forward part."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import mlp
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

ROOT_2 = math.sqrt(2)
ROOT = math.sqrt(2 / math.pi)


def probes_of_a_bend(f: Any) -> list[Any]:
    places = torch.tensor([-30.0, -3.0, -1.0, -0.2, 0.0, 0.5, 1.0, 2.5, 30.0])

    def gradient() -> Any:
        x = draw(6, seed=1).double().requires_grad_()
        f(x).sum().backward()
        return x.grad

    return [
        lambda: f(places),
        lambda: f(torch.zeros(3)),
        lambda: f(2 * draw(3, 4)),
        lambda: f(torch.tensor(1.5)),
        lambda: f(torch.tensor([-1e4, -300.0, 300.0, 1e4])),
        lambda: f(draw(3, 4, dtype=torch.float64)),
        lambda: 1e4 * f(3 * draw(3, 4, dtype=torch.float64)),
        lambda: f(draw(3, 4, dtype=torch.bfloat16)).dtype,
        lambda: changed(f, draw(3, 4)),
        gradient,
    ]


@probes("explicit_gelu")
def _(f: Any) -> list[Any]:
    return probes_of_a_bend(f)


@probes("explicit_gelu_tanh")
def _(f: Any) -> list[Any]:
    return probes_of_a_bend(f)


# explicit_gelu


@mutant("explicit_gelu", "The half is missing: Phi is (1 + erf) / 2, from 0 to 1.")
def without_the_half(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / ROOT_2))


@mutant("explicit_gelu", "erf takes x divided by the root of 2: yours takes x itself.")
def erf_of_x(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x))


@mutant("explicit_gelu", "erf takes x divided by the root of 2; you divide by 2.")
def divided_by_two(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2))


@mutant("explicit_gelu", "erf takes x divided by the root of 2; you multiply by it.")
def times_the_root(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x * ROOT_2))


@mutant("explicit_gelu", "This is Phi alone: multiply it by x.")
def phi_alone(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / ROOT_2))


@mutant("explicit_gelu", "The 1 inside the bracket is missing: Phi is (1 + erf) / 2.")
def without_the_one(x: Tensor) -> Tensor:
    return x * 0.5 * torch.erf(x / ROOT_2)


@mutant("explicit_gelu", "The sign is turned round: Phi(x) is (1 + erf) / 2, not (1 - erf) / 2.")
def one_minus(x: Tensor) -> Tensor:
    return x * 0.5 * (1 - torch.erf(x / ROOT_2))


@mutant(
    "explicit_gelu",
    "This is the approximation by a tanh, which differs in the fourth digit. The exact form has "
    "`torch.erf`.",
)
def by_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


@mutant(
    "explicit_gelu",
    "This is the approximation by a sigmoid, x sigmoid(1.702 x). The exact form has `torch.erf`.",
)
def by_sigmoid(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


@mutant("explicit_gelu", "This is SiLU, x sigmoid(x): GELU has the normal distribution's Phi.")
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@mutant("explicit_gelu", "This is a ReLU, which has a corner at 0.")
def relu(x: Tensor) -> Tensor:
    return F.relu(x)


@mutant(
    "explicit_gelu",
    "erf is replaced by tanh: they are alike, and not equal.",
)
def tanh_for_erf(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.tanh(x / ROOT_2))


@mutant(
    "explicit_gelu",
    "You multiply x by the density of the normal distribution. Phi is its integral: the share "
    "below x.",
)
def density_for_phi(x: Tensor) -> Tensor:
    return x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


@mutant("explicit_gelu", "You write into x: leave out `x *= ...` and names with an underscore.")
def writes_into_x(x: Tensor) -> Tensor:
    return x.mul_(0.5 * (1 + torch.erf(x / ROOT_2)))


@mutant("explicit_gelu", "You compute in float32 whatever comes in: keep the dtype of x.")
def gelu_in_float32(x: Tensor) -> Tensor:
    return F.gelu(x.float())


@mutant("explicit_gelu", "No gradient flows back: leave out detach(), .item() and no_grad().")
def gelu_without_gradients(x: Tensor) -> Tensor:
    return x * (0.5 * (1 + torch.erf(x / ROOT_2))).detach()


@rewrite("explicit_gelu")
def by_erfc(x: Tensor) -> Tensor:
    return 0.5 * x * torch.erfc(-x / ROOT_2)


@rewrite("explicit_gelu")
def by_the_distribution(x: Tensor) -> Tensor:
    return torch.special.ndtr(x) * x


@rewrite("explicit_gelu")
def in_two_lines(x: Tensor) -> Tensor:
    phi = torch.erf(x * 2**-0.5).add(1).div(2)
    return torch.mul(phi, x)


# explicit_gelu_tanh


def tanh_form(x: Tensor, inner: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(inner))


@mutant("explicit_gelu_tanh", "The half in front is missing.")
def tanh_without_the_half(x: Tensor) -> Tensor:
    return x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3)))


@mutant("explicit_gelu_tanh", "The cube is missing: the root multiplies x + 0.044715 x³.")
def without_the_cube(x: Tensor) -> Tensor:
    return tanh_form(x, ROOT * x)


@mutant("explicit_gelu_tanh", "It is the cube of x; yours is the square.")
def square_for_cube(x: Tensor) -> Tensor:
    return tanh_form(x, ROOT * (x + 0.044715 * x**2))


@mutant("explicit_gelu_tanh", "The factor is 0.044715: yours is another by a digit.")
def another_factor(x: Tensor) -> Tensor:
    return tanh_form(x, ROOT * (x + 0.44715 * x**3))


@mutant("explicit_gelu_tanh", "The factor 0.044715 is cubed with x: only x is.")
def factor_cubed(x: Tensor) -> Tensor:
    return tanh_form(x, ROOT * (x + (0.044715 * x) ** 3))


@mutant("explicit_gelu_tanh", "The root multiplies x alone: it multiplies x and the cube both.")
def root_of_x_alone(x: Tensor) -> Tensor:
    return tanh_form(x, ROOT * x + 0.044715 * x**3)


@mutant("explicit_gelu_tanh", "It is the root of 2 / pi, not of pi / 2.")
def root_turned_round(x: Tensor) -> Tensor:
    return tanh_form(x, math.sqrt(math.pi / 2) * (x + 0.044715 * x**3))


@mutant("explicit_gelu_tanh", "The root is missing: it is sqrt(2 / pi), not 2 / pi.")
def no_root(x: Tensor) -> Tensor:
    return tanh_form(x, 2 / math.pi * (x + 0.044715 * x**3))


@mutant("explicit_gelu_tanh", "The root is of 2 alone: it is sqrt(2 / pi), not sqrt(2) / pi.")
def root_of_two(x: Tensor) -> Tensor:
    return tanh_form(x, ROOT_2 / math.pi * (x + 0.044715 * x**3))


@mutant("explicit_gelu_tanh", "The 1 inside the bracket is missing.")
def tanh_without_the_one(x: Tensor) -> Tensor:
    return 0.5 * x * torch.tanh(ROOT * (x + 0.044715 * x**3))


@mutant("explicit_gelu_tanh", "The x in front is missing.")
def without_x_in_front(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3)))


@mutant("explicit_gelu_tanh", "This is the exact form, with erf. The approximation is asked for.")
def exact_form(x: Tensor) -> Tensor:
    return F.gelu(x)


@mutant("explicit_gelu_tanh", "This is the approximation by a sigmoid, x sigmoid(1.702 x).")
def sigmoid_form(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


@mutant("explicit_gelu_tanh", "The cube is taken away where it should be added.")
def cube_taken_away(x: Tensor) -> Tensor:
    return tanh_form(x, ROOT * (x - 0.044715 * x**3))


@mutant("explicit_gelu_tanh", "You write into x: leave out names with an underscore.")
def tanh_writes_into_x(x: Tensor) -> Tensor:
    return x.mul_(0.5 * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3))))


@mutant("explicit_gelu_tanh", "You compute in float32 whatever comes in: keep the dtype of x.")
def tanh_in_float32(x: Tensor) -> Tensor:
    return F.gelu(x.float(), approximate="tanh")


@mutant("explicit_gelu_tanh", "No gradient flows back: leave out detach(), .item() and no_grad().")
def tanh_without_gradients(x: Tensor) -> Tensor:
    return x * (0.5 * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3)))).detach()


@rewrite("explicit_gelu_tanh")
def by_a_sigmoid_of_twice(x: Tensor) -> Tensor:
    return x * torch.sigmoid(2 * ROOT * (x + 0.044715 * torch.pow(x, 3)))


@rewrite("explicit_gelu_tanh")
def factored(x: Tensor) -> Tensor:
    inner = math.sqrt(2) / math.sqrt(math.pi) * x * (1 + 0.044715 * x * x)
    return x * (torch.tanh(inner) + 1) / 2


@rewrite("explicit_gelu_tanh")
def the_fused_call(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# MLP: variations of one class, each with a step done in another way


class Part(nn.Module):
    """The right answer, in steps that a variation can replace."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C, inside = config.d_model, config.feed_forward_width
        self.up_proj = nn.Linear(C, inside, bias=config.bias)
        self.down_proj = nn.Linear(inside, C, bias=config.bias)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.p = config.dropout

    def bend(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.bend(self.up_proj(x)))


@probes("MLP")
def _(cls: Any) -> list[Any]:
    def config(**settings: Any) -> ModelConfig:
        return ModelConfig(**{"d_model": 6, "n_heads": 2, "dropout": 0.0, **settings})

    def part(dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
        built = cls(config(**settings))
        with torch.no_grad():
            for i, (_, parameter) in enumerate(sorted(built.named_parameters())):
                parameter.copy_(draw(*parameter.shape, seed=20 + i))
        return built.to(dtype)

    def shapes(**settings: Any) -> list[Any]:
        return [(n, tuple(p.shape)) for n, p in sorted(part(**settings).state_dict().items())]

    def learned() -> list[str]:
        return sorted(name for name, _ in part().named_parameters())

    def gradients() -> list[Any]:
        built, x = part(torch.float64), draw(2, 5, 6).double().requires_grad_()
        built(x).backward(draw(2, 5, 6, seed=9).double())
        leaves = [x, *(p for _, p in sorted(built.named_parameters()))]
        return [leaf.grad if leaf.grad is not None else "none" for leaf in leaves]

    def of_zeros() -> Tensor:
        built = part()
        with torch.no_grad():
            for _, parameter in built.named_parameters():
                parameter.zero_()
        return built(draw(2, 3, 6))

    return [
        shapes,
        lambda: shapes(bias=False),
        lambda: shapes(d_ff=5),
        learned,
        of_zeros,
        lambda: part()(draw(2, 5, 6)),
        lambda: part()(draw(6, 6, 6)),
        lambda: part()(draw(1, 1, 6)),
        lambda: part(bias=False)(draw(2, 5, 6)),
        lambda: part(d_ff=7)(draw(2, 5, 6)),
        lambda: part(d_ff=6, bias=False)(draw(2, 5, 6)),
        lambda: part(torch.float64, activation="gelu_tanh")(2 * draw(2, 5, 6).double()),
        lambda: part(torch.float64)(2 * draw(2, 5, 6).double()),
        lambda: part(dropout=0.5).train()(draw(2, 5, 6)),
        lambda: part(dropout=0.5).eval()(draw(2, 5, 6)),
        lambda: part(torch.bfloat16)(draw(2, 5, 6, dtype=torch.bfloat16)).dtype,
        lambda: changed(part(), draw(2, 5, 6)),
        gradients,
    ]


@mutant("MLP", "There is no bend between the layers, so the two are one: put the activation there.")
class WithoutABend(Part):
    def bend(self, x: Tensor) -> Tensor:
        return x


@mutant("MLP", "The bend is a ReLU: the config's activation is GELU.")
class ReluForGelu(Part):
    def bend(self, x: Tensor) -> Tensor:
        return F.relu(x)


@mutant("MLP", "The bend is SiLU, x sigmoid(x): the config's activation is GELU.")
class SiluForGelu(Part):
    def bend(self, x: Tensor) -> Tensor:
        return F.silu(x)


@mutant("MLP", "The bend is GELU's exact form whatever the config says: look at `activation`.")
class AlwaysExact(Part):
    def bend(self, x: Tensor) -> Tensor:
        return F.gelu(x)


@mutant("MLP", "The bend is the tanh form whatever the config says: look at `activation`.")
class AlwaysTanh(Part):
    def bend(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


@mutant("MLP", "The two forms of GELU are exchanged: `gelu` is the exact one.")
class FormsExchanged(Part):
    def bend(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="none" if self.approximate == "tanh" else "tanh")


@mutant("MLP", "The activation comes after `down_proj`. It belongs between the two layers.")
class BendAtTheEnd(Part):
    def forward(self, x: Tensor) -> Tensor:
        return self.bend(self.down_proj(self.up_proj(x)))


@mutant("MLP", "The activation comes before `up_proj`. It belongs between the two layers.")
class BendAtTheStart(Part):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.up_proj(self.bend(x)))


@mutant("MLP", "There is a second activation, after `down_proj`: the last layer has none.")
class TwoBends(Part):
    def forward(self, x: Tensor) -> Tensor:
        return self.bend(super().forward(x))


@mutant("MLP", "You add the input to the output. The block does that, around this part.")
class WithItsOwnResidual(Part):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


@mutant("MLP", "You normalise the input. The block does that, in front of this part.")
class WithItsOwnNorm(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.layer_norm(x, x.shape[-1:]))


@mutant("MLP", "You drop numbers of the output. The block drops what a branch adds.")
class DropsTheOutput(Part):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), self.p, self.training)


@mutant("MLP", "You drop numbers between the layers. There is no dropout in this part.")
class DropsInside(Part):
    def bend(self, x: Tensor) -> Tensor:
        return F.dropout(super().bend(x), self.p, self.training)


@mutant("MLP", "You drop numbers in evaluation as well. There is no dropout in this part.")
class DropsAlways(Part):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), self.p)


@mutant("MLP", "The width inside is always 4 d_model: use `config.feed_forward_width`.")
class AlwaysFourTimes(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        C = config.d_model
        self.up_proj = nn.Linear(C, 4 * C, bias=config.bias)
        self.down_proj = nn.Linear(4 * C, C, bias=config.bias)


@mutant("MLP", "The width inside is d_model: it is `config.feed_forward_width`.")
class NotWider(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        C = config.d_model
        self.up_proj, self.down_proj = (nn.Linear(C, C, bias=config.bias) for _ in "12")


@mutant(
    "MLP",
    "`config.d_ff` may be None, for 4 d_model: `config.feed_forward_width` knows it.",
)
class OnlyWithDFf(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        C = config.d_model
        inside: Any = config.d_ff
        self.up_proj = nn.Linear(C, inside, bias=config.bias)
        self.down_proj = nn.Linear(inside, C, bias=config.bias)


@mutant("MLP", "The layers have no biases where the config asks for them: `bias=config.bias`.")
class NeverABias(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        C, inside = config.d_model, config.feed_forward_width
        self.up_proj = nn.Linear(C, inside, bias=False)
        self.down_proj = nn.Linear(inside, C, bias=False)


@mutant("MLP", "The layers have biases where the config asks for none: `bias=config.bias`.")
class AlwaysABias(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        C, inside = config.d_model, config.feed_forward_width
        self.up_proj, self.down_proj = nn.Linear(C, inside), nn.Linear(inside, C)


@mutant("MLP", "Only one of the two layers looks at `config.bias`.")
class OneBiasForgotten(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.down_proj = nn.Linear(config.feed_forward_width, config.d_model)


@mutant(
    "MLP",
    "The layers have other names than the reference's, so its weights do not load: `up_proj` and "
    "`down_proj`.",
)
class OtherNames(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C, inside = config.d_model, config.feed_forward_width
        self.fc1, self.fc2 = (
            nn.Linear(C, inside, bias=config.bias),
            nn.Linear(inside, C, bias=config.bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


@mutant(
    "MLP",
    "The layers are in an nn.Sequential, so their parameters are called `net.0.weight` and so on. "
    "Keep them as `self.up_proj` and `self.down_proj`.",
)
class InASequential(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C, inside = config.d_model, config.feed_forward_width
        layers = [nn.Linear(C, inside, config.bias), nn.GELU(), nn.Linear(inside, C, config.bias)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@mutant("MLP", "The names are exchanged: `up_proj` widens, and `down_proj` narrows.")
class NamesExchanged(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.up_proj, self.down_proj = self.down_proj, self.up_proj

    def forward(self, x: Tensor) -> Tensor:
        return self.up_proj(self.bend(self.down_proj(x)))


@mutant("MLP", "There is a third layer, `gate_proj`, which only SwiGLU has.")
class WithAGate(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate_proj = nn.Linear(config.d_model, config.feed_forward_width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.bend(self.gate_proj(x)) * self.up_proj(x))


@mutant("MLP", "The output is averaged over the tokens: each token is transformed alone.")
class AveragedOverTokens(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(1, keepdim=True).expand_as(x))


@mutant("MLP", "You write into the input, which the block still needs.")
class WritesIntoItsInput(Part):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        with torch.no_grad():
            x.mul_(0.5)
        return y


@mutant("MLP", "You compute in float32 whatever comes in: the output should have the dtype of x.")
class AlwaysFloat32(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


@mutant("MLP", "No gradient reaches the input, so the layers below would not learn.")
class DetachedInput(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


@mutant("MLP", "No gradient reaches `up_proj`: leave out detach() and torch.no_grad().")
class DetachedInside(Part):
    def bend(self, x: Tensor) -> Tensor:
        return super().bend(x).detach()


@mutant("MLP", "An axis is missing: sequences stay apart, so nothing is to be flattened.")
class Flattened(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1))


@mutant("MLP", "The biases are used before the products, or not at all: call the layers.")
class WeightsWithoutBiases(Part):
    def forward(self, x: Tensor) -> Tensor:
        return self.bend(x @ self.up_proj.weight.T) @ self.down_proj.weight.T


@rewrite("MLP")
class OnYourOwnFunctions(Part):
    def bend(self, x: Tensor) -> Tensor:
        form = mlp.explicit_gelu_tanh if self.approximate == "tanh" else mlp.explicit_gelu
        return form(x)


@rewrite("MLP")
class WithAModuleForTheBend(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        bends = {"gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh")}
        self.activation = bends[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        x = self.up_proj(x)
        x = self.activation(x)
        return self.down_proj(x)


@rewrite("MLP")
class ByEinsum(Part):
    def forward(self, x: Tensor) -> Tensor:
        up, down = self.up_proj, self.down_proj
        inside = torch.einsum("btc,fc->btf", x, up.weight)
        inside = self.bend(inside if up.bias is None else inside + up.bias)
        y = torch.einsum("btf,cf->btc", inside, down.weight)
        return y if down.bias is None else y + down.bias


@rewrite("MLP")
class OneTokenAtATime(Part):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super(OneTokenAtATime, self).forward(t) for t in x.unbind(1)], dim=1)
