"""Module 03, wrong answers: LayerNorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import layer_norm
from torch import Tensor, nn

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

Bias = Tensor | None


def shifted(y: Tensor, bias: Bias) -> Tensor:
    return y if bias is None else y + bias


def right(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


# explicit_layer_norm


@probes("explicit_layer_norm")
def _(f: Any) -> list[Any]:
    def inputs(*shape: int, dtype: torch.dtype = torch.float32, eps: float = 0.1) -> Any:
        weight, bias = (draw(shape[-1], seed=s, dtype=dtype) for s in (2, 3))
        return 2 * draw(*shape, seed=1, dtype=dtype) + 3, weight, bias, eps

    def gradient() -> list[Tensor]:
        x, weight, bias, eps = inputs(3, 4, dtype=torch.float64)
        leaves = [each.clone().requires_grad_() for each in (x, weight, bias)]
        return list(torch.autograd.grad(f(*leaves, eps), leaves, draw(3, 4).double()))

    return [
        lambda: f(torch.tensor([[1.0, 5.0]]), torch.ones(2), None, 0.0),
        lambda: f(torch.tensor([[1.0, 5.0], [3.0, 3.0]]), torch.ones(2), None, 5.0),
        lambda: f(*inputs(5)),
        lambda: f(*inputs(3, 4)),
        lambda: f(*inputs(4, 4)),
        lambda: f(*inputs(2, 3, 5)),
        lambda: f(*inputs(4, 4, 4)),
        lambda: f(*inputs(3, 5, eps=2.0)),
        lambda: f(draw(3, 4), torch.ones(4), torch.ones(4), 1e-5),
        lambda: f(draw(3, 4), draw(4, seed=5), None, 1e-5),
        lambda: f(1000 + draw(3, 4), torch.ones(4), None, 1e-5),
        lambda: f(torch.full((2, 3), 7.0), torch.ones(3), torch.ones(3), 1e-5),
        lambda: f(*inputs(3, 4, dtype=torch.float64)),
        lambda: f(*inputs(3, 4, dtype=torch.bfloat16)).dtype,
        lambda: changed(lambda x, w, b: f(x, w, b, 0.1), *inputs(3, 4)[:3]),
        gradient,
    ]


@mutant(
    "explicit_layer_norm",
    "Your variance is divided by dim - 1, as `var` and `std` do by themselves. Here it is the "
    "mean of the squares: divide by dim (`correction=0`, or `.mean()`).",
)
def unbiased_variance(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    variance = x.var(-1, keepdim=True)
    return shifted((x - x.mean(-1, keepdim=True)) / torch.sqrt(variance + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "You add eps to the deviation, outside the root. It belongs to the variance, inside it.",
)
def eps_outside_the_root(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    deviation = x.var(-1, keepdim=True, correction=0).sqrt()
    return shifted((x - x.mean(-1, keepdim=True)) / (deviation + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "Two things at once: eps is added outside the root, and the variance is divided by dim - 1.",
)
def eps_outside_and_unbiased(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return shifted((x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps) * weight, bias)


@mutant("explicit_layer_norm", "`eps` is not used: add it to the variance, inside the root.")
def eps_ignored(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return right(x, weight, bias, 0.0)


@mutant(
    "explicit_layer_norm",
    "Your eps is a fixed 1e-5: use the one that is given.",
)
def eps_fixed(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return right(x, weight, bias, 1e-5)


@mutant(
    "explicit_layer_norm",
    "You divide by the variance. Divide by its root, the deviation.",
)
def divided_by_the_variance(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    variance = x.var(-1, keepdim=True, correction=0)
    return shifted((x - x.mean(-1, keepdim=True)) / (variance + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "You square eps, or take it for a deviation: it is added to the variance as it is.",
)
def eps_squared(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return right(x, weight, bias, eps**2)


@mutant(
    "explicit_layer_norm",
    "The mean is not taken away from what is divided: subtract it first.",
)
def mean_left_in(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    variance = x.var(-1, keepdim=True, correction=0)
    return shifted(x / torch.sqrt(variance + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "You divide by the root of the mean square of x itself, which is RMSNorm. LayerNorm takes the "
    "mean away, in both places.",
)
def root_mean_square(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return shifted(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "The variance is that of x squared, mean not taken away: subtract the mean before you square.",
)
def mean_square_for_variance(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    square = x.square().mean(-1, keepdim=True)
    return shifted((x - x.mean(-1, keepdim=True)) * torch.rsqrt(square + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "You take the mean of the squares minus the square of the mean. On paper that is the variance; "
    "for numbers far from zero the digits that matter are lost. Take the mean away first.",
)
def squares_before_the_mean(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True) - mean.square()
    return shifted((x - mean) * torch.rsqrt(variance + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "Mean and variance are those of all numbers together. Each vector has its own: `dim=-1` and "
    "`keepdim=True`.",
)
def over_everything(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return shifted((x - x.mean()) * torch.rsqrt(x.var(correction=0) + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "Mean and variance are taken over the first axis, each channel over the batch: that is a "
    "BatchNorm. Take them over the last axis.",
)
def over_the_first_axis(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    variance = x.var(0, keepdim=True, correction=0)
    return shifted((x - x.mean(0, keepdim=True)) * torch.rsqrt(variance + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "Mean and variance are taken over the last axis but one, the tokens. Take them over the last, "
    "the channels.",
)
def over_the_tokens(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    variance = x.var(-2, keepdim=True, correction=0)
    return shifted((x - x.mean(-2, keepdim=True)) * torch.rsqrt(variance + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "Mean and variance are taken over the last two axes, so tokens of a sequence share them. Each "
    "token has its own.",
)
def over_two_axes(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    axes = tuple(range(x.ndim))[-2:]
    variance = x.var(axes, keepdim=True, correction=0)
    return shifted((x - x.mean(axes, keepdim=True)) * torch.rsqrt(variance + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "Mean and variance have lost their axis, and so are lined up with the wrong numbers: "
    "`keepdim=True`.",
)
def without_keepdim(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return shifted((x - x.mean(-1)) * torch.rsqrt(x.var(-1, correction=0) + eps) * weight, bias)


@mutant("explicit_layer_norm", "`weight` is not used: multiply by it.")
def scale_ignored(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return right(x, torch.ones_like(weight), bias, eps)


@mutant("explicit_layer_norm", "`bias` is not used: add it, unless it is None.")
def shift_ignored(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return right(x, weight, None, eps)


@mutant("explicit_layer_norm", "`bias` may be None: then nothing is added.")
def shift_never_none(x: Tensor, weight: Tensor, bias: Any, eps: float) -> Tensor:
    return right(x, weight, None, eps) + bias


@mutant(
    "explicit_layer_norm",
    "You shift and then scale, so the shift is scaled too. Scale first.",
)
def shift_before_the_scale(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    plain = right(x, torch.ones_like(weight), None, eps)
    return shifted(plain, bias) * weight


@mutant(
    "explicit_layer_norm",
    "You scale x before it is normalised, and the division takes the scale away again: scale last.",
)
def scaled_first(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    return shifted(F.layer_norm(x * weight, x.shape[-1:], eps=eps), bias)


@mutant(
    "explicit_layer_norm",
    "You write into x, which the caller still needs: the residual adds to it. Leave out operations "
    "whose name ends in an underscore, and `x -= ...`.",
)
def writes_into_its_input(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    x -= x.mean(-1, keepdim=True)
    x /= torch.sqrt(x.square().mean(-1, keepdim=True) + eps)
    return shifted(x * weight, bias)


@mutant(
    "explicit_layer_norm",
    "You compute in float32 whatever comes in: the output should have the dtype of x.",
)
def always_float32(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    shift = None if bias is None else bias.float()
    return right(x.float(), weight.float(), shift, eps)


@mutant(
    "explicit_layer_norm",
    "Mean and variance are cut off from the gradient: they depend on x as well. Leave out "
    "detach(), .item() and torch.no_grad().",
)
def detached_statistics(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True).detach()
    variance = x.var(-1, keepdim=True, correction=0).detach()
    return shifted((x - mean) * torch.rsqrt(variance + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "You divide by the mean of the absolute differences. The deviation is the root of the mean "
    "square.",
)
def mean_absolute_difference(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return shifted(centred / (centred.abs().mean(-1, keepdim=True) + eps) * weight, bias)


@mutant(
    "explicit_layer_norm",
    "You divide by the length of the vector, the root of the sum of the squares: the mean of the "
    "squares is asked for.",
)
def sum_of_squares(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return shifted(
        centred * torch.rsqrt(centred.square().sum(-1, keepdim=True) + eps) * weight, bias
    )


@rewrite("explicit_layer_norm")
def with_var(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    mean = torch.mean(x, -1, keepdim=True)
    normalised = (x - mean) / (torch.var(x, -1, correction=0, keepdim=True) + eps).sqrt()
    return torch.addcmul(torch.zeros_like(x) if bias is None else bias, normalised, weight)


@rewrite("explicit_layer_norm")
def with_unsqueeze(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    centred = x - (x.sum(dim=-1) / x.size(-1)).unsqueeze(-1)
    variance = torch.einsum("...c,...c->...", centred, centred) / x.size(-1)
    y = weight * centred / torch.sqrt(variance + eps)[..., None]
    if bias is not None:
        y = y + bias
    return y


@rewrite("explicit_layer_norm")
def one_row_at_a_time(x: Tensor, weight: Tensor, bias: Bias, eps: float) -> Tensor:
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        row = row - row.mean()
        row = row * (row.pow(2).mean() + eps).pow(-0.5) * weight
        rows.append(row if bias is None else row + bias)
    return torch.stack(rows).view(x.shape)


# LayerNorm: variations of one class, each with a step done in another way


class Part(nn.Module):
    """The right answer, in steps that a variation can replace."""

    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def normal(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return shifted(self.normal(x) * self.weight, self.bias)


def function(name: str) -> Callable[..., Tensor]:
    """Return one of the wrong functions above, by name."""
    return globals()[name]


class ByFunction(Part):
    """A part that normalises by one of the wrong functions above."""

    wrong = ""

    def forward(self, x: Tensor) -> Tensor:
        return function(self.wrong)(x, self.weight, self.bias, self.eps)


@probes("LayerNorm")
def _(cls: Any) -> list[Any]:
    def part(dim: int, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
        built = cls(dim, **settings)
        with torch.no_grad():
            for i, (_, parameter) in enumerate(sorted(built.named_parameters())):
                parameter.copy_(draw(*parameter.shape, seed=20 + i))
        return built.to(dtype)

    def state(**settings: Any) -> list[Any]:
        return sorted(cls(4, **settings).state_dict().items())

    def learned(**settings: Any) -> list[str]:
        return sorted(name for name, _ in cls(4, **settings).named_parameters())

    def after_training(mode: bool) -> Tensor:
        built = part(4)
        built.train()(50 * draw(6, 4) + 100)
        return built.train(mode)(draw(3, 4, seed=8)).detach()

    def gradients() -> list[Any]:
        built, x = part(5, torch.float64, eps=0.1), draw(3, 5).double().requires_grad_()
        built(x).backward(draw(3, 5, seed=9).double())
        leaves = [x, *(p for _, p in sorted(built.named_parameters()))]
        return [leaf.grad if leaf.grad is not None else "none" for leaf in leaves]

    return [
        state,
        lambda: state(bias=False),
        learned,
        lambda: cls(4, bias=False).bias,
        lambda: cls(2, eps=5.0)(torch.tensor([[1.0, 5.0], [3.0, 3.0]])),
        lambda: cls(4)(draw(3, 4)),
        lambda: part(4)(draw(4)),
        lambda: part(5)(2 * draw(3, 5) + 1),
        lambda: part(5)(2 * draw(2, 3, 5) + 1),
        lambda: part(4)(draw(4, 4, 4)),
        lambda: part(5, eps=0.5)(draw(2, 3, 5)),
        lambda: part(5, bias=False)(draw(2, 3, 5)),
        lambda: part(4)(0.003 * draw(3, 4)),
        lambda: part(8)(1000 + draw(4, 8)),
        lambda: after_training(True),
        lambda: after_training(False),
        lambda: part(8, torch.float64)(draw(2, 3, 8, dtype=torch.float64)),
        lambda: part(8, torch.bfloat16)(draw(2, 3, 8, dtype=torch.bfloat16)).dtype,
        lambda: changed(part(8), draw(2, 3, 8)),
        gradients,
    ]


@mutant(
    "LayerNorm",
    "Your variance is divided by dim - 1. Here it is the mean of the squares: divide by dim.",
)
class UnbiasedVariance(ByFunction):
    wrong = "unbiased_variance"


@mutant("LayerNorm", "eps is added outside the root. It belongs to the variance, inside it.")
class EpsOutsideTheRoot(ByFunction):
    wrong = "eps_outside_the_root"


@mutant(
    "LayerNorm",
    "eps is added outside the root, and the variance is divided by dim - 1.",
)
class EpsOutsideAndUnbiased(ByFunction):
    wrong = "eps_outside_and_unbiased"


@mutant("LayerNorm", "The `eps` that the constructor is given is not used: keep it in `self.eps`.")
class EpsFixed(ByFunction):
    wrong = "eps_fixed"


@mutant("LayerNorm", "You divide by the variance. Divide by its root, the deviation.")
class DividedByTheVariance(ByFunction):
    wrong = "divided_by_the_variance"


@mutant(
    "LayerNorm",
    "Your part is an RMSNorm: the mean is not taken away. LayerNorm takes it away before it "
    "squares.",
)
class RootMeanSquare(ByFunction):
    wrong = "root_mean_square"


@mutant(
    "LayerNorm",
    "Mean of squares minus square of mean loses the digits that matter for numbers far from zero. "
    "Take the mean away first.",
)
class SquaresBeforeTheMean(ByFunction):
    wrong = "squares_before_the_mean"


@mutant(
    "LayerNorm",
    "Mean and variance are those of all numbers together. Each token has its own.",
)
class OverEverything(ByFunction):
    wrong = "over_everything"


@mutant(
    "LayerNorm",
    "Mean and variance are taken over the first axis, as in a BatchNorm. Take them over the last.",
)
class OverTheFirstAxis(ByFunction):
    wrong = "over_the_first_axis"


@mutant(
    "LayerNorm",
    "Mean and variance are taken over the tokens. Take them over the last axis, the channels.",
)
class OverTheTokens(ByFunction):
    wrong = "over_the_tokens"


@mutant(
    "LayerNorm",
    "Mean and variance are taken over the last two axes, so the tokens of a sequence share them.",
)
class OverTwoAxes(ByFunction):
    wrong = "over_two_axes"


@mutant("LayerNorm", "The scale is not used: multiply by `self.weight`.")
class ScaleIgnored(ByFunction):
    wrong = "scale_ignored"


@mutant("LayerNorm", "The shift is not used: add `self.bias`, unless it is None.")
class ShiftIgnored(ByFunction):
    wrong = "shift_ignored"


@mutant("LayerNorm", "You shift and then scale, so the shift is scaled too. Scale first.")
class ShiftBeforeTheScale(ByFunction):
    wrong = "shift_before_the_scale"


@mutant(
    "LayerNorm",
    "You scale before you normalise, and the division takes the scale away again. Scale last.",
)
class ScaledFirst(ByFunction):
    wrong = "scaled_first"


@mutant("LayerNorm", "You write into the input, which the residual still needs.")
class WritesIntoItsInput(ByFunction):
    wrong = "writes_into_its_input"

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            super().forward(x)  # what it writes stays
        return shifted(x * self.weight, self.bias)


@mutant("LayerNorm", "You compute in float32 whatever comes in: keep the dtype of x.")
class AlwaysFloat32(ByFunction):
    wrong = "always_float32"


@mutant(
    "LayerNorm",
    "Mean and variance are cut off from the gradient. Leave out detach() and torch.no_grad().",
)
class DetachedStatistics(ByFunction):
    wrong = "detached_statistics"


@mutant("LayerNorm", "The scale begins as zeros, and nothing comes through. It begins as ones.")
class ScaleOfZeros(Part):
    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(dim, **settings)
        nn.init.zeros_(self.weight)


@mutant("LayerNorm", "The scale begins as random numbers. It begins as ones.")
class RandomScale(Part):
    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(dim, **settings)
        self.weight = nn.Parameter(torch.randn(dim))


@mutant("LayerNorm", "The shift begins as ones. It begins as zeros.")
class ShiftOfOnes(Part):
    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(dim, **settings)
        if self.bias is not None:
            nn.init.ones_(self.bias)


@mutant(
    "LayerNorm",
    "There is a shift although `bias=False` asks for none: `self.bias = None` there.",
)
class AlwaysAShift(Part):
    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(dim, eps=eps)


@mutant("LayerNorm", "There is no shift, although `bias=True` asks for one.")
class NeverAShift(Part):
    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(dim, eps=eps, bias=False)


@mutant(
    "LayerNorm",
    "The parameters have other names than the reference's, so its weights do not load: `weight` "
    "and `bias`.",
)
class OtherNames(nn.Module):
    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps, self.gamma = eps, nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.gamma.shape, self.gamma, self.beta, self.eps)


@mutant(
    "LayerNorm",
    "The layer is inside another one, so its parameters are called `norm.weight` and `norm.bias`. "
    "Keep them as `self.weight` and `self.bias`.",
)
class OneNameTooMany(nn.Module):
    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@mutant(
    "LayerNorm",
    "Scale and shift are plain tensors: they are neither learned nor stored. Wrap them in "
    "`nn.Parameter`.",
)
class PlainTensors(nn.Module):
    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps, self.weight = eps, torch.ones(dim)
        self.bias = torch.zeros(dim) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@mutant(
    "LayerNorm",
    "The scale is a plain tensor: it is neither learned nor stored. Wrap it in `nn.Parameter`, as "
    "the shift.",
)
class PlainScale(Part):
    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(dim, **settings)
        del self.weight
        self.weight = torch.ones(dim)


@mutant(
    "LayerNorm",
    "Scale and shift are buffers: they are stored and move with the model, and no optimizer sees "
    "them. Wrap them in `nn.Parameter`.",
)
class Buffers(nn.Module):
    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(dim))
        self.register_buffer("bias", torch.zeros(dim) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


@mutant(
    "LayerNorm",
    "There is one scale for all channels: each has its own, so the weight is (dim,).",
)
class OneScaleForAll(Part):
    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(dim, **settings)
        self.weight = nn.Parameter(torch.ones(1))


@mutant(
    "LayerNorm",
    "Your part remembers mean and variance from training and uses them in evaluation, as a "
    "BatchNorm does. Each token brings its own, always.",
)
class RemembersStatistics(Part):
    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(dim, **settings)
        self.register_buffer("mean", torch.zeros(dim), persistent=False)

    def normal(self, x: Tensor) -> Tensor:
        flat = x.detach().reshape(-1, x.shape[-1])
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * flat.mean(0)
            return super().normal(x)
        return super().normal(x - self.mean)


@mutant(
    "LayerNorm",
    "`eps` is stored with the weights, and the reference stores none: keep a plain number.",
)
class StoredEps(Part):
    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(dim, **settings)
        self.register_buffer("epsilon", torch.tensor(self.eps))


@mutant(
    "LayerNorm",
    "No gradient reaches the input, so the layers below would not learn: leave out detach().",
)
class DetachedInput(Part):
    def normal(self, x: Tensor) -> Tensor:
        return super().normal(x.detach())


@mutant("LayerNorm", "The default of `eps` is 1e-5: yours is another.")
class AnotherDefault(Part):
    def __init__(self, dim: int, *, eps: float = 1e-6, bias: bool = True) -> None:
        super().__init__(dim, eps=eps, bias=bias)


@rewrite("LayerNorm")
class FusedCall(Part):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@rewrite("LayerNorm")
class ByTheFormula(nn.Module):
    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), None
        if bias:
            self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        y = (x - mean) / (variance + self.eps).sqrt() * self.weight
        return y if self.bias is None else y + self.bias


@rewrite("LayerNorm")
class OnYourOwnFunction(Part):
    def forward(self, x: Tensor) -> Tensor:
        return layer_norm.explicit_layer_norm(x, self.weight, self.bias, self.eps)


@rewrite("LayerNorm")
class CentredAndDividedByItsLength(Part):
    def normal(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        mean_square = (centred * centred).sum(-1, keepdim=True) / x.shape[-1]
        return centred * (mean_square + self.eps) ** -0.5
