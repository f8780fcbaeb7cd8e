"""Module 01, what is promised: entropy, costs and permutations."""

from __future__ import annotations

import math
from collections.abc import Callable

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
LOG_2, LOG_3, LOG_4 = (math.log(n) for n in (2, 3, 4))


# attention_entropy


def test_attention_entropy__is_the_logarithm_of_the_number_of_equal_weights():
    got = attention.attention_entropy(torch.tensor([[0.5, 0.5], [0.25, 0.75]]))
    wanted = torch.tensor([LOG_2, LOG_4 / 4 + 0.75 * (LOG_4 - LOG_3)])
    expect_equal(
        got, wanted, "the entropy of [1/2, 1/2] and of [1/4, 3/4], in nats", dims="queries"
    )


def test_attention_entropy__counts_a_weight_of_zero_as_nothing():
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    got = attention.attention_entropy(weights)
    wanted = torch.tensor([0.0, LOG_2, LOG_4])
    expect_equal(
        got,
        wanted,
        "the entropy of weights with zeros",
        dims="queries",
        note="0 times log 0 is NaN for the machine and 0 for us.",
    )


def test_attention_entropy__has_a_number_for_every_query():
    weights = torch.softmax(2 * draw(2, 3, 4, 4, seed=1), dim=-1)
    wanted = torch.tensor(
        [
            [[-sum(w * math.log(w) for w in row) for row in head] for head in batch]
            for batch in weights.tolist()
        ]
    )
    got = attention.attention_entropy(weights)
    expect_equal(got, wanted, "the entropy of (2, 3, 4, 4) weights", dims="B H queries")


def test_attention_entropy__counts_small_weights_exactly():
    small = 1e-6
    weights = torch.tensor([[1 - small, small]], dtype=torch.float64)
    wanted = torch.tensor([-small * math.log(small) - (1 - small) * math.log(1 - small)])
    expect_equal(
        attention.attention_entropy(weights),
        wanted.double(),
        "the entropy of [1 - 1e-6, 1e-6]",
        tolerance=1e-7,
    )


