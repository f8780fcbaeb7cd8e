"""Module 03, wrong answers: dropout, and first weights."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

# Dropout: variations of one class, each with a step done in another way


class Part(nn.Module):
    """The right answer, in steps that a variation can replace."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.p = probability

    def keep(self, x: Tensor) -> Tensor:
        return torch.rand_like(x, dtype=torch.float32) >= self.p

    def larger(self, x: Tensor) -> Tensor:
        return x / (1 - self.p)

    def active(self) -> bool:
        return self.training

    def forward(self, x: Tensor) -> Tensor:
        return self.larger(x * self.keep(x).to(x.dtype)) if self.active() else x


@probes("Dropout")
def _(cls: Any) -> list[Any]:
    def trained(p: float = 0.25, *shape: int) -> Tensor:
        return cls(p).train()(torch.ones(shape or (40, 50)))

    def kinds(p: float) -> list[float]:
        """Return what numbers are multiplied by, each kind once."""
        return (trained(p) * 100).round().unique().tolist()[:4]

    def share(p: float) -> int:
        return round((trained(p) == 0).float().mean().item() * 10)

    def together(axis: int) -> bool:
        """Return whether all numbers at one place of an axis are dropped together."""
        others = [a for a in range(3) if a != axis]
        gone = (trained(0.5, 20, 30, 40) == 0).float()
        return bool(gone.mean(dim=others).std() > 0.2)

    def alike(axis: int) -> bool:
        """Return whether each place of an axis drops the same numbers."""
        gone = (trained(0.5, 20, 30, 40) == 0).movedim(axis, 0)
        return bool((gone[0] == gone[1]).float().mean() > 0.8)

    def same_twice() -> bool:
        drop = cls(0.5).train()
        return torch.equal(drop(torch.ones(500)), drop(torch.ones(500)))

    def same_in_two() -> bool:
        return torch.equal(cls(0.5)(torch.ones(500)), cls(0.5)(torch.ones(500)))

    def counts() -> bool:
        drop = cls(0.5).train()
        return len({int((drop(torch.ones(64)) == 0).sum()) for _ in range(12)}) > 1

    def gradient() -> list[Any]:
        x = torch.ones(500).requires_grad_()
        y = cls(0.75).train()(x)
        (found,) = torch.autograd.grad(y, x, torch.ones(500))
        return [(found * 100).round().unique().tolist()[:4], bool(((found == 0) == (y == 0)).all())]

    def other_shapes() -> list[Any]:
        drop = cls(0.5).train()
        return [tuple(drop(torch.ones(shape)).shape) for shape in [(4, 5), (3,), (2, 3, 4, 5)]]

    def on_meta() -> str:
        return str(cls(0.5).train()(torch.ones(3, 4, device="meta")).device)

    def by_sign() -> bool:
        y = cls(0.5).train()(torch.cat([torch.ones(500), -torch.ones(500)]))
        return bool((y[:500] == 0).any() and (y[500:] == 0).any())

    return [
        lambda: kinds(0.25),
        lambda: kinds(0.5),
        lambda: kinds(0.875),
        lambda: share(0.125),
        lambda: share(0.5),
        lambda: share(0.75),
        lambda: together(0),
        lambda: together(1),
        lambda: together(2),
        lambda: alike(0),
        lambda: alike(1),
        lambda: alike(2),
        same_twice,
        same_in_two,
        counts,
        by_sign,
        lambda: cls(0.25).eval()(draw(3, 4)),
        lambda: cls(0.5).eval()(draw(3, 4)),
        lambda: cls(0.0).train()(draw(3, 4)),
        lambda: len(cls(0.5).state_dict()),
        lambda: cls(0.5).train()(draw(3, 4, dtype=torch.bfloat16)).dtype,
        lambda: cls(0.5).train()(draw(3, 4, dtype=torch.float64)).dtype,
        lambda: changed(cls(0.5).train(), draw(30, 40)),
        lambda: changed(cls(0.5).eval(), draw(30, 40)),
        gradient,
        other_shapes,
        on_meta,
    ]


@mutant(
    "Dropout",
    "What stays is not enlarged, so the mean falls in training: divide by 1 - p.",
)
class NotEnlarged(Part):
    def larger(self, x: Tensor) -> Tensor:
        return x


@mutant("Dropout", "What stays is divided by p. Divide by 1 - p, the share that stays.")
class DividedByTheProbability(Part):
    def larger(self, x: Tensor) -> Tensor:
        return x / self.p if self.p else x


@mutant("Dropout", "What stays is multiplied by 1 - p, and made smaller: divide by it.")
class MadeSmaller(Part):
    def larger(self, x: Tensor) -> Tensor:
        return x * (1 - self.p)


@mutant("Dropout", "What stays is multiplied by 1 + p: divide by 1 - p.")
class OnePlus(Part):
    def larger(self, x: Tensor) -> Tensor:
        return x * (1 + self.p)


