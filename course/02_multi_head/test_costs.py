"""Module 02, what is promised: what several heads cost."""

from __future__ import annotations

from typing import Any

import torch
from my_transformer import attention
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.expect import expect, expect_equal
from tiny_transformer.model.attention import MultiHeadAttention

KINDS = [(12, 3, None), (12, 4, 2), (12, 6, 1), (12, 6, 3), (10, 5, 5), (8, 1, None), (6, 6, 2)]
"""Of width, heads, and key-value heads."""


# multi_head_parameters


def expect_parameters(wanted: int, *args: Any, **kwargs: Any) -> None:
    got = attention.multi_head_parameters(*args, **kwargs)
    given = [str(a) for a in args] + [f"{name}={value}" for name, value in kwargs.items()]
    expect_equal(got, wanted, f"multi_head_parameters({', '.join(given)})", tolerance=0)


def test_multi_head_parameters__counts_four_weights_and_four_biases_of_width_one():
    expect_parameters(8, 1, 1)
    expect_parameters(4, 1, 1, bias=False)


def test_multi_head_parameters__does_not_depend_on_the_number_of_heads():
    for n_heads in (1, 2, 4, 8, 256):
        expect_parameters(263_168, 256, n_heads)
        expect_parameters(262_144, 256, n_heads, bias=False)


def test_multi_head_parameters__counts_narrower_layers_for_fewer_key_value_heads():
    expect_parameters(2 * 12 * 12 + 2 * 12 * 4 + 12 + 4 + 4 + 12, 12, 6, 2)
    expect_parameters(2 * 12 * 12 + 2 * 12 * 2, 12, 6, 1, bias=False)
    whole = 4 * (12 * 12 + 12)
    expect_parameters(whole, 12, 6, 6)
    expect_parameters(whole, 12, 6, None, True)


def test_multi_head_parameters__is_what_four_layers_have():
    for C, H, G in KINDS:
        for bias in (True, False):
            narrow = (H if G is None else G) * (C // H)
            layers = [nn.Linear(C, out, bias=bias) for out in (C, narrow, narrow, C)]
            wanted = sum(p.numel() for layer in layers for p in layer.parameters())
            expect_parameters(wanted, C, H, G, bias)


def test_multi_head_parameters__returns_a_whole_number():
    got = attention.multi_head_parameters(12, 3)
    expect(
        isinstance(got, int) and not isinstance(got, bool),
        f"multi_head_parameters should return a whole number, an int, and returns {got!r}: "
        "divide with `//`.",
    )


# multi_head_flops


def expect_flops(wanted: tuple[int, int], *args: Any) -> None:
    got = attention.multi_head_flops(*args)
    expect(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "multi_head_flops should return two numbers: of the projections, and of the mixing.",
    )
    call = f"multi_head_flops({', '.join(map(str, args))})"
    expect_equal(got[0], wanted[0], f"the first of {call}, the projections,", tolerance=0)
    expect_equal(got[1], wanted[1], f"the second of {call}, the mixing,", tolerance=0)


def flops_by_measuring(T: int, C: int, H: int, G: int | None) -> tuple[int, int]:
    """Let PyTorch count the matrix products of the package's own part."""
    config = ModelConfig(
        d_model=C, n_heads=H, n_kv_heads=G, context_length=T, bias=False, backend="explicit"
    )
    part = MultiHeadAttention(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part(torch.zeros(1, T, C))
    counts = counter.get_flop_counts()["Global"]
    mixing = sum(n for operation, n in counts.items() if "bmm" in str(operation))
    return sum(counts.values()) - mixing, mixing


def test_multi_head_flops__is_that_of_one_head_for_one_head():
    expect_flops((80, 400), 10, 1, 1)
    expect_flops((800, 40), 1, 10, 1)


def test_multi_head_flops__does_not_depend_on_the_number_of_heads():
    for n_heads in (1, 2, 4, 8, 256):
        expect_flops((134_217_728, 67_108_864), 256, 256, n_heads)


def test_multi_head_flops__saves_on_projections_with_fewer_key_value_heads():
    expect_flops((2 * 5 * 12 * (12 + 4 + 4 + 12), 4 * 5 * 5 * 12), 5, 12, 6, 2)
    expect_flops((2 * 5 * 12 * (12 + 2 + 2 + 12), 4 * 5 * 5 * 12), 5, 12, 6, 1)
    expect_flops((2 * 5 * 12 * 4 * 12, 4 * 5 * 5 * 12), 5, 12, 6, 6)


def test_multi_head_flops__is_what_pytorch_counts_in_the_reference():
    for T, (C, H, G) in zip((5, 7, 3, 11), ((12, 3, None), (12, 6, 2), (8, 4, 1), (10, 1, None)),
                            strict=True):  # fmt: skip
        expect_flops(flops_by_measuring(T, C, H, G), T, C, H, G)


def test_multi_head_flops__returns_whole_numbers():
    got = attention.multi_head_flops(3, 12, 4)
    expect(
        all(isinstance(n, int) for n in got),
        f"multi_head_flops should return whole numbers, and returns {got!r}: divide with `//`.",
    )
