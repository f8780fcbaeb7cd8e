"""Module 01, wrong answers: attention as a function."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import Tensor, nn

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

INF = float("inf")


def causal(scores: Tensor) -> Tensor:
    """Return the mask that belongs to scores."""
    return attention.causal_mask(scores.shape[-2], scores.shape[-1], scores.device)


# explicit_attention


def drop(weights: Tensor, dropout: float) -> Tensor:
    return F.dropout(weights, dropout) if dropout > 0 else weights


def scores_of(q: Tensor, k: Tensor) -> Tensor:
    """Return scaled scores, hidden ones at minus infinity."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~causal(scores), -INF)


def finish(weights: Tensor, v: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    weights = weights.to(v.dtype)
    return drop(weights, dropout) @ v, weights


@probes("explicit_attention")
def _(f: Any) -> list[Any]:
    def inputs(n_queries: int, n_keys: int, width: int, dtype: torch.dtype = torch.float32) -> Any:
        q = draw(2, 3, n_queries, width, seed=1, dtype=dtype)
        k, v = (draw(2, 3, n_keys, width, seed=s, dtype=dtype) for s in (2, 3))
        return q, k, v

    def with_dropout(v: Tensor, dropout: float = 0.5) -> tuple[Tensor, Tensor]:
        q, k = draw(2, 3, 16, 16, seed=1), draw(2, 3, 16, 16, seed=2)
        return f(q, k, v.expand(2, 3, 16, 16).clone(), dropout)

    def ratios(dropout: float) -> list[float]:
        """Return what weights are multiplied by, each kind of number once."""
        output, _ = with_dropout(torch.eye(16), dropout)
        _, weights = f(
            draw(2, 3, 16, 16, seed=1),
            draw(2, 3, 16, 16, seed=2),
            torch.eye(16).expand(2, 3, 16, 16).clone(),
        )
        seen = torch.ones(16, 16).bool().tril()
        return ((output / weights)[..., seen] * 100).round().unique().tolist()[:5]

    def alike_in_all_channels() -> bool:
        output, _ = with_dropout(torch.ones(16))
        return bool((output - output[..., :1]).abs().max() < 1e-5)

    def sums_of_weights_differ() -> bool:
        output, _ = with_dropout(torch.ones(16))
        return len((output * 100).round().unique()) > 2

    def gradient() -> bool:
        q, k, v = inputs(3, 3, 4)
        return f(q.requires_grad_(), k, v)[0].requires_grad

    def share(dropout: float) -> int:
        output, _ = with_dropout(torch.eye(16), dropout)
        seen = torch.ones(16, 16).bool().tril()
        return round((output[..., seen] == 0).float().mean().item() * 10)

    def same_in_every_head() -> bool:
        output, _ = with_dropout(torch.eye(16))
        return bool(((output != 0) == (output != 0)[:1, :1]).all())

    def device() -> bool:
        from tiny_transformer.course.devices import expect_follows_device

        q, k, v = inputs(3, 3, 4)
        expect_follows_device(lambda: f(q, k, v), [q, k, v], "")
        return True

    return [
        lambda: f(*inputs(4, 4, 5)),
        lambda: f(*inputs(4, 4, 5))[1],
        lambda: f(*inputs(5, 5, 5))[0],
        lambda: f(*inputs(2, 6, 4)),
        lambda: f(*inputs(1, 6, 4)),
        lambda: f(*inputs(1, 1, 4)),
        lambda: f(*(20 * x for x in inputs(4, 4, 16))),
        lambda: f(*inputs(4, 4, 5, torch.float64)),
        lambda: f(*inputs(4, 4, 8, torch.bfloat16))[0].dtype,
        lambda: f(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), draw(1, 1, 4, 4)),
        lambda: changed(f, *inputs(4, 4, 5)),
        lambda: ratios(0.5),
        lambda: ratios(0.25),
        lambda: share(0.25),
        alike_in_all_channels,
        sums_of_weights_differ,
        gradient,
        same_in_every_head,
        lambda: [round(x, 3) for x in with_dropout(torch.eye(16))[1].sum(-1).unique().tolist()[:4]],
        device,
    ]


