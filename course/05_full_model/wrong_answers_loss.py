"""Module 05, wrong answers: the loss of a guess, perplexity, and cross-entropy."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tiny_transformer.course.devices import expect_follows_device
from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

# initial_loss


@probes("initial_loss")
def _(f: Any) -> list[Any]:
    calls = [(2,), (6,), (1,), (99,), (99, 1.0), (99, 0.5), (99, 2.0), (1000, 0.3), (99, 50.0)]
    return [
        *(lambda c=c: float(f(*c)) for c in calls),
        lambda: type(f(99)) is float,
        lambda: type(f(99, 1.0)) is float,
    ]


@mutant("initial_loss", "You take the logarithm of base 2, which gives bits. Nats have base e.")
def in_bits(vocab_size: int, logit_std: float = 0.0) -> float:
    return math.log2(vocab_size) + logit_std**2 / 2


@mutant("initial_loss", "You take the logarithm of base 10. Nats have base e.")
def in_base_ten(vocab_size: int, logit_std: float = 0.0) -> float:
    return math.log10(vocab_size) + logit_std**2 / 2


@mutant(
    "initial_loss",
    "That is the logarithm of 1/V, which is negative: the loss is minus that.",
)
def without_the_minus(vocab_size: int, logit_std: float = 0.0) -> float:
    return -math.log(vocab_size) + logit_std**2 / 2


@mutant("initial_loss", "That is the probability of a token. The loss is minus its logarithm.")
def the_probability(vocab_size: int, logit_std: float = 0.0) -> float:
    return 1 / vocab_size


@mutant(
    "initial_loss",
    "That is how often a guess is wrong, 1 - 1/V. The loss is minus the logarithm of 1/V.",
)
def share_of_errors(vocab_size: int, logit_std: float = 0.0) -> float:
    return 1 - 1 / vocab_size


@mutant(
    "initial_loss",
    "You do not use `logit_std`: logits that stray make the loss higher, by half their variance.",
)
def without_the_stray(vocab_size: int, logit_std: float = 0.0) -> float:
    return math.log(vocab_size)


@mutant(
    "initial_loss",
    "You add the whole variance. The mean of exp(z) is exp(s^2 / 2): half of it.",
)
def whole_variance(vocab_size: int, logit_std: float = 0.0) -> float:
    return math.log(vocab_size) + logit_std**2


@mutant(
    "initial_loss",
    "You add half the standard deviation. The exponent is s^2 / 2: square it.",
)
def deviation_for_variance(vocab_size: int, logit_std: float = 0.0) -> float:
    return math.log(vocab_size) + logit_std / 2


@mutant(
    "initial_loss",
    "You subtract what stray logits cost. They make the loss higher: add it.",
)
def stray_subtracted(vocab_size: int, logit_std: float = 0.0) -> float:
    return math.log(vocab_size) - logit_std**2 / 2


@mutant(
    "initial_loss",
    "You multiply the logarithm by exp(s^2 / 2). The factor stands inside the logarithm, and the "
    "logarithm of a product is a sum.",
)
def factor_outside(vocab_size: int, logit_std: float = 0.0) -> float:
    return math.log(vocab_size) * math.exp(logit_std**2 / 2)


@mutant("initial_loss", "You count one token too few: all V are possible.")
def one_token_less(vocab_size: int, logit_std: float = 0.0) -> float:
    return math.log(max(vocab_size - 1, 1)) + logit_std**2 / 2


@mutant("initial_loss", "You return a tensor. Return a plain float: `.item()`.")
def as_a_tensor(vocab_size: int, logit_std: float = 0.0) -> Any:
    return torch.tensor(math.log(vocab_size) + logit_std**2 / 2, dtype=torch.float64)


@mutant(
    "initial_loss",
    "exp(s^2 / 2) overflows where s is large, from 38 on. Simplify on paper: the logarithm of a "
    "product is the sum of the logarithms.",
)
def not_simplified(vocab_size: int, logit_std: float = 0.0) -> float:
    return math.log(vocab_size * math.exp(logit_std**2 / 2))


@rewrite("initial_loss")
def minus_the_logarithm_of_the_probability(vocab_size: int, logit_std: float = 0.0) -> float:
    return 0.5 * logit_std * logit_std - math.log(1 / vocab_size)


@rewrite("initial_loss")
def by_torch(vocab_size: int, logit_std: float = 0.0) -> float:
    return float(torch.tensor(float(vocab_size), dtype=torch.float64).log()) + logit_std**2 / 2


# perplexity


@probes("perplexity")
def _(f: Any) -> list[Any]:
    values = [0.0, 0.1, math.log(2), 1.0, 1.4734, 2.0, 4.5951199, 10.0]
    return [*(lambda v=v: float(f(v)) for v in values), lambda: type(f(1.0)) is float]


@mutant("perplexity", "You raise 2 to the loss. The loss is in nats: raise e.")
def base_two(value: float) -> float:
    return 2**value


@mutant("perplexity", "You raise 10 to the loss. The loss is in nats: raise e.")
def base_ten(value: float) -> float:
    return 10**value


@mutant("perplexity", "That is the probability. Perplexity is its inverse: leave out the minus.")
def the_inverse(value: float) -> float:
    return math.exp(-value)


@mutant("perplexity", "You take a logarithm. Perplexity undoes the logarithm: the exponential.")
def a_logarithm(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


@mutant("perplexity", "Those are bits, loss / log 2. Perplexity is exp(loss).")
def bits(value: float) -> float:
    return value / math.log(2)


@mutant("perplexity", "You subtract 1. exp(0) = 1 is right: one token to choose from.")
def one_less(value: float) -> float:
    return math.expm1(value)


@mutant("perplexity", "You round to a whole number. Perplexities have digits after the point.")
def rounded(value: float) -> float:
    return float(round(math.exp(value)))


@rewrite("perplexity")
def a_power_of_e(loss: float) -> float:
    return math.e**loss


@rewrite("perplexity")
def by_way_of_bits(loss: float) -> float:
    return 2.0 ** (loss / math.log(2))


# compute_loss


def ids(*shape: int, below: int) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(sum(shape)))


def checked(logits: Tensor, targets: Tensor) -> None:
    if logits.shape[:-1] != targets.shape:
        raise ValueError("the shapes do not belong together")


@probes("compute_loss")
def _(f: Any) -> list[Any]:
    def leaf() -> Tensor:
        return draw(2, 3, 4, seed=8, dtype=torch.float64).requires_grad_()

    def gradient(**settings: Any) -> Tensor:
        x = leaf()
        f(x, ids(2, 3, below=4), **settings).sum().backward()
        return x.grad if x.grad is not None else torch.zeros(1)

    def unless_refused(shape: tuple[int, ...]) -> Any:
        try:
            return f(draw(2, 3, 4), torch.zeros(shape, dtype=torch.int64))
        except Exception:
            return "refused"

    def device() -> bool:
        x, y = draw(2, 3, 4), ids(2, 3, below=4)
        expect_follows_device(lambda: f(x, y), [x, y], "")
        return True

    return [
        lambda: f(torch.tensor([[[1.0, 2.0, 5.0]]]).log(), torch.tensor([[1]])),
        lambda: f(2 * draw(3, 4, 5, seed=1), ids(3, 4, below=5)),
        lambda: f(2 * draw(3, 4, 5, seed=1), ids(3, 4, below=5), reduction="sum"),
        lambda: f(draw(2, 5, 5), ids(2, 5, below=5)),
        lambda: f(draw(4, 50, 20), ids(4, 50, below=20)),
        lambda: f(draw(3, 3, 3), ids(3, 3, below=3)),
        lambda: f(draw(5, 5, 2), ids(5, 5, below=2)),
        lambda: f(torch.zeros(2, 3, 99), ids(2, 3, below=99)),
        lambda: f(torch.full((2, 3, 5), -7.0), ids(2, 3, below=5)),
        lambda: f(1000 * draw(2, 3, 4, seed=2), ids(2, 3, below=4)),
        lambda: f(500 + draw(2, 3, 4, seed=2), ids(2, 3, below=4)),
        lambda: f(-500 + draw(2, 3, 4, seed=2), ids(2, 3, below=4)),
        lambda: f(draw(2, 3, 4), torch.zeros(2, 3).long()),
        lambda: f(draw(2, 3, 4), torch.full((2, 3), 3)),
        lambda: f(draw(2, 3, 4), torch.tensor([[0, 1, 0], [0, 0, 2]])),
        lambda: f(draw(2, 3, 4, dtype=torch.float64), ids(2, 3, below=4)),
        lambda: f(draw(4, 2, 3).transpose(0, 1), ids(4, 2, below=3).T),
        *(lambda s=s: unless_refused(s) for s in [(3, 2), (6,), (2, 2), (1, 3)]),
        lambda: changed(f, draw(2, 3, 4), ids(2, 3, below=4)),
        lambda: f(leaf(), ids(2, 3, below=4)).requires_grad,
        gradient,
        lambda: gradient(reduction="sum"),
        device,
    ]


@mutant(
    "compute_loss",
    "You compare each guess with the token before: `targets` are already the tokens that came "
    "next, so do not shift them.",
)
def shifted(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), reduction=reduction
    )


@mutant(
    "compute_loss",
    "You take a softmax before the cross-entropy, which takes one itself: give it the logits.",
)
def softmax_twice(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(
        logits.softmax(-1).flatten(0, -2), targets.flatten(), reduction=reduction
    )


@mutant(
    "compute_loss",
    'You add up where a mean is asked for: `reduction` is "mean" unless it says otherwise.',
)
def always_a_sum(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")


@mutant("compute_loss", 'You do not use `reduction`: with "sum", add up over all positions.')
def always_a_mean(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


@mutant(
    "compute_loss",
    "You add up over the tokens of a text and average over texts. The mean is over all B x T "
    "positions.",
)
def mean_over_texts(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    total = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")
    return total / len(targets) if reduction == "mean" else total


@mutant(
    "compute_loss",
    "You divide by the number of logits. The mean is over positions: B x T of them.",
)
def divided_by_all_logits(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    total = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")
    return total / logits.numel() if reduction == "mean" else total


@mutant(
    "compute_loss",
    "You take the logarithm of a softmax that has underflowed: for large logits it is log 0. Use "
    "log_softmax, logsumexp, or F.cross_entropy on the logits.",
)
def logarithm_of_the_softmax(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    chosen = logits.softmax(-1).gather(-1, targets[..., None])
    return getattr(-chosen.log(), reduction)()


@mutant(
    "compute_loss",
    "You add a small number inside the logarithm, so a very wrong guess costs too little. Use "
    "logsumexp, or F.cross_entropy on the logits.",
)
def something_inside_the_logarithm(
    logits: Tensor, targets: Tensor, *, reduction: str = "mean"
) -> Tensor:
    checked(logits, targets)
    chosen = logits.softmax(-1).gather(-1, targets[..., None])
    return getattr(-(chosen + 1e-8).log(), reduction)()


@mutant(
    "compute_loss",
    "Your exponentials overflow, or all underflow, for logits far from 0: take the largest away "
    "first, or use logsumexp.",
)
def without_the_maximum(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    chosen = logits.gather(-1, targets[..., None])[..., 0]
    return getattr(logits.exp().sum(-1).log() - chosen, reduction)()


@mutant("compute_loss", "The sign is missing: the loss is minus the logarithm.")
def without_the_sign(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return -F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction=reduction)


@mutant(
    "compute_loss",
    "You return bits: the logarithm is of base 2. The loss is in nats.",
)
def loss_in_bits(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), reduction=reduction
    ) / math.log(2)


@mutant(
    "compute_loss",
    "You return the score of the target, without the logarithm of the sum of exponentials.",
)
def the_scores_alone(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return getattr(-logits.gather(-1, targets[..., None]), reduction)()


@mutant(
    "compute_loss",
    "You leave token 0 out, as if it were padding: every id is a token here.",
)
def without_token_zero(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), reduction=reduction, ignore_index=0
    )


@mutant(
    "compute_loss",
    "F.cross_entropy takes the classes on its second axis, and yours are on the last: with (B, T, "
    "V) it reads time as classes. Flatten, or transpose.",
)
def classes_on_the_second_axis(
    logits: Tensor, targets: Tensor, *, reduction: str = "mean"
) -> Tensor:
    return F.cross_entropy(logits, targets, reduction=reduction)


@mutant(
    "compute_loss",
    "Your softmax runs over time, not over the vocabulary: look at `dim`.",
)
def softmax_over_time(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    chosen = logits.log_softmax(1).gather(-1, targets[..., None])
    return getattr(-chosen, reduction)()


@mutant(
    "compute_loss",
    "You bring logits and targets into rows by `view` or `reshape` with swapped axes: a transpose "
    "is another thing than a reshape, and each guess meets another's target.",
)
def reshaped_for_transposed(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    B, T, V = logits.shape
    return F.cross_entropy(logits.reshape(B, V, T), targets, reduction=reduction)


@mutant(
    "compute_loss",
    "You use the last position only. All positions are guesses, and all count.",
)
def last_position_alone(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(logits[:, -1], targets[:, -1], reduction=reduction)


@mutant(
    "compute_loss",
    "You flatten without comparing the shapes: as many targets in another order pass unseen.",
)
def without_the_check(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction=reduction)


@mutant(
    "compute_loss",
    "You return a number without a way back: `.item()`, `.detach()` or a new tensor breaks the "
    "gradient.",
)
def detached(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(logits.detach().flatten(0, -2), targets.flatten(), reduction=reduction)


@mutant("compute_loss", "You return a loss for each position. Take the mean, or the sum, of them.")
def not_reduced(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")


@mutant("compute_loss", "You return float32 whatever comes in. Keep the dtype of the logits.")
def in_float32(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction=reduction)


@mutant(
    "compute_loss",
    "You take the largest logit away in place: the caller's logits change. Subtract into a new "
    "tensor.",
)
def in_place(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    logits.data -= logits.data.amax(dim=-1, keepdim=True)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction=reduction)


@mutant(
    "compute_loss",
    "You multiply the probabilities of the targets, and take one logarithm at the end: the product "
    "of many underflows. Add up logarithms.",
)
def product_of_probabilities(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    checked(logits, targets)
    chosen = logits.softmax(-1).gather(-1, targets[..., None])
    total = -chosen.prod().log()
    return total / targets.numel() if reduction == "mean" else total


@rewrite("compute_loss")
def by_log_softmax(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    assert logits.shape[:2] == targets.shape
    log_p = torch.log_softmax(logits, dim=-1)
    each = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return each.sum() if reduction == "sum" else each.mean()


@rewrite("compute_loss")
def by_the_sum_of_exponentials(
    logits: Tensor, targets: Tensor, *, reduction: str = "mean"
) -> Tensor:
    B, T, _ = logits.shape
    if targets.shape != (B, T):
        raise ValueError("targets must be (B, T)")
    largest = logits.detach().amax(dim=-1, keepdim=True)
    sums = (logits - largest).exp().sum(dim=-1).log() + largest[..., 0]
    own = torch.stack([logits[b, t, targets[b, t]] for b in range(B) for t in range(T)])
    total = sums.sum() - own.sum()
    return total / (B * T) if reduction == "mean" else total


@rewrite("compute_loss")
def with_the_classes_moved(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    if logits.shape[:-1] != targets.shape:
        raise RuntimeError("shapes")
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction=reduction)


@rewrite("compute_loss")
def with_a_one_hot_table(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    if list(logits.shape[:-1]) != list(targets.shape):
        raise TypeError("shapes")
    chosen = F.one_hot(targets, logits.shape[-1]).bool()
    each = logits.logsumexp(dim=-1) - logits[chosen].view_as(targets)
    return each.mean() if reduction == "mean" else each.sum()