def test_attention_entropy__keeps_the_dtype_and_its_input():
    weights = torch.softmax(draw(3, 4, dtype=torch.float64), dim=-1)
    weights[0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    before = weights.clone()
    got = attention.attention_entropy(weights)
    wanted = torch.distributions.Categorical(probs=before).entropy()
    expect_equal(got, wanted, "the float64 entropy", dims="queries", tolerance=1e-6)
    expect_unchanged(before, weights, "weights")


# attention_flops and attention_weight_bytes


def operations(a: Tensor, b: Tensor) -> int:
    """Multiply two matrices number by number, and count."""
    count = 0
    for _row in a:
        for _column in b.T:
            for _ in range(a.shape[1]):
                count += 2  # a multiplication, and an addition to the sum
    return count


def flops_by_counting(n_tokens: int, d_model: int) -> tuple[int, int]:
    x, square = torch.zeros(n_tokens, d_model), torch.zeros(d_model, d_model)
    weights = torch.zeros(n_tokens, n_tokens)
    return 4 * operations(x, square), operations(x, x.T) + operations(weights, x)


def expect_flops(n_tokens: int, d_model: int, wanted: tuple[int, int]) -> None:
    got = attention.attention_flops(n_tokens, d_model)
    expect(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "attention_flops should return two numbers: of the projections, and of the mixing.",
    )
    call = f"attention_flops({n_tokens}, {d_model})"
    expect_equal(got[0], wanted[0], f"the first of {call}, the projections,", tolerance=0)
    expect_equal(got[1], wanted[1], f"the second of {call}, the mixing,", tolerance=0)


def test_attention_flops__counts_one_token_of_width_one():
    expect_flops(1, 1, (8, 4))


def test_attention_flops__grows_with_the_square_of_the_length():
    expect_flops(10, 1, (80, 400))
    expect_flops(1, 10, (800, 40))


def test_attention_flops__is_equal_for_both_where_the_length_is_twice_the_width():
    expect_flops(512, 256, (268_435_456, 268_435_456))


def test_attention_flops__is_what_counting_each_multiplication_and_addition_gives():
    for n_tokens, d_model in [(3, 5), (12, 4), (6, 6)]:
        expect_flops(n_tokens, d_model, flops_by_counting(n_tokens, d_model))


def test_attention_weight_bytes__counts_one_weight():
    got = attention.attention_weight_bytes(1, 1, 1)
    expect_equal(got, 4, "attention_weight_bytes(1, 1, 1)", tolerance=0)
    expect(type(got) is int, f"Bytes are whole: an int, and this is a {type(got).__name__}.")


def test_attention_weight_bytes__is_what_a_tensor_of_weights_takes():
    for B, H, T, dtype in [
        (2, 3, 5, torch.float32),
        (3, 2, 7, torch.bfloat16),
        (1, 4, 256, torch.float64),
    ]:
        weights = torch.zeros(B, H, T, T, dtype=dtype)
        got = attention.attention_weight_bytes(B, H, T, dtype.itemsize)
        expect_equal(
            got,
            weights.nbytes,
            f"attention_weight_bytes({B}, {H}, {T}, {dtype.itemsize})",
            tolerance=0,
        )


# is_permutation_equivariant


def mix(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend with the tokens themselves as queries, keys and values."""
    scores = x @ x.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -INF)
    return torch.softmax(scores, -1) @ x


def mix_causally(x: Tensor) -> Tensor:
    return mix(x, torch.ones(x.shape[-2], x.shape[-2]).bool().tril())


def expect_verdict(
    attend: Callable[[Tensor], Tensor], x: Tensor, order: Tensor, wanted: bool, of: str
) -> None:
    before = x.clone()
    got = attention.is_permutation_equivariant(attend, x, order)
    expect_equal(got, wanted, f"is_permutation_equivariant of {of}")
    expect_unchanged(before, x, "x")


def test_is_permutation_equivariant__holds_for_attention_without_a_mask():
    order = torch.tensor([2, 0, 3, 1])
    expect_verdict(mix, draw(4, 3), order, True, "attention without a mask")
    expect_verdict(lambda x: 2 * x + 1, draw(4, 3), order, True, "2 x + 1, each token alone")


def test_is_permutation_equivariant__does_not_hold_with_a_causal_mask():
    order = torch.tensor([2, 0, 3, 1])
    expect_verdict(mix_causally, draw(4, 3), order, False, "causal attention")


def test_is_permutation_equivariant__does_not_hold_where_positions_are_added():
    positions = draw(4, 3, seed=9)
    order = torch.tensor([1, 2, 3, 0])
    expect_verdict(
        lambda x: mix(x + positions), draw(4, 3), order, False, "attention with positions added"
    )
    expect_verdict(
        lambda x: mix(x + 0.05 * positions),
        draw(4, 3),
        order,
        False,
        "attention with small positions added",
    )


def test_is_permutation_equivariant__tells_it_from_invariance():
    order = torch.tensor([1, 2, 0])
    expect_verdict(
        lambda x: x.mean(-2, keepdim=True).expand_as(x) + x,
        draw(3, 2),
        order,
        True,
        "adding the average of all tokens",
    )
    fixed = draw(3, 2, seed=5)
    expect_verdict(
        lambda x: x.sum() * fixed,
        draw(3, 2),
        order,
        False,
        "a function that gives the same for every order",
    )


def test_is_permutation_equivariant__notices_tokens_that_move():
    order = torch.tensor([1, 0, 2, 3])
    for name, move in [
        ("shifts the tokens by one", lambda x: x.roll(1, -2)),
        ("sums up the tokens so far", lambda x: x.cumsum(-2)),
        (
            "changes only the last token",
            lambda x: torch.cat([x[..., :-1, :], 2 * x[..., -1:, :]], -2),
        ),
    ]:
        asked = order if "last" not in name else order.flip(0)
        expect_verdict(move, draw(4, 4), asked, False, f"a function that {name}")


def test_is_permutation_equivariant__looks_at_every_token_and_every_number():
    late = torch.tensor([1.0, 1.0, 2.0, 1.0])[:, None]
    order = torch.tensor([0, 1, 3, 2])
    expect_verdict(lambda x: x * late, draw(4, 3), order, False, "a function that doubles token 2")
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    order = torch.tensor([1, 2, 3, 0])
    what = "a function that turns every other token round"
    expect_verdict(lambda x: x * signs, draw(4, 3), order, False, what)


def test_is_permutation_equivariant__asks_about_the_order_that_is_given():
    same = torch.arange(4)
    expect_verdict(mix_causally, draw(4, 3), same, True, "causal attention, nothing moved")
    late = torch.tensor([1.0, 1.0, 2.0, 1.0])[:, None]
    order = torch.tensor([3, 0, 2, 1])
    what = "a function that doubles token 2, which stays where it is"
    expect_verdict(lambda x: x * late, draw(4, 3), order, True, what)


def test_is_permutation_equivariant__reorders_tokens_and_not_sequences_or_channels():
    order = torch.tensor([2, 0, 3, 1])
    for B, C in [(1, 3), (4, 4), (6, 5)]:
        x = draw(B, 4, C)
        expect_verdict(mix, x, order, True, f"attention without a mask on (B={B}, T=4, C={C})")
        expect_verdict(mix_causally, x, order, False, f"causal attention on (B={B}, T=4, C={C})")
        channels = draw(C, seed=7)
        expect_verdict(
            lambda x, c=channels: x * c,
            x,
            order,
            True,
            f"a scale for each channel on (B={B}, T=4, C={C})",
        )
    by_sequence = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
    expect_verdict(
        lambda x: mix(x) * by_sequence,
        draw(4, 4, 4),
        order,
        True,
        "attention and a scale for each sequence",
    )


def test_is_permutation_equivariant__allows_for_rounding():
    x = draw(300, 32, seed=1)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    expect_verdict(lambda x: mix(x / 3), x, order, True, "attention over 300 tokens")