@mutant(
    "explicit_attention",
    "Your weights are equal over the past: queries and keys are ignored. Their products should "
    "decide.",
)
def even_weights(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    seen = causal(q @ k.transpose(-2, -1)).to(q.dtype).expand(*q.shape[:-1], k.shape[-2])
    return finish(seen / seen.sum(-1, keepdim=True), v, dropout)


@mutant(
    "explicit_attention",
    "Your weights are equal over all keys: queries, keys and mask are ignored.",
)
def even_weights_everywhere(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    shape = (*q.shape[:-1], k.shape[-2])
    return finish(torch.full(shape, 1 / k.shape[-2], dtype=q.dtype, device=q.device), v, dropout)


@mutant(
    "explicit_attention",
    "The scale is missing: divide the scores by the square root of the width.",
)
def attention_without_the_scale(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(scores_of(q * math.sqrt(q.shape[-1]), k).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "You divide the scores by the width. Divide by its square root.",
)
def attention_divided_by_the_width(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(scores_of(q / math.sqrt(q.shape[-1]), k).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "Your scale is the root of the number of tokens. It is that of the width: the last axis of q.",
)
def scaled_by_the_number_of_tokens(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    factor = math.sqrt(q.shape[-1] / k.shape[-2])
    return finish(scores_of(q * factor, k).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "You scale after the softmax: the weights are divided by the root of the width and no longer "
    "sum to one. Scale the scores.",
)
def scaled_after_the_softmax(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    root = math.sqrt(q.shape[-1])
    return finish(scores_of(q * root, k).softmax(-1) / root, v, dropout)


@mutant("explicit_attention", "There is no mask: your queries see the keys after them.")
def attention_without_a_mask(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return finish(scores.softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "Your mask is off by one: each query sees the key after its own.",
)
def attention_sees_the_next(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    seen = causal(scores) | causal(scores).roll(1, -1).tril(k.shape[-2] - q.shape[-2] + 1)
    return finish(scores.masked_fill(~seen, -INF).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "Your queries cannot see their own key, and the first one, which sees nothing, is NaN: keep "
    "the diagonal.",
)
def attention_without_itself(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    seen = causal(scores).tril(k.shape[-2] - q.shape[-2] - 1)
    return finish(scores.masked_fill(~seen, -INF).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "Your mask is turned round: queries see the keys after them and not those before.",
)
def attention_forward_only(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    seen = torch.ones_like(causal(scores)).triu(k.shape[-2] - q.shape[-2])
    return finish(scores.masked_fill(~seen, -INF).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "You take the queries to be the first positions. With fewer queries than keys they are the "
    "last: `causal_mask(n_queries, n_keys)` knows it.",
)
def queries_stand_first(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    seen = torch.ones_like(causal(scores)).tril()
    return finish(scores.masked_fill(~seen, -INF).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "You zero hidden weights after the softmax, and rows no longer sum to one. Hide the scores "
    "before it.",
)
def masked_after_the_softmax(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return finish(scores.softmax(-1) * causal(scores), v, dropout)


@mutant(
    "explicit_attention",
    "You give hidden keys the score 0 by multiplying with the mask, and exp(0) is 1. Minus "
    "infinity hides.",
)
def scores_times_the_mask(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return finish((scores * causal(scores)).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "Your weights sum to one over the queries, not over the keys: look at `dim` of the softmax.",
)
def softmax_over_the_queries(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(torch.nan_to_num(scores_of(q, k).softmax(-2)), v, dropout)


@mutant(
    "explicit_attention",
    "Your weights sum to one over the heads: the softmax needs `dim=-1`, the keys.",
)
def softmax_over_the_heads(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(torch.nan_to_num(scores_of(q, k).softmax(1)), v, dropout)


@mutant(
    "explicit_attention",
    "There is no softmax: scores are divided by their sum, and can be negative.",
)
def divided_without_a_softmax(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    scores = scores * causal(scores)
    return finish(scores / scores.sum(-1, keepdim=True), v, dropout)


@mutant(
    "explicit_attention",
    "There is no softmax: the scores themselves are used as weights.",
)
def scores_as_weights(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return finish(scores * causal(scores), v, dropout)


@mutant(
    "explicit_attention",
    "Your softmax takes exponentials without taking the largest score away: large scores overflow.",
)
def attention_without_the_maximum(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    powers = scores_of(q, k).exp()
    return finish(powers / powers.sum(-1, keepdim=True), v, dropout)


@mutant(
    "explicit_attention",
    "You average the keys. What is handed over are the values: the last product is with v.",
)
def keys_averaged(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(scores_of(q, k).softmax(-1), k, dropout)


@mutant(
    "explicit_attention",
    "You compare the queries with the values. They should be compared with the keys.",
)
def values_for_keys(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(scores_of(q, v).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "Queries and keys are exchanged: your scores are those of each key for each query. The "
    "queries stand on the left.",
)
def queries_and_keys_exchanged(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(scores_of(k, q).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "The weights are transposed before the average: query i should use row i of them.",
)
def weights_turned_before_the_average(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    weights = scores_of(q, k).softmax(-1)
    return drop(weights, dropout).transpose(-2, -1) @ v, weights


@mutant(
    "explicit_attention",
    "You return the weights first. The output comes first, then the weights.",
)
def weights_first(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    output, weights = finish(scores_of(q, k).softmax(-1), v, dropout)
    return weights, output


@mutant("explicit_attention", "You return the output alone. Return the weights too.")
def output_alone(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(scores_of(q, k).softmax(-1), v, dropout)[0]


@mutant(
    "explicit_attention",
    "You return the scores in place of the weights: what comes out of the softmax is asked for.",
)
def scores_returned(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    output, _ = finish(scores_of(q, k).softmax(-1), v, dropout)
    return output, scores_of(q, k)


@mutant("explicit_attention", "Your answer does not use `dropout`.")
def dropout_ignored(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(scores_of(q, k).softmax(-1), v, 0.0)


@mutant(
    "explicit_attention",
    "You drop numbers of the output. Drop weights, before the average: then all channels of a "
    "token miss the same keys.",
)
def output_dropped(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    output, weights = finish(scores_of(q, k).softmax(-1), v, 0.0)
    return drop(output, dropout), weights


@mutant(
    "explicit_attention",
    "You drop values, before the average. Drop weights: then all channels of a token miss the "
    "same keys.",
)
def values_dropped(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    output, weights = finish(scores_of(q, k).softmax(-1), drop(v, dropout), 0.0)
    return output, weights


@mutant(
    "explicit_attention",
    "The weights that stay are not enlarged: divide them by `1 - dropout`, so that the average "
    "stays what it is.",
)
def dropped_and_not_enlarged(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    weights = scores_of(q, k).softmax(-1)
    kept = torch.rand_like(weights) >= dropout
    return (weights * kept) @ v, weights


@mutant(
    "explicit_attention",
    "You divide the weights that stay by `dropout`: divide by `1 - dropout`, the share that stays.",
)
def enlarged_by_the_wrong_share(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    weights = scores_of(q, k).softmax(-1)
    kept = torch.rand_like(weights) >= dropout
    return (weights * kept / (dropout if dropout > 0 else 1)) @ v, weights


@mutant(
    "explicit_attention",
    "You keep weights with the probability that they should be dropped with.",
)
def keep_for_drop(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    weights = scores_of(q, k).softmax(-1)
    return finish(weights, v, 1 - dropout if dropout > 0 else 0.0)


@mutant(
    "explicit_attention",
    "You divide the dropped weights by their sum. Those that stay are divided by `1 - dropout`, "
    "and the rows need not sum to one.",
)
def divided_after_dropping(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    weights = scores_of(q, k).softmax(-1)
    dropped = drop(weights, dropout)
    return (dropped / dropped.sum(-1, keepdim=True).clamp(min=1e-9)) @ v, weights


@mutant(
    "explicit_attention",
    "You drop scores before the softmax: a score of 0 is not a weight of 0. Drop weights.",
)
def scores_dropped(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    dropped = drop(scores, dropout).masked_fill(~causal(scores), -INF).softmax(-1)
    return dropped @ v, scores_of(q, k).softmax(-1)


@mutant(
    "explicit_attention",
    "You return the weights after dropout. Keep those from before it under a name, and return "
    "them.",
)
def dropped_weights_returned(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    weights = drop(scores_of(q, k).softmax(-1), dropout)
    return weights @ v, weights


@mutant(
    "explicit_attention",
    "All heads and sequences drop the same weights: draw for the whole tensor.",
)
def one_draw_for_all_heads(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    weights = scores_of(q, k).softmax(-1)
    return (weights * drop(torch.ones_like(weights[:1, :1]), dropout)) @ v, weights


@mutant(
    "explicit_attention",
    "You drop all weights of a query at once: draw for each weight.",
)
def whole_rows_dropped(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    weights = scores_of(q, k).softmax(-1)
    return (weights * drop(torch.ones_like(weights[..., :1]), dropout)) @ v, weights


@mutant(
    "explicit_attention",
    "You divide the queries of your caller in place: write `q / ...`, which makes a new tensor.",
)
def queries_divided_in_place(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    weights = scores_of(q, k).softmax(-1)
    if not q.requires_grad:
        q /= math.sqrt(q.shape[-1])
    return finish(weights, v, dropout)


@mutant(
    "explicit_attention",
    "You return float32 whatever comes in. Keep the dtype of the inputs.",
)
def attention_in_float32(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(scores_of(q.float(), k.float()).softmax(-1), v.float(), dropout)


@mutant(
    "explicit_attention",
    "You make the mask on the CPU, wherever the inputs are: give `causal_mask` the device of q.",
)
def mask_on_the_default_device(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    n_queries, n_keys = scores.shape[-2:]
    seen = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
    return finish(torch.where(seen, scores, -INF).softmax(-1), v, dropout)


@mutant(
    "explicit_attention",
    "No gradient flows back to queries and keys: leave out detach() and torch.no_grad().",
)
def weights_detached(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return finish(scores_of(q, k).softmax(-1).detach(), v, dropout)


@rewrite("explicit_attention")
def attention_from_the_pieces(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    mask = attention.causal_mask(q.shape[-2], k.shape[-2], q.device)
    weights = attention.masked_softmax(attention.scaled_scores(q, k), mask)
    return attention.weighted_average(F.dropout(weights, dropout), v), weights


@rewrite("explicit_attention")
def attention_by_einsum(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
    n_queries, n_keys = scores.shape[-2:]
    hidden = torch.full((n_queries, n_keys), -INF, device=q.device).triu(n_keys - n_queries + 1)
    weights = F.softmax(scores + hidden.to(scores.dtype), dim=-1)
    return torch.einsum("bhqk,bhkd->bhqd", nn.Dropout(dropout)(weights), v), weights


@rewrite("explicit_attention")
def attention_one_query_at_a_time(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    outputs, rows = [], []
    for i in range(n_queries):
        end = n_keys - n_queries + i + 1
        scores = (k[..., :end, :] @ q[..., i, :, None]).squeeze(-1) / q.shape[-1] ** 0.5
        row = F.pad(scores.softmax(-1), (0, n_keys - end))
        rows.append(row)
        kept = (torch.rand_like(row) >= dropout).to(row.dtype) / (1 - dropout)
        outputs.append(((row * kept).unsqueeze(-2) @ v).squeeze(-2))
    return torch.stack(outputs, -2), torch.stack(rows, -2)


@rewrite("explicit_attention")
def attention_fused(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    mask = torch.arange(k.shape[-2], device=q.device)[None] <= torch.arange(
        k.shape[-2] - q.shape[-2], k.shape[-2], device=q.device
    ).unsqueeze(1)
    eye = torch.eye(k.shape[-2], dtype=q.dtype, device=q.device).expand(*k.shape[:-1], -1)
    weights = F.scaled_dot_product_attention(q, k, eye, attn_mask=mask)
    if dropout == 0:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), weights
    return F.dropout(weights, p=dropout, training=True) @ v, weights
