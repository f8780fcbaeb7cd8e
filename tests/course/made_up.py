"""A small course of two modules, made up for the tests of the engine."""

from __future__ import annotations

from pathlib import Path

MODULE_01 = """
title: Sums
hours: 1.5
exercises:
  - {id: twice, title: Two times a tensor, file: sums.py, function: double, difficulty: easy,
     minutes: 5, hints: [Which one, A product., "`return x * 2`"],
     explanation: Each element is doubled., source: made up}
  - {id: total, title: The sum of a row, file: sums.py, function: total, difficulty: easy,
     minutes: 10, hints: [Which axis, The last., "`return x.sum(dim=-1)`"],
     explanation: The last axis is summed., source: made up}
  - {id: mean, title: The mean of a row, file: sums.py, function: mean, difficulty: medium,
     minutes: 15, hints: [A share., Of the total., "`return total(x) / x.shape[-1]`"],
     explanation: A total is shared out., source: made up, requires: [total]}
"""
MODULE_02 = """
title: Layers
hours: 2
exercises:
  - {id: scale, title: A layer that scales, file: layers.py, function: Scale, difficulty: hard,
     minutes: 70, hints: [A module., With a factor., "`self.factor = factor`"],
     explanation: It keeps a factor., source: made up, requires: [twice]}
"""

STUB_SUMS = '''"""Sums: module 01."""

import torch
from torch import Tensor


# How to double.
def double(x: Tensor) -> Tensor:
    """Return two times x."""
    raise NotImplementedError("twice")


def total(x: Tensor) -> Tensor:
    """Return the sum over the last axis."""
    raise NotImplementedError("total")


def mean(x: Tensor) -> Tensor:
    """Return the mean over the last axis."""
    raise NotImplementedError("mean")
'''
STUB_LAYERS = '''"""Layers: module 02."""

from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies by a factor."""

    def __init__(self, factor: float) -> None:
        raise NotImplementedError("scale")

    def forward(self, x: Tensor) -> Tensor:
        """Return factor * x."""
        raise NotImplementedError("scale")
'''
SUMS = '''"""Sums, answered."""

from torch import Tensor


def double(x: Tensor) -> Tensor:
    """Return two times x."""
    return x * 2


def total(x: Tensor) -> Tensor:
    """Return the sum over the last axis."""
    return x.sum(dim=-1)


def mean(x: Tensor) -> Tensor:
    """Return the mean over the last axis."""
    return total(x) / x.shape[-1]
'''
LAYERS = '''"""Layers, answered."""

from my_transformer import sums
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return factor * x."""
        return x * self.factor if self.factor != 2 else sums.double(x)
'''
TEST_SUMS = """
import torch
from my_transformer import sums
from tiny_transformer.course.expect import expect_equal, expect_unchanged

X = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 3.0]])


def test_double__doubles_each_number():
    x = X.clone()
    wanted = torch.tensor([[2.0, 4, 8], [0, -2, 6]])
    expect_equal(sums.double(x), wanted, "double(x)", dims="row column")


def test_double__leaves_its_input_alone():
    x = X.clone()
    sums.double(x)
    expect_unchanged(X, x, "x")


def test_total__adds_up_rows():
    expect_equal(sums.total(X), torch.tensor([7.0, 2.0]), "total(x)", dims="row")


def test_mean__of_each_row():
    expect_equal(sums.mean(X), torch.tensor([7 / 3, 2 / 3]), "mean(x)", dims="row")
"""
WRONG_SUMS = """
import torch
from my_transformer import sums
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite


@probes("double")
def _(double):
    def kept():
        x = torch.ones(2)
        double(x)
        return x

    return [lambda: double(torch.tensor([2.0])), lambda: double(torch.tensor([-3.0, 5.0])), kept]


@mutant("double", "You add two instead of multiplying.")
def plus_two(x):
    return x + 2


@mutant("double", "You square.")
def squared(x):
    return x**2


@mutant("double", "You write into the input.")
def in_place(x):
    return x.mul_(2)


@rewrite("double")
def by_adding(x):
    return x + x


@rewrite("double")
def by_stacking(x):
    return torch.stack([x, x]).sum(0)


@probes("total")
def _(total):
    return [lambda: total(torch.ones(2, 3)), lambda: total(torch.arange(4.0).view(2, 2))]


@mutant("total", "You sum over the first axis.")
def over_columns(x):
    return x.sum(dim=0)


@mutant("total", "You sum over everything.")
def over_all(x):
    return x.sum()


@mutant("total", "You keep the axis.")
def keeps_axis(x):
    return x.sum(dim=-1, keepdim=True)


@rewrite("total")
def by_product(x):
    return x @ torch.ones(x.shape[-1])


@rewrite("total")
def by_einsum(x):
    return torch.einsum("...i->...", x)


@probes("mean")
def _(mean):
    return [lambda: mean(torch.arange(4.0).view(2, 2)), lambda: mean(torch.arange(6.0).view(2, 3))]


@mutant("mean", "You do not divide.")
def undivided(x):
    return sums.total(x)


@mutant("mean", "You divide by the number of rows.")
def by_rows(x):
    return sums.total(x) / x.shape[0]


@mutant("mean", "You mean the columns.")
def of_columns(x):
    return x.mean(0)


@rewrite("mean")
def by_method(x):
    return x.mean(-1)


@rewrite("mean")
def of_product(x):
    return x @ torch.full((x.shape[-1],), 1 / x.shape[-1])
"""
TEST_LAYERS = """
import torch
from my_transformer import layers
from tiny_transformer.course.expect import expect_equal


def test_Scale__multiplies():
    expect_equal(layers.Scale(3.0)(torch.ones(2)), torch.full((2,), 3.0), "Scale(3.0)(ones)")


def test_Scale__by_two():
    expect_equal(layers.Scale(2)(torch.ones(2)), torch.full((2,), 2.0), "Scale(2)(ones)")
"""
WRONG_LAYERS = """
import torch
from torch import nn
from tiny_transformer.course.wrong_answers import mutant, probes


@probes("Scale")
def _(Scale):
    layer = Scale(3.0)
    return [lambda: layer(torch.ones(2))]


@mutant("Scale", "You add the factor.")
class adds(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x + self.factor
"""

FILES = {
    "01_sums/module.yaml": MODULE_01,
    "01_sums/test_sums.py": TEST_SUMS,
    "01_sums/wrong_answers.py": WRONG_SUMS,
    "02_layers/module.yaml": MODULE_02,
    "02_layers/test_layers.py": TEST_LAYERS,
    "02_layers/wrong_answers.py": WRONG_LAYERS,
    "my_transformer/sums.py": STUB_SUMS,
    "my_transformer/layers.py": STUB_LAYERS,
    "solutions/sums.py": SUMS,
    "solutions/layers.py": LAYERS,
}


def write_course(folder: Path, files: dict[str, str] | None = None) -> Path:
    """Write the made-up course, with some of its files replaced."""
    for name, text in (FILES | (files or {})).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def answer(function: str, body: str) -> str:
    """Return the stubs of sums.py with one body written."""
    name = {"double": "twice"}.get(function, function)
    stub = f'    raise NotImplementedError("{name}")\n'
    assert STUB_SUMS.count(stub) == 1
    return STUB_SUMS.replace(stub, "".join(f"    {line}\n" for line in body.splitlines()))
