"""Answers to module 01's exercises on products, softmax and the mask, written afresh."""

import math

import torch
import torch.nn.functional as F
from my_transformer import attention

from tiny_transformer.course.wrong_answers import mutant, rewrite

# ---------------------------------------------------------------------- dot_product_similarity


@mutant("dot_product_similarity", "divides by the lengths of the vectors")
def cosine(queries, keys):
    return F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-2, -1)


@mutant("dot_product_similarity", "has a row for each key and a column for each query")
def row_for_each_key(queries, keys):
    return keys @ queries.transpose(-2, -1)


@mutant("dot_product_similarity", "reads the keys in another shape instead of transposing them")
def reshapes_the_keys(queries, keys):
    return queries @ keys.reshape(*keys.shape[:-2], keys.shape[-1], keys.shape[-2])


@mutant("dot_product_similarity", "swaps the first two axes, which is right without a batch only")
def swaps_the_first_two_axes(queries, keys):
    return queries @ keys.transpose(0, 1)


@mutant("dot_product_similarity", "returns float32 whatever it was given")
def products_in_float32(queries, keys):
    return torch.einsum("...id,...jd->...ij", queries.float(), keys.float())


@rewrite("dot_product_similarity")
def products_by_einsum(queries, keys):
    return torch.einsum("...id,...jd->...ij", queries, keys)


@rewrite("dot_product_similarity")
def key_by_key(queries, keys):
    columns = [(queries @ key.unsqueeze(-1)).squeeze(-1) for key in keys.unbind(dim=-2)]
    return torch.stack(columns, dim=-1)


# ---------------------------------------------------------------------------- weighted_average


@mutant("weighted_average", "divides by the sum of the weights again")
def divides_again(weights, values):
    return (weights @ values) / weights.sum(dim=-1, keepdim=True)


@mutant("weighted_average", "sums over the queries, which works with as many queries as keys")
def sums_over_queries(weights, values):
    return weights.transpose(-2, -1) @ values


@mutant("weighted_average", "takes a mean over the keys where it should sum")
def mean_over_keys(weights, values):
    return (weights[..., None] * values[..., None, :, :]).mean(dim=-2)


@mutant("weighted_average", "works for two axes only")
def no_axes_in_front(weights, values):
    return torch.mm(weights, values)


@mutant("weighted_average", "returns float32 whatever it was given")
def average_in_float32(weights, values):
    return weights.float() @ values.float()


@rewrite("weighted_average")
def average_by_einsum(weights, values):
    return torch.einsum("...ij,...jd->...id", weights, values)


@rewrite("weighted_average")
def query_by_query(weights, values):
    rows = [(row.unsqueeze(-2) @ values).squeeze(-2) for row in weights.unbind(dim=-2)]
    return torch.stack(rows, dim=-2)


# -------------------------------------------------------------------------- softmax_by_formula


@mutant("softmax_by_formula", "divides by the sum of all exponentials, over every axis")
def all_sum_to_one(scores, dim=-1):
    return scores.exp() / scores.exp().sum()


@mutant("softmax_by_formula", "ignores `dim`")
def always_the_last_axis(scores, dim=-1):
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


@mutant("softmax_by_formula", "drops the axis of the sum, which then meets the wrong one")
def without_keepdim(scores, dim=-1):
    return scores.exp() / scores.exp().sum(dim=dim)


@mutant("softmax_by_formula", "divides by at least 1e-12, so that low scores do not sum to one")
def sum_of_at_least_epsilon(scores, dim=-1):
    return F.normalize(scores.exp(), p=1.0, dim=dim)


@mutant("softmax_by_formula", "returns float32 whatever it was given")
def formula_in_float32(scores, dim=-1):
    powers = math.e ** scores.float()
    return powers / powers.sum(dim=dim, keepdim=True)


@rewrite("softmax_by_formula")
def part_by_part(scores, dim=-1):
    exponentials = torch.exp(scores)
    total = exponentials.sum(dim=dim)
    return torch.stack([part / total for part in exponentials.unbind(dim)], dim=dim)


@rewrite("softmax_by_formula")
def normalised_by_the_one_norm(scores, dim=-1):
    return F.normalize(scores.exp(), p=1.0, dim=dim, eps=0.0)


# ------------------------------------------------------------------------------------- softmax


@mutant("softmax", "subtracts the largest score of all rows: a row far below becomes NaN")
def largest_of_everything(scores, dim=-1):
    exponentials = (scores - scores.max()).exp()
    return exponentials / exponentials.sum(dim=dim, keepdim=True)


@mutant("softmax", "cuts scores off at 80, so larger ones become equal")
def cuts_scores_off(scores, dim=-1):
    exponentials = scores.clamp(-80.0, 80.0).exp()
    return exponentials / exponentials.sum(dim=dim, keepdim=True)


@mutant("softmax", "goes to float64, which overflows as well, at 710")
def formula_in_float64(scores, dim=-1):
    exponentials = scores.double().exp()
    return (exponentials / exponentials.sum(dim=dim, keepdim=True)).to(scores.dtype)