@mutant(
    "Dropout",
    "You do not enlarge in training and make smaller in evaluation: the first form of dropout. "
    "The inverted one enlarges in training, and evaluation does nothing.",
)
class NotInverted(Part):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.keep(x).to(x.dtype) if self.training else x * (1 - self.p)


@mutant("Dropout", "Numbers are enlarged in evaluation too: there, nothing is done.")
class EnlargedInEvaluation(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else self.larger(x)


@mutant("Dropout", "Numbers are dropped in evaluation too: ask `self.training`.")
class DropsInEvaluation(Part):
    def active(self) -> bool:
        return True


@mutant("Dropout", "Nothing is dropped in training.")
class NeverDrops(Part):
    def active(self) -> bool:
        return False


@mutant("Dropout", "Numbers are dropped in evaluation and not in training: turn it round.")
class TurnedRound(Part):
    def active(self) -> bool:
        return not self.training


@mutant("Dropout", "You keep numbers with probability p. Drop with it, and keep with 1 - p.")
class KeepsWithTheProbability(Part):
    def keep(self, x: Tensor) -> Tensor:
        return torch.rand_like(x) < self.p


@mutant(
    "Dropout",
    "You keep with probability p and enlarge by 1 / p, as if p were the share that stays. It is "
    "the share that goes.",
)
class ProbabilityOfKeeping(Part):
    def keep(self, x: Tensor) -> Tensor:
        return torch.rand_like(x) < self.p

    def larger(self, x: Tensor) -> Tensor:
        return x / self.p if self.p else x


@mutant(
    "Dropout",
    "The draws are from a normal distribution: `torch.rand` is even from 0 to 1.",
)
class NormalDraws(Part):
    def keep(self, x: Tensor) -> Tensor:
        return torch.randn_like(x) >= self.p


@mutant("Dropout", "The probability is always a half: use the one that is given.")
class AlwaysAHalf(Part):
    def __init__(self, probability: float) -> None:
        super().__init__(0.5 if probability else 0.0)


@mutant("Dropout", "All numbers of a vector are dropped together: draw for each number.")
class WholeVectors(Part):
    def keep(self, x: Tensor) -> Tensor:
        return (torch.rand_like(x[..., :1]) >= self.p).expand_as(x)


@mutant(
    "Dropout",
    "Whole sequences of the batch are dropped: draw for each number.",
)
class WholeSequences(Part):
    def keep(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], *(1 for _ in x.shape[1:]))
        return (torch.rand(shape, device=x.device) >= self.p).expand_as(x)


@mutant("Dropout", "Every sequence of the batch drops the same numbers: draw for each number.")
class AlikeInTheBatch(Part):
    def keep(self, x: Tensor) -> Tensor:
        return (torch.rand_like(x[:1]) >= self.p).expand_as(x)


@mutant("Dropout", "Whole channels are dropped, for all tokens: draw for each number.")
class WholeChannels(Part):
    def keep(self, x: Tensor) -> Tensor:
        return (torch.rand(x.shape[-1], device=x.device) >= self.p).expand_as(x)


@mutant("Dropout", "Everything is dropped or nothing, by one draw: draw for each number.")
class AllOrNothing(Part):
    def keep(self, x: Tensor) -> Tensor:
        return (torch.rand((), device=x.device) >= self.p).expand_as(x)


