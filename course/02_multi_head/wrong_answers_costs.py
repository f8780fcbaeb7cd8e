"""Module 02, wrong answers: what several heads cost."""

from __future__ import annotations

from typing import Any

from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

Heads = int | None

# multi_head_parameters


@probes("multi_head_parameters")
def _(f: Any) -> list[Any]:
    calls = [(1, 1), (256, 4), (256, 8), (12, 6, 2), (12, 6, 1), (12, 4, None), (6, 6, 3)]
    return [
        *(lambda c=c: int(f(*c)) for c in calls),
        *(lambda c=c: int(f(*c, bias=False)) for c in calls),
        lambda: int(f(12, 6, 2, False)),
        lambda: type(f(12, 3)).__name__,
    ]


def widths(d_model: int, n_heads: int, n_kv_heads: Heads) -> tuple[int, int]:
    """Return the width of all query heads, and of all key-value heads."""
    return d_model, d_model // n_heads * (n_heads if n_kv_heads is None else n_kv_heads)


def counted(d_model: int, n_heads: int, n_kv_heads: Heads, bias: bool, layers: str = "qkvo") -> int:
    C, narrow = widths(d_model, n_heads, n_kv_heads)
    outs = {"q": C, "k": narrow, "v": narrow, "o": C}
    return sum(outs[layer] * (C + bias) for layer in layers)


@mutant(
    "multi_head_parameters",
    "Every head of yours is as wide as the model. The heads share the width: each has C / H of it.",
)
def heads_as_wide_as_the_model(
    d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True
) -> int:
    return n_heads * counted(d_model, n_heads, n_kv_heads, bias)


@mutant(
    "multi_head_parameters",
    "You leave the heads out: your projections make the numbers of a single head.",
)
def one_narrow_head(d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True) -> int:
    D = d_model // n_heads
    return 3 * D * (d_model + bias) + d_model * (D + bias)


@mutant("multi_head_parameters", "You count no biases where there are some.")
def biases_left_out(d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True) -> int:
    return counted(d_model, n_heads, n_kv_heads, False)


@mutant("multi_head_parameters", "You count biases where `bias` is False.")
def always_biases(d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True) -> int:
    return counted(d_model, n_heads, n_kv_heads, True)


@mutant(
    "multi_head_parameters",
    "You count a bias as wide as the model for each layer. It is as wide as what comes out: those "
    "of keys and values are narrower where they have fewer heads.",
)
def biases_of_one_width(
    d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True
) -> int:
    return counted(d_model, n_heads, n_kv_heads, False) + 4 * d_model * bias


@mutant("multi_head_parameters", "You count three biases. The output projection has one too.")
def three_biases(d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True) -> int:
    return counted(d_model, n_heads, n_kv_heads, bias) - d_model * bias


@mutant("multi_head_parameters", "You leave out `o_proj`, which leads back to the model's width.")
def without_the_output(
    d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True
) -> int:
    return counted(d_model, n_heads, n_kv_heads, bias, "qkv")


@mutant(
    "multi_head_parameters",
    "You ignore `n_kv_heads`: keys and values have their own number of heads.",
)
def key_value_heads_ignored(
    d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True
) -> int:
    return counted(d_model, n_heads, None, bias)


@mutant(
    "multi_head_parameters",
    "Only the keys of yours are narrower. The values have as few heads as the keys.",
)
def narrow_keys_only(
    d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True
) -> int:
    whole, few = counted(d_model, n_heads, None, bias), widths(d_model, n_heads, n_kv_heads)[1]
    return whole - (d_model - few) * (d_model + bias)


@mutant(
    "multi_head_parameters",
    "You make the output projection narrower too. It takes what all query heads found.",
)
def narrow_output(d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True) -> int:
    C, narrow = widths(d_model, n_heads, n_kv_heads)
    return counted(d_model, n_heads, n_kv_heads, bias, "qkv") + C * (narrow + bias)


@mutant(
    "multi_head_parameters",
    "You compute with `n_kv_heads` where it is None: None means as many as of queries.",
)
def none_taken_for_a_number(
    d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True
) -> int:
    narrow = d_model // n_heads * n_kv_heads  # pyright: ignore[reportOperatorIssue]
    return 2 * d_model * (d_model + bias) + 2 * narrow * (d_model + bias)


@mutant(
    "multi_head_parameters",
    "You return a float: divide with `//`, and count whole numbers.",
)
def a_float_comes_out(
    d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True
) -> Any:
    narrow = d_model / n_heads * (n_heads if n_kv_heads is None else n_kv_heads)
    return 2 * (d_model + bias) * (d_model + narrow)


@rewrite("multi_head_parameters")
def by_fused_layers(d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True) -> int:
    if n_kv_heads is None:
        n_kv_heads = n_heads
    D = d_model // n_heads
    joined = (n_heads + 2 * n_kv_heads) * D  # queries, keys and values in one layer
    weights = d_model * joined + n_heads * D * d_model
    return weights + (joined + d_model if bias else 0)


@rewrite("multi_head_parameters")
def head_by_head(d_model: int, n_heads: int, n_kv_heads: Heads = None, bias: bool = True) -> int:
    D, n_kv = d_model // n_heads, n_kv_heads or n_heads
    one = D * d_model + int(bias) * D
    return n_heads * one + 2 * n_kv * one + d_model * d_model + int(bias) * d_model


# multi_head_flops