@mutant("softmax", "puts -1e9 for -inf, which is more than a score of -2e9")
def minus_infinity_is_a_billion(scores, dim=-1):
    scores = scores.masked_fill(scores == -torch.inf, -1e9)
    exponentials = (scores - scores.amax(dim=dim, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=dim, keepdim=True)


@mutant("softmax", "subtracts the largest along the last axis, also when `dim` is another")
def largest_of_the_last_axis(scores, dim=-1):
    exponentials = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=dim, keepdim=True)


@rewrite("softmax")
def through_logarithms(scores, dim=-1):
    shifted = scores - scores.max(dim=dim, keepdim=True).values
    return (shifted - shifted.exp().sum(dim=dim, keepdim=True).log()).exp()


@rewrite("softmax")
def largest_so_far(scores, dim=-1):
    parts = scores.unbind(dim)
    largest = parts[0]
    for part in parts[1:]:
        largest = torch.maximum(largest, part)
    exponentials = [(part - largest).exp() for part in parts]
    total = torch.stack(exponentials).sum(dim=0)
    return torch.stack([part / total for part in exponentials], dim=dim)


# -------------------------------------------------------------------- softmax_with_temperature


@mutant("softmax_with_temperature", "multiplies by the temperature")
def multiplies_by_it(scores, temperature):
    return attention.softmax(scores * temperature)


@mutant("softmax_with_temperature", "takes powers of weights, of which small ones were 0 already")
def powers_of_weights(scores, temperature):
    powers = attention.softmax(scores) ** (1 / temperature)
    return powers / powers.sum(dim=-1, keepdim=True)


@mutant("softmax_with_temperature", "sums over the first axis, not the last")
def over_the_first_axis(scores, temperature):
    return attention.softmax(scores / temperature, 0)


@mutant("softmax_with_temperature", "takes 0.1 for every temperature below it")
def at_least_a_tenth(scores, temperature):
    return attention.softmax(scores / max(temperature, 0.1))


@mutant("softmax_with_temperature", "uses the bare formula, which overflows when it is cold")
def overflows_when_cold(scores, temperature):
    return attention.softmax_by_formula(scores / temperature)


@rewrite("softmax_with_temperature")
def shifts_then_divides(scores, temperature):
    distances = scores - scores.amax(dim=-1, keepdim=True)
    exponentials = (distances / temperature).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


@rewrite("softmax_with_temperature")
def row_by_row(scores, temperature):
    rows = scores.reshape(-1, scores.shape[-1])
    rows = torch.stack([attention.softmax(row / temperature) for row in rows])
    return rows.reshape(scores.shape)


# --------------------------------------------------------------------------------- causal_mask


@mutant("causal_mask", "hides the diagonal: a token does not see itself")
def hides_itself(n_queries, n_keys, device=None):
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(n_keys - n_queries - 1)


@mutant("causal_mask", "takes the queries for the first positions instead of the last")
def queries_come_first(n_queries, n_keys, device=None):
    return torch.ones(n_keys, n_keys, dtype=torch.bool, device=device).tril()[:n_queries]


@mutant("causal_mask", "returns ones and zeros instead of bool")
def ones_and_zeros(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, device=device).tril(n_keys - n_queries)


@mutant("causal_mask", "ignores the device")
def forgets_the_device(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)


@mutant("causal_mask", "says True where a query may not look")
def true_means_hidden(n_queries, n_keys, device=None):
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.triu(n_keys - n_queries + 1)


@rewrite("causal_mask")
def by_two_aranges(n_queries, n_keys, device=None):
    keys = torch.arange(n_keys, device=device)
    queries = torch.arange(n_keys - n_queries, n_keys, device=device)
    return keys <= queries[:, None]


@rewrite("causal_mask")
def last_rows_of_a_square(n_queries, n_keys, device=None):
    square = torch.full((n_keys, n_keys), True, device=device)
    for query in range(n_keys):
        square[query, query + 1 :] = False
    return square[n_keys - n_queries :]


# ------------------------------------------------------------------------ dot_product_variance


@mutant("dot_product_variance", "returns the standard deviation")
def standard_deviation(d_k, q_std=1.0, k_std=1.0):
    return math.sqrt(d_k) * q_std * k_std


@mutant("dot_product_variance", "takes standard deviations for variances: they want squaring")
def without_squares(d_k, q_std=1.0, k_std=1.0):
    return d_k * q_std * k_std


@mutant("dot_product_variance", "takes the mean of the two variances, not their product")
def mean_of_the_variances(d_k, q_std=1.0, k_std=1.0):
    return d_k * (q_std**2 + k_std**2) / 2


@mutant("dot_product_variance", "takes the key's deviation for that of the query")
def both_like_the_query(d_k, q_std=1.0, k_std=1.0):
    return float(d_k) * q_std**4


@mutant("dot_product_variance", "draws vectors and measures, which is near but not it")
def measured(d_k, q_std=1.0, k_std=1.0):
    q = torch.randn(10_000, d_k) * q_std
    k = torch.randn(10_000, d_k) * k_std
    return (q * k).sum(dim=-1).var().item()


@rewrite("dot_product_variance")
def sum_of_the_products_variances(d_k, q_std=1.0, k_std=1.0):
    return math.fsum((q_std * k_std) ** 2 for _ in range(d_k))


@rewrite("dot_product_variance")
def square_of_the_deviation(d_k, q_std=1.0, k_std=1.0):
    return float(d_k) * math.prod((q_std, q_std, k_std, k_std))
