"""Module 05, what is promised: the loss of a guess, perplexity, and cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from my_transformer import loss
from torch import Tensor

from tiny_transformer.course.devices import expect_follows_device
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_gradients,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw

# initial_loss


def expect_float(got: Any, what: str) -> None:
    expect(
        isinstance(got, float),
        f"{what} should be a plain float, and is {type(got).__name__} ({got!r}).",
    )


def test_initial_loss__is_that_of_a_coin_and_of_a_die():
    got = loss.initial_loss(2)
    expect_float(got, "initial_loss(2)")
    expect_equal(got, 0.6931472, "initial_loss(2)", tolerance=1e-6)
    expect_equal(loss.initial_loss(6), 1.7917595, "initial_loss(6)", tolerance=1e-6)
    expect_equal(loss.initial_loss(1), 0.0, "initial_loss(1), where nothing can be wrong,")


def test_initial_loss__is_what_equal_logits_cost():
    for V in (3, 99, 50_257):
        wanted = torch.nn.functional.cross_entropy(torch.zeros(1, V), torch.tensor([V // 2]))
        expect_equal(loss.initial_loss(V), wanted.item(), f"initial_loss({V})", tolerance=1e-5)


def test_initial_loss__is_higher_where_logits_stray():
    for std, wanted in [(1.0, 5.0951199), (0.5, 4.7201199), (2.0, 6.5951199)]:
        got = loss.initial_loss(99, std)
        expect_float(got, f"initial_loss(99, {std})")
        expect_equal(got, wanted, f"initial_loss(99, {std})", tolerance=1e-6)
    expect_equal(loss.initial_loss(99, logit_std=0.0), 4.5951199, "initial_loss(99, 0.0)")


def test_initial_loss__stands_logits_that_stray_far():
    wanted = 4.5951199 + 1250
    expect_equal(loss.initial_loss(99, 50.0), wanted, "initial_loss(99, 50.0)", tolerance=1e-6)


def test_initial_loss__is_what_random_logits_cost_on_average():
    V, std = 2000, 0.7
    logits = std * draw(200, V, seed=3)
    rows = [math.log(sum(map(math.exp, row))) - row[0] for row in logits.tolist()[:50]]
    measured = sum(rows) / len(rows)
    expect(
        abs(loss.initial_loss(V, std) - measured) < 0.3,
        f"Of 50 rows of {V} random logits with the standard deviation {std}, the loss is "
        f"{measured:.2f} on average, and initial_loss({V}, {std}) says "
        f"{loss.initial_loss(V, std):.2f}.",
    )


# perplexity


def test_perplexity__undoes_the_logarithm():
    got = loss.perplexity(math.log(99))
    expect_float(got, "perplexity(log 99)")
    expect_equal(got, 99.0, "perplexity(log 99)", tolerance=1e-9)
    expect_equal(loss.perplexity(0.0), 1.0, "perplexity(0)", tolerance=1e-9)


def test_perplexity__takes_nats():
    for value, wanted in [(1.0, 2.7182818), (1.4734, 4.3640472), (2.0, 7.3890561)]:
        expect_equal(loss.perplexity(value), wanted, f"perplexity({value})", tolerance=1e-6)


def test_perplexity__counts_the_tokens_of_any_vocabulary():
    expect_equal(loss.perplexity(10.0), 22026.4658, "perplexity(10)", tolerance=1e-6)


def test_perplexity__is_below_two_for_a_model_better_than_a_coin():
    expect_equal(loss.perplexity(0.1), 1.1051709, "perplexity(0.1)", tolerance=1e-6)


# compute_loss


def by_hand(logits: Tensor, targets: Tensor) -> list[float]:
    """Return the loss at every position, with loops and Python's own numbers."""
    losses = []
    for rows, ids in zip(logits.tolist(), targets.tolist(), strict=True):
        for row, target in zip(rows, ids, strict=True):
            largest = max(row)
            total = sum(math.exp(z - largest) for z in row)
            losses.append(largest + math.log(total) - row[target])
    return losses


def draw_ids(*shape: int, below: int, seed: int = 0) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def test_compute_loss__is_minus_the_logarithm_of_the_probability_of_what_came():
    logits = torch.tensor([[[1.0, 2.0, 5.0]]]).log()  # probabilities 1/8, 2/8, 5/8
    for target, share in [(0, 1 / 8), (1, 2 / 8), (2, 5 / 8)]:
        got = loss.compute_loss(logits, torch.tensor([[target]]))
        expect_equal(
            got,
            torch.tensor(-math.log(share)),
            f"the loss where a token of the probability {share} came",
        )


def test_compute_loss__is_the_mean_over_all_positions_of_all_texts():
    logits, targets = 2 * draw(3, 4, 5, seed=1), draw_ids(3, 4, below=5)
    each = by_hand(logits, targets)
    got = loss.compute_loss(logits, targets)
    expect_shape(got, (), "compute_loss of (3, 4, 5)")
    expect_equal(got, torch.tensor(sum(each) / 12), "the mean loss of 3 texts of 4 tokens")


