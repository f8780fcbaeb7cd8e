"""Module 01, what is promised: gradients by hand."""

from __future__ import annotations

import math

import torch
from my_transformer import attention
from torch import Tensor

from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw

INF = float("inf")
SCORES = "queries keys"


def test_softmax_backward__gives_two_weights_by_hand():
    weights, grad = torch.tensor([[0.25, 0.75]]), torch.tensor([[8.0, 0.0]])
    got = attention.softmax_backward(weights, grad)
    expect_equal(
        got, torch.tensor([[1.5, -1.5]]), "softmax_backward([1/4, 3/4], [8, 0])", dims=SCORES
    )


def test_softmax_backward__is_the_jacobian_times_the_gradient():
    weights, grad = torch.softmax(draw(4, seed=1), 0), draw(4, seed=2)
    jacobian = torch.diag(weights) - weights[:, None] * weights[None, :]
    got = attention.softmax_backward(weights[None], grad[None])
    expect_equal(got, (jacobian @ grad)[None], "one row of softmax_backward", dims=SCORES)


def test_softmax_backward__agrees_with_autograd_for_many_rows():
    for shape in [(3, 3), (2, 3, 4, 5), (2, 2, 2, 2)]:
        scores = draw(*shape, seed=1, dtype=torch.float64).requires_grad_()
        grad = draw(*shape, seed=2, dtype=torch.float64)
        weights = torch.softmax(scores, dim=-1)
        (wanted,) = torch.autograd.grad(weights, scores, grad)
        got = attention.softmax_backward(weights.detach(), grad)
        dims = "B H " * (len(shape) == 4) + SCORES
        expect_equal(got, wanted, f"softmax_backward of {shape}", dims=dims, tolerance=1e-10)


def test_softmax_backward__gives_hidden_keys_no_gradient():
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    grad = torch.tensor([[3.0, -2.0, 7.0], [4.0, 2.0, 9.0]])
    wanted = torch.tensor([[0.0, 0.0, 0.0], [0.5, -0.5, 0.0]])
    got = attention.softmax_backward(weights, grad)
    expect_equal(got, wanted, "softmax_backward where weights are 0", dims=SCORES)


def test_softmax_backward__keeps_its_inputs():
    weights, grad = torch.softmax(draw(3, 4), -1), draw(3, 4, seed=1)
    before = weights.clone(), grad.clone()
    attention.softmax_backward(weights, grad)
    expect_unchanged(before[0], weights, "weights")
    expect_unchanged(before[1], grad, "grad_weights")


# attention_backward


def expect_backward(q: Tensor, k: Tensor, v: Tensor, what: str) -> None:
    grad = draw(*q.shape[:-1], v.shape[-1], seed=11, dtype=q.dtype)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    hidden = ~torch.ones(q.shape[-2], k.shape[-2]).bool().tril(k.shape[-2] - q.shape[-2])
    scores = leaves[0] @ leaves[1].mT / math.sqrt(q.shape[-1])
    output = torch.softmax(scores.masked_fill(hidden, -INF), -1) @ leaves[2]
    wanted = torch.autograd.grad(output, leaves, grad)
    got = attention.attention_backward(q, k, v, grad)
    expect(
        isinstance(got, (tuple, list)) and len(got) == 3,
        "attention_backward should return three gradients: of q, k and v.",
    )
    for name, axis, a, b in zip(
        "vqk",
        ("keys", "queries", "keys"),
        (got[2], got[0], got[1]),
        (wanted[2], wanted[0], wanted[1]),
        strict=True,
    ):
        expect_equal(a, b, f"the gradient of {name} {what}", dims=f"B H {axis} D", tolerance=1e-6)


def test_attention_backward__hands_a_lone_token_its_own_gradient():
    one, grad = torch.ones(1, 1, 1, 2), torch.tensor([[[[3.0, 4.0]]]])
    got = attention.attention_backward(one, one, one, grad)
    expect(
        isinstance(got, (tuple, list)) and len(got) == 3,
        "attention_backward should return three gradients: of q, k and v.",
    )
    zero = torch.zeros(1, 1, 1, 2)
    for name, a, b in zip(("q", "k", "v"), got, (zero, zero, grad), strict=True):
        expect_equal(a, b, f"the gradient of {name} for one token", dims="B H T D")


def test_attention_backward__agrees_with_autograd():
    q, k, v = (draw(2, 3, 5, 4, seed=s, dtype=torch.float64) for s in (1, 2, 3))
    expect_backward(q, k, v, "for 5 tokens")


def test_attention_backward__agrees_where_all_sizes_are_equal():
    q, k, v = (draw(1, 1, 4, 4, seed=s, dtype=torch.float64) for s in (4, 5, 6))
    expect_backward(q, k, v, "for 4 tokens of width 4")


def test_attention_backward__agrees_for_fewer_queries_than_keys():
    q = draw(2, 1, 2, 3, seed=1, dtype=torch.float64)
    k, v = (draw(2, 1, 6, 3, seed=s, dtype=torch.float64) for s in (2, 3))
    expect_backward(q, k, v, "for 2 queries and 6 keys")


def test_attention_backward__keeps_the_dtype_and_its_inputs():
    q, k, v, grad = (draw(1, 2, 4, 3, seed=s) for s in (1, 2, 3, 4))
    before = [x.clone() for x in (q, k, v, grad)]
    got = attention.attention_backward(q, k, v, grad)
    for name, gradient in zip("qkv", got, strict=False):
        expect(gradient.dtype == torch.float32, f"The gradient of {name} should be float32.")
    for name, old, new in zip(("q", "k", "v", "grad_output"), before, (q, k, v, grad), strict=True):
        expect_unchanged(old, new, name)


def test_attention_backward__works_where_autograd_is_off():
    q, k, v, grad = (draw(1, 1, 3, 2, seed=s, dtype=torch.float64) for s in (1, 2, 3, 4))
    wanted = attention.attention_backward(q, k, v, grad)
    with torch.inference_mode():
        try:
            got = attention.attention_backward(q, k, v, grad)
        except RuntimeError as error:
            expect(
                "grad" not in str(error),
                "attention_backward calls autograd: work the gradients out with matrix products.",
            )
            raise
    expect_equal(got[0], wanted[0], "the gradient of q without autograd", dims="B H queries D")
