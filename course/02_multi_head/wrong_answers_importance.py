"""Module 02, wrong answers: how much each head is missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tiny_transformer.course.inputs import draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

Loss = Callable[[Tensor], Tensor]


@probes("head_importance")
def _(f: Any) -> list[Any]:
    worth = torch.tensor([3.0, 0.0, 1.0, -2.0])
    many = draw(9, seed=4)

    def asked(n_heads: int) -> list[Any]:
        """Return the gates that were asked with, as they were then, and as they are after."""
        then: list[list[float]] = []
        handed: list[Tensor] = []

        def loss_of(gates: Tensor) -> Tensor:
            then.append(torch.as_tensor(gates).detach().tolist())
            handed.append(gates)
            return (gates * torch.arange(1.0, n_heads + 1)).sum()

        f(loss_of, n_heads)
        kept = [handed_out.tolist() for handed_out in handed]
        return [sorted(set(map(tuple, then))), kept == then, str(handed[0].dtype)]

    def kind() -> str:
        return type(f(lambda gates: 2 - gates.sum(), 2)).__name__

    return [
        lambda: f(lambda gates: 5 - 2 * gates[0] + 1 * gates[1], 2),
        lambda: f(lambda gates: 10 - gates @ worth, 4),
        lambda: f(lambda gates: 8 - 8 * gates.prod(), 3),
        lambda: f(lambda gates: 1 - gates.amax(), 2),
        lambda: f(lambda gates: (gates * many).sum() ** 2 / 4, 9),
        lambda: f(lambda gates: 3 - 3 * gates[0], 1),
        lambda: f(lambda gates: (gates - gates.flip(0)).square().sum() + gates[0], 4),
        lambda: asked(3),
        kind,
        lambda: f(lambda gates: 2 - gates.double() @ many[:3].double(), 3),
    ]


def all_open(n_heads: int) -> Tensor:
    return torch.ones(n_heads)


def without(n_heads: int, h: int, value: float = 0.0) -> Tensor:
    gates = all_open(n_heads)
    gates[h] = value
    return gates


def only(n_heads: int, h: int) -> Tensor:
    return all_open(n_heads) - without(n_heads, h)


@mutant(
    "head_importance",
    "You leave one head open and silence all others. Silence one and leave the others.",
)
def one_head_left(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    return torch.stack([loss_of(only(n_heads, h)) - whole for h in range(n_heads)])


@mutant(
    "head_importance",
    "You return the losses themselves. Take away the loss with all heads: how much does it rise?",
)
def losses_themselves(loss_of: Loss, n_heads: int) -> Tensor:
    return torch.stack([loss_of(without(n_heads, h)) for h in range(n_heads)])


@mutant(
    "head_importance",
    "The sign is turned round: a head that is missed makes the loss rise, which is positive.",
)
def sign_turned_round(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    return torch.stack([whole - loss_of(without(n_heads, h)) for h in range(n_heads)])


@mutant(
    "head_importance",
    "Heads that were silenced stay silent: after head 0, you silence 0 and 1, and so on. Open a "
    "gate again before the next is closed.",
)
def silenced_one_after_another(loss_of: Loss, n_heads: int) -> Tensor:
    whole, gates, rises = loss_of(all_open(n_heads)), all_open(n_heads), []
    for h in range(n_heads):
        gates = gates * without(n_heads, h)
        rises.append(loss_of(gates) - whole)
    return torch.stack(rises)


@mutant(
    "head_importance",
    "You compare with the loss where all heads are silent. Compare with all of them open.",
)
def compared_with_silence(loss_of: Loss, n_heads: int) -> Tensor:
    silence = loss_of(torch.zeros(n_heads))
    return torch.stack([loss_of(without(n_heads, h)) - silence for h in range(n_heads)])


@mutant(
    "head_importance",
    "You start from silence and open one head at a time. Start from all open, and silence one.",
)
def gain_from_silence(loss_of: Loss, n_heads: int) -> Tensor:
    silence = loss_of(torch.zeros(n_heads))
    return torch.stack([silence - loss_of(only(n_heads, h)) for h in range(n_heads)])


@mutant(
    "head_importance",
    "You return the size of the change without its sign. A head that does harm is negative.",
)
def without_the_sign(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    return torch.stack([(loss_of(without(n_heads, h)) - whole).abs() for h in range(n_heads)])


@mutant("head_importance", "You cut rises below 0 off. A head that does harm is negative.")
def negative_ones_cut_off(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    return torch.stack([(loss_of(without(n_heads, h)) - whole).relu() for h in range(n_heads)])


@mutant("head_importance", "You divide by the loss of the whole. It is the rise itself.")
def relative_to_the_whole(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    return torch.stack([loss_of(without(n_heads, h)) / whole - 1 for h in range(n_heads)])


@mutant("head_importance", "You scale the numbers so that they sum to one. Leave them as rises.")
def scaled_to_sum_to_one(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    rises = torch.stack([loss_of(without(n_heads, h)) - whole for h in range(n_heads)])
    return rises / rises.sum()


@mutant("head_importance", "You close a gate by half. 0 silences a head.")
def half_closed(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    return torch.stack([loss_of(without(n_heads, h, 0.5)) - whole for h in range(n_heads)])


@mutant("head_importance", "Your closed gate is -1, which turns the head round. 0 silences it.")
def turned_for_silenced(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    return torch.stack([loss_of(without(n_heads, h, -1.0)) - whole for h in range(n_heads)])


@mutant(
    "head_importance",
    "You use the gradient at open gates, which is a guess at the rise, good where the loss is "
    "nearly linear. Close the gate and look.",
)
def by_the_gradient(loss_of: Loss, n_heads: int) -> Tensor:
    gates = all_open(n_heads).requires_grad_()
    loss_of(gates).backward()
    return -gates.grad if gates.grad is not None else torch.zeros(n_heads)


@mutant("head_importance", "Your numbers are shifted by one head: number h is that of head h.")
def shifted_by_one(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    return torch.stack(
        [loss_of(without(n_heads, (h + 1) % n_heads)) - whole for h in range(n_heads)]
    )


@mutant(
    "head_importance",
    "You look at head 0 alone, or stop too early: there are `n_heads` of them.",
)
def last_head_forgotten(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    rises = [loss_of(without(n_heads, h)) - whole for h in range(n_heads - 1)]
    return torch.stack([*rises, torch.zeros(())])


@mutant(
    "head_importance",
    "You write into gates that you have handed out, and whoever kept them sees the change: make "
    "new ones for each question, or clone.",
)
def gates_written_to(loss_of: Loss, n_heads: int) -> Tensor:
    gates = all_open(n_heads)
    whole, rises = loss_of(gates), []
    for h in range(n_heads):
        gates[h] = 0.0
        rises.append(loss_of(gates) - whole)
        gates[h] = 1.0
    return torch.stack(rises)


@mutant("head_importance", "You return a list of numbers. Make it one tensor, (H,).")
def list_of_rises(loss_of: Loss, n_heads: int) -> Any:
    whole = loss_of(all_open(n_heads))
    return [float(loss_of(without(n_heads, h)) - whole) for h in range(n_heads)]


@mutant("head_importance", "You return their mean. There is one number for each head.")
def mean_of_rises(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads))
    return torch.stack([loss_of(without(n_heads, h)) - whole for h in range(n_heads)]).mean()


@mutant(
    "head_importance",
    "You return float32 whatever the losses are: keep their dtype, as a `torch.stack` of "
    "differences does.",
)
def importance_in_float32(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(all_open(n_heads)).item()
    return torch.tensor([loss_of(without(n_heads, h)).item() - whole for h in range(n_heads)])


@rewrite("head_importance")
def by_filling_a_tensor(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(torch.ones(n_heads))
    rises = torch.zeros(n_heads, dtype=whole.dtype)
    for h in range(n_heads):
        gates = torch.ones(n_heads)
        gates[h] = 0
        rises[h] = loss_of(gates) - whole
    return rises


@rewrite("head_importance")
def by_rows_of_a_table(loss_of: Loss, n_heads: int) -> Tensor:
    gates = torch.ones(n_heads + 1, n_heads)
    gates[1:].fill_diagonal_(0)
    losses = torch.stack([loss_of(row) for row in gates])
    return losses[1:] - losses[0]


@rewrite("head_importance")
def from_plain_numbers(loss_of: Loss, n_heads: int) -> Tensor:
    whole = loss_of(torch.ones(n_heads))
    rows = [[float(i != h) for i in range(n_heads)] for h in range(n_heads)]
    rises = [loss_of(torch.tensor(row)).item() - whole.item() for row in rows]
    return torch.tensor(rises, dtype=whole.dtype)
