"""Answers to module 01's exercises from the scores to the counts, written afresh."""

import math

import torch
import torch.nn.functional as F
from my_transformer import attention

from tiny_transformer.course.wrong_answers import mutant, rewrite

# ------------------------------------------------------------------------------- scaled_scores


@mutant("scaled_scores", "divides the queries in place")
def scales_the_queries_in_place(q, k):
    q /= math.sqrt(q.shape[-1])
    return attention.dot_product_similarity(q, k)


@mutant("scaled_scores", "takes axis 1 for the width, which is right for two axes only")
def width_from_axis_one(q, k):
    return attention.dot_product_similarity(q, k) / math.sqrt(q.shape[1])


@mutant("scaled_scores", "rounds the root down, which is right for squares only")
def whole_root(q, k):
    return attention.dot_product_similarity(q, k) / math.isqrt(q.shape[-1])


@mutant("scaled_scores", "divides the queries and the keys, so by D in all")
def divides_both(q, k):
    root = math.sqrt(q.shape[-1])
    return attention.dot_product_similarity(q / root, k / root)


@mutant("scaled_scores", "divides by a float32 tensor, which makes float32 of half precision")
def root_in_a_tensor(q, k):
    root = torch.tensor([q.shape[-1]], dtype=torch.float32, device=q.device).sqrt()
    return attention.dot_product_similarity(q, k) / root


@rewrite("scaled_scores")
def scaled_by_einsum(q, k):
    return torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5


@rewrite("scaled_scores")
def half_to_each(q, k):
    share = q.shape[-1] ** -0.25
    return attention.dot_product_similarity(q * share, k * share)


# ------------------------------------------------------------------------------ masked_softmax


@mutant("masked_softmax", "sets hidden scores to 0, which still has a weight")
def hidden_scores_are_zero(scores, mask):
    return attention.softmax(scores * mask)


@mutant("masked_softmax", "divides what is left again: a large hidden score has erased it")
def renormalises_afterwards(scores, mask):
    weights = attention.softmax(scores) * mask
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-9)


@mutant("masked_softmax", "gives equal weights to a query that may look at nothing")
def equal_weights_for_nothing(scores, mask):
    return attention.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min))


@mutant("masked_softmax", "writes into the scores that it was given")
def fills_in_place(scores, mask):
    scores.masked_fill_(~mask, -torch.inf)
    return attention.softmax(scores).masked_fill(~mask, 0.0)


@mutant("masked_softmax", "indexes with the mask, which then must have the shape of the scores")
def indexes_with_the_mask(scores, mask):
    visible = scores.clone()
    visible[~mask] = -torch.inf
    weights = attention.softmax(visible).clone()
    weights[~mask] = 0.0
    return weights


@rewrite("masked_softmax")
def masked_by_hand(scores, mask):
    visible = torch.where(mask, scores, scores.new_full((), -torch.inf))
    largest = visible.amax(dim=-1, keepdim=True)
    largest = largest.masked_fill(largest == -torch.inf, 0.0)
    exponentials = (visible - largest).exp()
    total = exponentials.sum(dim=-1, keepdim=True)
    return exponentials / total.masked_fill(total == 0, 1.0)


@rewrite("masked_softmax")
def only_over_the_visible(scores, mask):
    rows = scores.reshape(-1, scores.shape[-1])
    seen = torch.broadcast_to(mask, scores.shape).reshape(rows.shape)
    weights = torch.zeros_like(rows)
    for i in range(len(rows)):
        if seen[i].any():
            weights[i, seen[i]] = attention.softmax(rows[i, seen[i]])
    return weights.reshape(scores.shape)


# ------------------------------------------------------------------------ three_tokens_by_hand


@mutant("three_tokens_by_hand", "lets token 1 see token 2")
def token_one_sees_ahead():
    weights = [[1, 0, 0], [3 / 8, 1 / 8, 4 / 8], [1 / 8, 2 / 8, 5 / 8]]
    return weights, [[8, 0], [7, 5], [6, 7]]


@mutant("three_tokens_by_hand", "leaves out the scale: the exponentials are squared")
def not_scaled():
    weights = [[1, 0, 0], [9 / 10, 1 / 10, 0], [1 / 30, 4 / 30, 25 / 30]]
    return weights, [[8, 0], [72 / 10, 8 / 10], [8 * 26 / 30, 8 * 29 / 30]]


