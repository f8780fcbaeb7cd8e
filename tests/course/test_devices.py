"""Answers that would fail on a GPU are noticed without one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tiny_transformer.course.devices import (
    expect_follows_device,
    expect_module_follows_device,
    is_placed,
)
from tiny_transformer.course.expect import Mismatch
from tiny_transformer.course.inputs import draw


def triangle(n: int, **where: object) -> Tensor:
    return torch.ones(n, n, **where).tril().bool()  # pyright: ignore[reportArgumentType]


RIGHT = {
    "made where x is": lambda x: x.masked_fill(triangle(3, device=x.device), 0.0),
    "moved to where x is": lambda x: x.masked_fill(triangle(3).to(x.device), 0.0),
    "moved by name": lambda x: x + torch.ones(3, 3).to(device=x.device),
    "made from x": lambda x: x + torch.ones_like(x),
    "made by x": lambda x: x.new_zeros(3, 3) @ x,
    "made of x": lambda x: torch.tensor([[1.0]], device=x.device) * x,
    "one number": lambda x: x * torch.tensor(3.0).sqrt(),
    "a plain number": lambda x: torch.where(x > 0, x, 0.0),
    "with a dtype and a device": lambda x: x + torch.eye(3).to(x.device, torch.float64),
    "made on the CPU, and moved": lambda x: x + torch.ones(3, 3, device="cpu").to(x.device),
    "taken to the CPU, combined there, and moved": (
        lambda x: x + (x[0].cpu() * torch.ones(3, 3)).to(x.device)
    ),
    "like another": lambda x: x @ torch.eye(3).type_as(x),
}
WRONG = {
    "made anywhere": lambda x: x.masked_fill(triangle(3), 0.0),
    "made anywhere, and combined late": lambda x: x @ (torch.zeros(3, 3) + 1),
    "another dtype alone": lambda x: x + torch.eye(3).to(torch.float64),
    "in a list": lambda x: torch.cat([x, torch.zeros(1, 3)]),
    "where": lambda x: torch.where(triangle(3), x, 0.0),
    "a range": lambda x: x * torch.arange(3),
    "on the CPU by name": lambda x: x + torch.ones(3, 3, device="cpu"),
    "taken to the CPU": lambda x: x + x.cpu(),
    "as a weight": lambda x: nn.functional.linear(x, torch.rand(3, 3)),
}


@pytest.mark.requirement("course.devices")
@pytest.mark.parametrize("name", RIGHT)
def test_an_answer_that_follows_its_input_passes(name: str) -> None:
    x = draw(3, 3)
    expect_follows_device(lambda: RIGHT[name](x), [x], "it")


@pytest.mark.requirement("course.devices")
@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_stays_on_the_cpu_is_caught(name: str) -> None:
    x = draw(3, 3)
    with pytest.raises(Mismatch, match="it would fail on a GPU"):
        expect_follows_device(lambda: WRONG[name](x), [x], "it")


class Masked(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        if kind == "attribute":
            self.mask = triangle(3)
        else:
            self.register_buffer("mask", triangle(3), persistent=kind == "stored")

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).masked_fill(self.mask, 0.0)


@pytest.mark.requirement("course.devices")
def test_a_tensor_that_a_module_keeps_moves_only_as_a_buffer() -> None:
    for kind in ("buffer", "stored"):
        expect_module_follows_device(lambda k=kind: Masked(k), draw(3, 3), "Masked")
    with pytest.raises(Mismatch, match="Masked would fail"):
        expect_module_follows_device(lambda: Masked("attribute"), draw(3, 3), "Masked")


def test_a_tensor_is_placed_where_a_device_is_named() -> None:
    cpu = torch.device("cpu")
    assert is_placed(lambda: triangle(3, device=cpu))
    assert is_placed(lambda: triangle(3).to(cpu))
    assert is_placed(lambda: torch.arange(3, device=cpu)[:, None] >= torch.arange(3, device=cpu))
    assert not is_placed(lambda: triangle(3))
    assert not is_placed(lambda: triangle(3, device=None))
    assert not is_placed(lambda: {"a": 1})