@probes("multi_head_flops")
def _(f: Any) -> list[Any]:
    calls = [(10, 1, 1), (1, 10, 1), (5, 12, 3), (7, 12, 4), (5, 12, 6, 2), (5, 12, 6, 1),
             (3, 8, 8, None), (11, 6, 2, 1)]  # fmt: skip
    return [
        *(lambda c=c: tuple(int(n) for n in f(*c)) for c in calls),
        lambda: [type(n).__name__ for n in f(3, 12, 4)],
    ]


def both(T: int, C: int, H: int, G: Heads) -> tuple[int, int]:
    wide, narrow = widths(C, H, G)
    return 4 * T * C * (wide + narrow), 4 * T * T * C


@mutant(
    "multi_head_flops",
    "Each of your heads costs as much as one that is as wide as the model, so that you count the "
    "mixing H times. A head is C / H wide.",
)
def mixing_times_the_heads(
    n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None
) -> Any:
    projections, mixing = both(n_tokens, d_model, n_heads, n_kv_heads)
    return projections, mixing * n_heads


@mutant(
    "multi_head_flops",
    "You count the projections once for each head, all of them as wide as the model. Each head "
    "makes only its own C / H numbers.",
)
def projections_times_the_heads(
    n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None
) -> Any:
    projections, mixing = both(n_tokens, d_model, n_heads, n_kv_heads)
    return projections * n_heads, mixing


@mutant("multi_head_flops", "You count the mixing of one head. There are H of them.")
def mixing_of_one_head(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    projections, mixing = both(n_tokens, d_model, n_heads, n_kv_heads)
    return projections, mixing // n_heads


@mutant(
    "multi_head_flops",
    "Your mixing gets cheaper with fewer key-value heads. They are repeated before they meet the "
    "queries: every query head has its own scores and average.",
)
def cheaper_mixing(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    projections, mixing = both(n_tokens, d_model, n_heads, n_kv_heads)
    return projections, mixing * (n_kv_heads or n_heads) // n_heads


@mutant(
    "multi_head_flops",
    "You ignore `n_kv_heads`: keys and values are made for that many heads only.",
)
def few_heads_ignored(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    return both(n_tokens, d_model, n_heads, None)


@mutant(
    "multi_head_flops",
    "All four of your projections are narrower. Queries have all their heads, and the output takes "
    "what all of them found.",
)
def all_projections_narrow(
    n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None
) -> Any:
    _, narrow = widths(d_model, n_heads, n_kv_heads)
    return 8 * n_tokens * d_model * narrow, 4 * n_tokens**2 * d_model


@mutant("multi_head_flops", "Only the keys of yours are narrower: so are the values.")
def few_keys_only(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    C, narrow = widths(d_model, n_heads, n_kv_heads)
    return 2 * n_tokens * C * (3 * C + narrow), 4 * n_tokens**2 * C


@mutant(
    "multi_head_flops",
    "You count a multiplication and its addition as one. They are two operations.",
)
def one_for_two(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    projections, mixing = both(n_tokens, d_model, n_heads, n_kv_heads)
    return projections // 2, mixing // 2


@mutant("multi_head_flops", "You leave out the projection at the end, `o_proj`.")
def output_left_out(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    projections, mixing = both(n_tokens, d_model, n_heads, n_kv_heads)
    return projections - 2 * n_tokens * d_model**2, mixing


@mutant(
    "multi_head_flops",
    "You count one product for the mixing. Each head has two: its scores, and its average.",
)
def average_left_out(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    projections, mixing = both(n_tokens, d_model, n_heads, n_kv_heads)
    return projections, mixing // 2


@mutant(
    "multi_head_flops",
    "You deduct what the mask hides. It is computed and thrown away: count the whole table.",
)
def hidden_deducted(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    projections, _ = both(n_tokens, d_model, n_heads, n_kv_heads)
    return projections, 2 * n_tokens * (n_tokens + 1) * d_model


@mutant("multi_head_flops", "You return the mixing first. The projections come first.")
def the_mixing_first(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    return both(n_tokens, d_model, n_heads, n_kv_heads)[::-1]


@mutant("multi_head_flops", "You return the sum. Return the two numbers apart.")
def the_sum(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    return sum(both(n_tokens, d_model, n_heads, n_kv_heads))


@mutant(
    "multi_head_flops",
    "You compute with `n_kv_heads` where it is None: None means as many as of queries.",
)
def none_for_a_number(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    return both(n_tokens, d_model, n_heads, 0 + n_kv_heads)  # pyright: ignore[reportOperatorIssue]


@mutant("multi_head_flops", "You return floats: divide with `//`.")
def floats_come_out(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    D = d_model / n_heads
    kv = n_heads if n_kv_heads is None else n_kv_heads
    return 4 * n_tokens * d_model * (d_model + kv * D), n_heads * 4 * n_tokens**2 * D


@rewrite("multi_head_flops")
def product_by_product(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    T, C, D = n_tokens, d_model, d_model // n_heads
    kv = n_heads if n_kv_heads is None else n_kv_heads

    def product(a: int, b: int, c: int) -> int:
        return 2 * a * b * c

    projections = product(T, C, C) + 2 * sum(product(T, C, D) for _ in range(kv))
    projections += product(T, n_heads * D, C)
    return projections, sum(product(T, D, T) + product(T, T, D) for _ in range(n_heads))


@rewrite("multi_head_flops")
def from_the_parameters(n_tokens: int, d_model: int, n_heads: int, n_kv_heads: Heads = None) -> Any:
    share = (n_kv_heads or n_heads, n_heads)
    weights = 2 * d_model**2 + 2 * d_model**2 * share[0] // share[1]
    return [2 * n_tokens * weights, 4 * d_model * n_tokens**2]