@mutant("three_tokens_by_hand", "loses the minus sign of the last query")
def lost_sign():
    weights = [[1, 0, 0], [3 / 4, 1 / 4, 0], [4 / 11, 2 / 11, 5 / 11]]
    return weights, [[8, 0], [6, 2], [72 / 11, 56 / 11]]


@mutant("three_tokens_by_hand", "returns the outputs first")
def outputs_first():
    weights = [[1, 0, 0], [3 / 4, 1 / 4, 0], [1 / 8, 2 / 8, 5 / 8]]
    return [[8, 0], [6, 2], [6, 7]], weights


@mutant("three_tokens_by_hand", "forgets that the last value adds to the second column")
def last_value_only_once():
    weights = [[1, 0, 0], [3 / 4, 1 / 4, 0], [1 / 8, 2 / 8, 5 / 8]]
    return weights, [[8, 0], [6, 2], [6, 2]]


@rewrite("three_tokens_by_hand")
def in_decimals():
    weights = [[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.125, 0.25, 0.625]]
    outputs = [[8.0, 0.0], [6.0, 2.0], [6.0, 7.0]]
    return weights, outputs


@rewrite("three_tokens_by_hand")
def from_the_exponentials():
    values = [(8, 0), (0, 8), (8, 8)]
    weights, outputs = [], []
    for powers in ([1, 0, 0], [3, 1, 0], [1, 2, 5]):
        row = [power / sum(powers) for power in powers]
        weights.append(row)
        outputs.append([sum(row[j] * values[j][d] for j in range(3)) for d in range(2)])
    return weights, outputs


# -------------------------------------------------------------------------- explicit_attention


def _weights(q, k):
    mask = attention.causal_mask(q.shape[-2], k.shape[-2], q.device)
    return attention.masked_softmax(attention.scaled_scores(q, k), mask)


@mutant("explicit_attention", "takes the queries for the first positions instead of the last")
def mask_from_the_start(q, k, v, dropout=0.0):
    scores = attention.scaled_scores(q, k)
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    weights = attention.masked_softmax(scores, mask)
    return F.dropout(weights, dropout) @ v, weights


@mutant("explicit_attention", "drops numbers of the output instead of weights")
def drops_the_output(q, k, v, dropout=0.0):
    weights = _weights(q, k)
    return F.dropout(weights @ v, dropout), weights


@mutant("explicit_attention", "returns the weights as they are after dropout")
def returns_dropped_weights(q, k, v, dropout=0.0):
    weights = F.dropout(_weights(q, k), dropout)
    return weights @ v, weights


@mutant("explicit_attention", "makes the weights sum to one again after dropout")
def sums_to_one_after_dropout(q, k, v, dropout=0.0):
    weights = _weights(q, k)
    dropped = F.dropout(weights, dropout)
    dropped = dropped / dropped.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    return dropped @ v, weights


@mutant("explicit_attention", "returns weights in float32 whatever the inputs are")
def weights_stay_float32(q, k, v, dropout=0.0):
    weights = _weights(q.float(), k.float())
    return F.dropout(weights, dropout).to(v.dtype) @ v, weights


@rewrite("explicit_attention")
def attention_by_einsum(q, k, v, dropout=0.0):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
    rows, columns = scores.shape[-2:]
    later = torch.ones(rows, columns, dtype=torch.bool, device=q.device)
    weights = scores.masked_fill(later.triu(columns - rows + 1), -torch.inf).softmax(dim=-1)
    dropped = weights
    if dropout > 0:
        stays = torch.rand(weights.shape, device=q.device) >= dropout
        dropped = weights * stays / (1 - dropout)
    return torch.einsum("bhij,bhjd->bhid", dropped, v), weights


@rewrite("explicit_attention")
def attention_query_by_query(q, k, v, dropout=0.0):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    rows = []
    for i in range(n_queries):
        visible = n_keys - n_queries + i + 1
        scores = q[:, :, i : i + 1] @ k[:, :, :visible].transpose(-2, -1)
        row = torch.softmax(scores * q.shape[-1] ** -0.5, dim=-1)
        rows.append(F.pad(row, (0, n_keys - visible)))
    weights = torch.cat(rows, dim=-2)
    return torch.dropout(weights, dropout, True) @ v, weights


# --------------------------------------------------------------------------- attention_entropy


@mutant("attention_entropy", "makes NaN of a weight of 0")
def nan_for_zero_weights(weights):
    return -(weights * weights.log()).sum(dim=-1)


@mutant("attention_entropy", "counts in bits")
def in_bits(weights):
    return -torch.where(weights > 0, weights * weights.log2(), 0.0).sum(dim=-1)


