"""Module 01, what is promised: attention as a function."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import Tensor

from tiny_transformer.course.devices import (
    expect_follows_device,
)
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_gradients,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw

HEADS = "B H queries keys"


def attention_in_loops(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Compute causal attention with Python's numbers alone, one weight at a time, in float64."""
    B, H, n_queries, D = q.shape
    n_keys = k.shape[2]
    output = torch.zeros(B, H, n_queries, v.shape[-1], dtype=torch.float64)
    weights = torch.zeros(B, H, n_queries, n_keys, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            keys, values = k[b, h].tolist(), v[b, h].tolist()
            for i, query in enumerate(q[b, h].tolist()):
                seen = range(n_keys - n_queries + i + 1)
                scores = [
                    sum(x * y for x, y in zip(query, keys[j], strict=True)) / D**0.5 for j in seen
                ]
                largest = max(scores)
                powers = [math.exp(s - largest) for s in scores]
                for j in seen:
                    weights[b, h, i, j] = powers[j] / sum(powers)
                    output[b, h, i] += weights[b, h, i, j] * torch.tensor(values[j]).double()
    return output, weights


def expect_attention(got: Any, wanted: tuple[Tensor, Tensor], what: str, tolerance: float) -> None:
    expect(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "explicit_attention should return two tensors: the output and the weights.",
    )
    expect_equal(got[1], wanted[1], f"the table of weights {what}", dims=HEADS, tolerance=tolerance)
    expect_equal(got[0], wanted[0], f"the output {what}", dims="B H queries D", tolerance=tolerance)


def test_explicit_attention__averages_plainly_over_the_past_where_scores_are_equal():
    zeros = torch.zeros(1, 1, 2, 2)
    v = torch.tensor([[[[4.0, 0.0], [0.0, 8.0]]]])
    wanted = torch.tensor([[[[4.0, 0.0], [2.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    got = attention.explicit_attention(zeros, zeros, v)
    expect_attention(got, wanted, "where all scores are 0", 1e-6)


def test_explicit_attention__gives_what_loops_over_single_numbers_give():
    q, k, v = (2 * draw(2, 3, 4, 5, seed=s) for s in (1, 2, 3))
    got = attention.explicit_attention(q, k, v)
    output, weights = attention_in_loops(q, k, v)
    expect_attention(got, (output.float(), weights.float()), "for 4 tokens", 1e-5)


def test_explicit_attention__lets_queries_and_keys_decide():
    q, k, v = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), draw(1, 1, 4, 4)
    q[..., 0], k[:, :, 1, 0] = 40.0, 40.0  # all look for key 1
    wanted = v[:, :, [0, 1, 1, 1]]
    output, _ = attention.explicit_attention(q, k, v)
    expect_equal(output, wanted, "the output where key 1 matches every query", dims="B H queries D")


def test_explicit_attention__takes_the_queries_to_be_the_last_positions():
    for n_queries in (1, 3):
        q = draw(2, 2, n_queries, 4, seed=1)
        k, v = draw(2, 2, 6, 4, seed=2), draw(2, 2, 6, 4, seed=3)
        output, weights = attention_in_loops(q, k, v)
        got = attention.explicit_attention(q, k, v)
        expect_attention(
            got, (output.float(), weights.float()), f"for {n_queries} queries and 6 keys", 1e-5
        )


def test_explicit_attention__does_not_see_the_future():
    q, k, v = (draw(1, 2, 6, 4, seed=s) for s in (1, 2, 3))
    before, _ = attention.explicit_attention(q.clone(), k.clone(), v.clone())
    for t in range(1, 6):
        later_k, later_v = k.clone(), v.clone()
        later_k[:, :, t:] += 5
        later_v[:, :, t:] *= -3
        after, _ = attention.explicit_attention(q.clone(), later_k, later_v)
        expect_equal(
            after[:, :, :t],
            before[:, :, :t],
            f"the output before position {t}, after keys and values from {t} on have changed,",
            dims="B H queries D",
        )


def test_explicit_attention__keeps_heads_and_sequences_apart():
    q, k, v = (draw(3, 3, 3, 3, seed=s) for s in (1, 2, 3))
    output, _ = attention.explicit_attention(q.clone(), k.clone(), v.clone())
    for b in range(3):
        for h in range(3):
            one, _ = attention.explicit_attention(*(x[b, h][None, None].clone() for x in (q, k, v)))
            expect_equal(
                output[b, h], one[0, 0], f"sequence {b}, head {h} among others", dims="queries D"
            )


def test_explicit_attention__stands_large_scores():
    q, k, v = 100 * draw(1, 1, 5, 8, seed=1), 100 * draw(1, 1, 5, 8, seed=2), draw(1, 1, 5, 8)
    output, weights = attention_in_loops(q, k, v)
    got = attention.explicit_attention(q, k, v)
    expect_attention(got, (output.float(), weights.float()), "for large scores", 1e-4)


def test_explicit_attention__keeps_the_dtype_and_its_inputs():
    for dtype, tolerance in [(torch.float64, 1e-6), (torch.bfloat16, 3e-2)]:
        q, k, v = (draw(2, 2, 4, 8, seed=s, dtype=dtype) for s in (1, 2, 3))
        before = [x.clone() for x in (q, k, v)]
        output, weights = attention_in_loops(*before)
        got = attention.explicit_attention(q, k, v)
        expect_attention(got, (output.to(dtype), weights.to(dtype)), f"in {dtype}", tolerance)
        for name, old, new in zip("qkv", before, (q, k, v), strict=True):
            expect_unchanged(old, new, name)


def test_explicit_attention__stays_on_the_device_of_its_inputs():
    q, k, v = (draw(1, 1, 4, 8, seed=s) for s in (1, 2, 3))
    expect_follows_device(
        lambda: attention.explicit_attention(q, k, v), [q, k, v], "explicit_attention"
    )


def test_explicit_attention__lets_gradients_through():
    inputs = [draw(2, 2, 4, 5, seed=s, dtype=torch.float64) for s in (1, 2, 3)]

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    expect_gradients(
        lambda q, k, v: attention.explicit_attention(q, k, v)[0],
        fused,
        inputs,
        "explicit_attention",
    )


def dropped_weights(dropout: float, n_tokens: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Return what was averaged with, the returned weights, and the weights without dropout."""
    q, k = draw(8, 4, n_tokens, n_tokens, seed=1), draw(8, 4, n_tokens, n_tokens, seed=2)
    v = torch.eye(n_tokens).expand(8, 4, n_tokens, n_tokens).clone()  # the output is the weights
    output, weights = attention.explicit_attention(q, k, v, dropout)
    _, plain = attention.explicit_attention(q.clone(), k.clone(), v.clone())
    return output, weights, plain


def test_explicit_attention__drops_weights_and_enlarges_the_others():
    for dropout in (0.5, 0.25):
        output, _, plain = dropped_weights(dropout)
        dropped = output.abs() < 1e-12
        wanted = torch.where(dropped, torch.zeros_like(plain), plain / (1 - dropout))
        expect_equal(
            output,
            wanted,
            f"what is left of the weights, with dropout={dropout},",
            dims=HEADS,
            note="Those that stay are divided by 1 - dropout.",
        )
        visible = plain > 1e-6
        share = (dropped & visible).sum().item() / visible.sum().item()
        expect(
            abs(share - dropout) < 0.05,
            f"With dropout={dropout}, {share:.0%} of the weights were dropped.",
        )


def test_explicit_attention__drops_weights_and_not_outputs():
    q, k, v = draw(4, 2, 8, 4, seed=1), draw(4, 2, 8, 4, seed=2), torch.ones(4, 2, 8, 4)
    output, _ = attention.explicit_attention(q, k, v, 0.5)
    expect_equal(
        output,
        output[..., :1].expand_as(output).clone(),
        "the output where all values are 1 and dropout is 0.5",
        dims="B H queries D",
        note="A dropped weight changes all numbers of an output alike: dropout comes "
        "before the average.",
    )


def test_explicit_attention__drops_other_weights_for_every_head_and_sequence():
    output, _, _ = dropped_weights(0.5)
    kept = output.abs() > 1e-12
    alike = all(torch.equal(kept[0, 0], kept[b, h]) for b in range(8) for h in range(4))
    expect(not alike, "Every head and sequence drops the same weights: draw for all of them.")
    rows = kept[..., -1, :].flatten(0, 1)  # those of the last query, which sees all keys
    expect(
        0 < rows.float().mean(dim=1).var().item() < 0.1,
        "The weights of one query are all dropped or all kept: draw for each weight.",
    )


def test_explicit_attention__returns_the_weights_before_dropout():
    _, weights, plain = dropped_weights(0.5)
    expect_equal(
        weights,
        plain,
        "the table of returned weights with dropout=0.5",
        dims=HEADS,
        note="They should be those from before dropout, which sum to one.",
    )