@mutant("Dropout", "Every call drops the same numbers: seed nothing, and draw in each call.")
class SeededAnew(Part):
    def keep(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return (torch.rand(x.shape, generator=generator) >= self.p).to(x.device)


@mutant(
    "Dropout",
    "The first draw is kept and used again, also for other inputs: draw in each call.",
)
class DrawnOnce(Part):
    mask: Tensor | None = None

    def keep(self, x: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = super().keep(x)
        return self.mask


@mutant(
    "Dropout",
    "Exactly the share p of the numbers is dropped, every time. Each number draws for itself.",
)
class ExactShare(Part):
    def keep(self, x: Tensor) -> Tensor:
        order = torch.randperm(x.numel(), device=x.device).view(x.shape)
        return order >= round(self.p * x.numel())


@mutant("Dropout", "The first numbers are dropped, not random ones: `torch.rand_like` draws.")
class TheFirstNumbers(Part):
    def keep(self, x: Tensor) -> Tensor:
        places = torch.arange(x.numel(), device=x.device).view(x.shape)
        return places >= round(self.p * x.numel())


@mutant("Dropout", "You write into the input: leave out `x *= ...` and `x[mask] = 0`.")
class WritesIntoItsInput(Part):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = self.keep(x)
        with torch.no_grad():
            x.masked_fill_(~keep, 0.0)
        return self.larger(x * keep.to(x.dtype))


@mutant("Dropout", "The output is float32 whatever comes in: keep the dtype of x.")
class AlwaysFloat32(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


@mutant("Dropout", "No gradient flows back through what stayed: leave out detach().")
class WithoutGradients(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach()) + 0 * x if self.training else x


@mutant(
    "Dropout",
    "Gradients flow back as if nothing was dropped: multiply x by the draws, with gradients.",
)
class GradientsOfEverything(Part):
    def forward(self, x: Tensor) -> Tensor:
        return x + (super().forward(x) - x).detach() if self.training else x


@mutant("Dropout", "Random numbers are added to what stays: only zero, and enlarge.")
class WithNoise(Part):
    def larger(self, x: Tensor) -> Tensor:
        return super().larger(x) + 0.1 * torch.rand_like(x) * (x != 0)


@mutant("Dropout", "The probability is stored with the weights. A plain number is no buffer.")
class StoredProbability(Part):
    def __init__(self, probability: float) -> None:
        super().__init__(probability)
        self.register_buffer("probability", torch.tensor(probability))


@mutant(
    "Dropout",
    "The draws are made on the CPU, wherever x is: `torch.rand_like(x)`, or `device=x.device`.",
)
class DrawsOnTheCPU(Part):
    def keep(self, x: Tensor) -> Tensor:
        return torch.rand(x.shape) >= self.p


@rewrite("Dropout")
class ByABernoulli(nn.Module):
    def __init__(self, probability: float) -> None:
        super().__init__()
        self.keep_probability = 1.0 - probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.keep_probability == 1.0:
            return x
        kept = torch.bernoulli(torch.full_like(x, self.keep_probability))
        return x * kept / self.keep_probability


@rewrite("Dropout")
class TheFusedCall(Part):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, p=self.p, training=self.training)


@rewrite("Dropout")
class ByWhere(Part):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        gone = torch.rand(x.shape, device=x.device) < self.p
        return torch.where(gone, torch.zeros_like(x), x / (1 - self.p))


@rewrite("Dropout")
class ByMaskedFill(Part):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            gone = torch.empty_like(x).uniform_() < self.p
            x = x.masked_fill(gone, 0) * (1 / (1 - self.p))
        return x


# residual_std


@probes("residual_std")
def _(f: Any) -> list[Any]:
    calls = [(8, 0.02), (2, 1.0), (1, 1.0), (3, 0.5), (12, 2.0)]
    return [*(lambda a=a: float(f(*a)) * 100 for a in calls), lambda: float(f(8)) * 100]


@mutant(
    "residual_std",
    "You count one branch for each block. A block adds to the stream twice.",
)
def one_branch_a_block(n_layers: int, std: float = 0.02) -> float:
    return std / math.sqrt(n_layers)


@mutant(
    "residual_std",
    "You divide the deviation by the number of branches. That is right for the variance: the "
    "deviation is divided by the root of it.",
)
def without_the_root(n_layers: int, std: float = 0.02) -> float:
    return std / (2 * n_layers)


@mutant("residual_std", "You divide by the number of blocks; it is the root of twice that.")
def divided_by_the_blocks(n_layers: int, std: float = 0.02) -> float:
    return std / n_layers


@mutant("residual_std", "You multiply by the root. More branches have to be quieter: divide.")
def times_the_root_of_branches(n_layers: int, std: float = 0.02) -> float:
    return std * math.sqrt(2 * n_layers)


@mutant("residual_std", "`std` is not used: it is divided by the root of the branches.")
def always_0_02(n_layers: int, std: float = 0.02) -> float:
    return 0.02 / math.sqrt(2 * n_layers)


@mutant("residual_std", "This is the factor: multiply it by `std`.")
def the_factor_alone(n_layers: int, std: float = 0.02) -> float:
    return 1 / math.sqrt(2 * n_layers)


@mutant("residual_std", "This is the variance: a standard deviation is asked for, its root.")
def the_variance(n_layers: int, std: float = 0.02) -> float:
    return std**2 / (2 * n_layers)


@mutant("residual_std", "You take the root of `std` as well: only the number of branches has one.")
def root_of_everything(n_layers: int, std: float = 0.02) -> float:
    return math.sqrt(std / (2 * n_layers))


@mutant("residual_std", "The 2 stands outside the root: it is the root of 2 n_layers.")
def two_outside_the_root(n_layers: int, std: float = 0.02) -> float:
    return std / (2 * math.sqrt(n_layers))


@mutant("residual_std", "It does not depend on the number of blocks.")
def whatever_the_depth(n_layers: int, std: float = 0.02) -> float:
    return std


@mutant("residual_std", "You add one to the number of branches: there are 2 n_layers.")
def one_branch_too_many(n_layers: int, std: float = 0.02) -> float:
    return std / math.sqrt(2 * n_layers + 1)


@rewrite("residual_std")
def by_a_power(n_layers: int, std: float = 0.02) -> float:
    return std * (2 * n_layers) ** -0.5


@rewrite("residual_std")
def by_variances(n_layers: int, std: float = 0.02) -> float:
    each = std**2 / (n_layers + n_layers)
    return each**0.5