@mutant("attention_entropy", "takes 1e-4 for each smaller weight: many zeros add up")
def floor_under_the_weights(weights):
    raised = weights.clamp(min=1e-4)
    return -(raised * raised.log()).sum(dim=-1)


@mutant("attention_entropy", "replaces NaN after the sum: a row with a zero has the entropy 0")
def replaces_nan_too_late(weights):
    return (-(weights * weights.log()).sum(dim=-1)).nan_to_num(0.0)


@mutant("attention_entropy", "divides by the entropy of equal weights")
def as_a_share_of_the_most(weights):
    return torch.special.entr(weights).sum(dim=-1) / math.log(weights.shape[-1])


@rewrite("attention_entropy")
def by_xlogy(weights):
    return torch.xlogy(weights, weights).sum(dim=-1).neg()


@rewrite("attention_entropy")
def logarithm_of_one_for_zero(weights):
    logarithms = weights.masked_fill(weights == 0, 1.0).log()
    return -torch.einsum("...j,...j->...", weights, logarithms)


# ----------------------------------------------------------------------------- attention_flops


@mutant("attention_flops", "forgets that a projection goes over the width twice")
def width_once(n_tokens, d_model):
    return 8 * n_tokens * d_model, 4 * n_tokens**2 * d_model


@mutant("attention_flops", "squares the width in the mixing too")
def width_squared_in_the_mixing(n_tokens, d_model):
    return 8 * n_tokens * d_model**2, 4 * n_tokens**2 * d_model**2


@mutant("attention_flops", "counts visible pairs only")
def visible_pairs_only(n_tokens, d_model):
    pairs = n_tokens * (n_tokens + 1) // 2
    return 8 * n_tokens * d_model**2, 4 * pairs * d_model


@mutant("attention_flops", "counts multiplications, and no additions")
def multiplications_only(n_tokens, d_model):
    return 4 * n_tokens * d_model**2, 2 * n_tokens**2 * d_model


@mutant("attention_flops", "forgets the projection back")
def three_projections(n_tokens, d_model):
    return 3 * 2 * n_tokens * d_model**2, 2 * 2 * n_tokens**2 * d_model


@rewrite("attention_flops")
def product_by_product(n_tokens, d_model):
    def of(a, b, c):
        return 2 * a * b * c

    projections = [of(n_tokens, d_model, d_model) for _ in ("query", "key", "value", "output")]
    scores = of(n_tokens, d_model, n_tokens)
    return sum(projections), scores + of(n_tokens, n_tokens, d_model)


@rewrite("attention_flops")
def taken_out_of_brackets(n_tokens, d_model):
    numbers = n_tokens * d_model
    return numbers * d_model << 3, numbers * n_tokens << 2


# ---------------------------------------------------------------------- attention_weight_bytes


@mutant("attention_weight_bytes", "ignores the bytes of a value")
def always_four_bytes(batch_size, n_heads, n_tokens, bytes_per_value=4):
    return batch_size * n_heads * n_tokens**2 * 4


@mutant("attention_weight_bytes", "leaves out the hidden weights")
def hidden_ones_are_free(batch_size, n_heads, n_tokens, bytes_per_value=4):
    return batch_size * n_heads * (n_tokens * (n_tokens + 1) // 2) * bytes_per_value


@mutant("attention_weight_bytes", "returns a float")
def a_float_of_bytes(batch_size, n_heads, n_tokens, bytes_per_value=4):
    bits = 8 * bytes_per_value
    return batch_size * n_heads * n_tokens**2 * bits / 8


@mutant("attention_weight_bytes", "forgets the heads")
def one_head(batch_size, n_heads, n_tokens, bytes_per_value=4):
    return batch_size * n_tokens**2 * bytes_per_value


@mutant("attention_weight_bytes", "squares the heads where it should square the tokens")
def pairs_of_heads(batch_size, n_heads, n_tokens, bytes_per_value=4):
    return batch_size * n_heads**2 * n_tokens * bytes_per_value


@rewrite("attention_weight_bytes")
def by_a_product(batch_size, n_heads, n_tokens, bytes_per_value=4):
    return math.prod((bytes_per_value, n_tokens, n_tokens, n_heads, batch_size))


@rewrite("attention_weight_bytes")
def by_a_tensor_without_memory(batch_size, n_heads, n_tokens, bytes_per_value=4):
    weights = torch.empty(batch_size, n_heads, n_tokens, n_tokens, device="meta")
    return weights.numel() * bytes_per_value