def test_compute_loss__adds_up_where_a_sum_is_asked_for():
    logits, targets = 2 * draw(3, 4, 5, seed=1), draw_ids(3, 4, below=5)
    each = by_hand(logits, targets)
    got = loss.compute_loss(logits, targets, reduction="sum")
    expect_equal(got, torch.tensor(sum(each)), "the summed loss of 3 texts of 4 tokens")
    got = loss.compute_loss(logits, targets, reduction="mean")
    expect_equal(got, torch.tensor(sum(each) / 12), 'the loss with reduction="mean"')


def test_compute_loss__reads_classes_on_the_last_axis():
    for B, T, V in [(1, 1, 4), (2, 5, 5), (5, 5, 2), (3, 3, 3), (1, 7, 2), (4, 1, 6)]:
        logits, targets = draw(B, T, V, seed=B), draw_ids(B, T, below=V, seed=T)
        each = by_hand(logits, targets)
        got = loss.compute_loss(logits, targets)
        expect_equal(
            got, torch.tensor(sum(each) / (B * T)), f"the loss of logits of shape ({B}, {T}, {V})"
        )


def test_compute_loss__takes_hundreds_of_positions():
    logits, targets = draw(4, 50, 20, seed=6), draw_ids(4, 50, below=20)
    each = by_hand(logits, targets)
    got = loss.compute_loss(logits, targets)
    expect_equal(got, torch.tensor(sum(each) / 200), "the mean loss of 200 positions")


def test_compute_loss__is_that_of_a_guess_for_equal_logits():
    for level in (0.0, -7.0):
        got = loss.compute_loss(torch.full((2, 3, 99), level), draw_ids(2, 3, below=99))
        expect_equal(got, torch.tensor(4.5951199), f"the loss where all logits are {level}")


def test_compute_loss__stands_logits_of_any_size():
    for shift, size in [(0.0, 1000.0), (500.0, 1.0), (-500.0, 1.0), (0.0, 0.001)]:
        logits = size * draw(2, 3, 4, seed=2) + shift
        targets = draw_ids(2, 3, below=4, seed=5)
        each = by_hand(logits, targets)
        got = loss.compute_loss(logits, targets)
        expect_equal(
            got,
            torch.tensor(sum(each) / 6),
            f"the loss of logits around {shift:g}, {size:g} apart",
            tolerance=1e-4,
        )


def test_compute_loss__counts_every_target_also_token_0():
    logits = draw(2, 3, 4, seed=7)
    for targets in (torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), 3)):
        each = by_hand(logits, targets)
        got = loss.compute_loss(logits, targets)
        expect_equal(
            got, torch.tensor(sum(each) / 6), f"the loss where every target is {targets[0, 0]}"
        )


def test_compute_loss__refuses_targets_of_another_shape():
    logits = draw(2, 3, 4)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: loss.compute_loss(logits, torch.zeros(3, 2).long()), "(3, 2)"),
        (lambda: loss.compute_loss(logits, torch.zeros(2, 2).long()), "(2, 2)"),
        (lambda: loss.compute_loss(logits, torch.zeros(6).long()), "(6,)"),
        (lambda: loss.compute_loss(logits, torch.zeros(1, 3).long()), "(1, 3)"),
    ]
    for call, shape in calls:
        expect(
            raises(call),
            f"Targets of shape {shape} do not belong to logits of shape (2, 3, 4): compute_loss "
            "should raise, and does not.",
        )


def raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except NotImplementedError:
        raise
    except Exception:
        return True
    return False


def test_compute_loss__keeps_the_dtype_and_its_inputs():
    logits, targets = draw(2, 3, 4, dtype=torch.float64), draw_ids(2, 3, below=4)
    before = logits.clone(), targets.clone()
    got = loss.compute_loss(logits, targets)
    wanted = torch.tensor(sum(by_hand(logits, targets)) / 6, dtype=torch.float64)
    expect_equal(got, wanted, "the float64 loss", tolerance=1e-9)
    expect_unchanged(before[0], logits, "logits")
    expect_unchanged(before[1], targets, "targets")


def test_compute_loss__takes_logits_that_are_a_view():
    logits, targets = draw(4, 2, 3, seed=4).transpose(0, 1), draw_ids(4, 2, below=3).T
    each = by_hand(logits, targets)
    got = loss.compute_loss(logits, targets)
    expect_equal(got, torch.tensor(sum(each) / 8), "the loss of transposed logits and targets")


def test_compute_loss__stays_on_the_device_of_its_inputs():
    logits, targets = draw(2, 3, 4), draw_ids(2, 3, below=4)
    expect_follows_device(
        lambda: loss.compute_loss(logits, targets), [logits, targets], "compute_loss"
    )


def test_compute_loss__lets_the_gradient_back_to_the_logits():
    """The softmax minus 1 at the target, divided by the number of positions."""
    targets = draw_ids(2, 3, below=4, seed=1)
    for reduction in ("mean", "sum"):
        expect_gradients(
            lambda x, r=reduction: loss.compute_loss(x, targets, reduction=r),
            lambda x, r=reduction: torch.nn.functional.cross_entropy(
                x.flatten(0, 1), targets.flatten(), reduction=r
            ),
            [draw(2, 3, 4, seed=8, dtype=torch.float64)],
            f'compute_loss with reduction="{reduction}"',
        )
