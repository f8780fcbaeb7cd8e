"""Answers to module 01's exercises on order, gradients and the part, written afresh."""

import math

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import nn

from tiny_transformer.course.wrong_answers import mutant, rewrite

# ----------------------------------------------------------------- is_permutation_equivariant


def _near(one, other):
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@mutant("is_permutation_equivariant", "reorders the first axis, which in a batch is the texts")
def reorders_the_first_axis(attend, x, order):
    return _near(attend(x[order]), attend(x)[order])


@mutant("is_permutation_equivariant", "allows no difference at all")
def to_the_last_bit(attend, x, order):
    return torch.equal(attend(x[..., order, :]), attend(x)[..., order, :])


@mutant("is_permutation_equivariant", "undoes the order by applying it twice: not every order does")
def order_twice(attend, x, order):
    return _near(attend(x[..., order, :])[..., order, :], attend(x))


@mutant("is_permutation_equivariant", "reorders the tokens that it was given")
def leaves_them_reordered(attend, x, order):
    expected = attend(x)[..., order, :]
    x[...] = x[..., order, :]
    return _near(attend(x), expected)


@mutant("is_permutation_equivariant", "compares sums over the tokens, which no order changes")
def compares_the_sums(attend, x, order):
    one, other = attend(x[..., order, :]), attend(x)[..., order, :]
    return _near(one.sum(dim=-2), other.sum(dim=-2))


@rewrite("is_permutation_equivariant")
def with_the_inverse(attend, x, order):
    back = torch.argsort(order)
    there_and_back = attend(x.index_select(-2, order)).index_select(-2, back)
    return bool(((there_and_back - attend(x)).abs() <= 1e-4).all())


@rewrite("is_permutation_equivariant")
def with_a_matrix(attend, x, order):
    permutation = F.one_hot(order, len(order)).to(x.dtype)
    difference = attend(permutation @ x) - permutation @ attend(x)
    return difference.abs().max().item() <= 1e-4


# ---------------------------------------------------------------------------- softmax_backward


@mutant("softmax_backward", "drops the axis of the sum: right for one row, mixed up for more")
def sum_without_keepdim(weights, grad_weights):
    return weights * (grad_weights - (weights * grad_weights).sum(dim=-1))


@mutant("softmax_backward", "subtracts one sum over all rows")
def one_sum_for_all(weights, grad_weights):
    return weights * (grad_weights - (weights * grad_weights).sum())


@mutant("softmax_backward", "takes the diagonal of the Jacobian only")
def diagonal_only(weights, grad_weights):
    return weights * (1 - weights) * grad_weights


@mutant("softmax_backward", "changes the gradient that it was given")
def subtracts_in_place(weights, grad_weights):
    grad_weights -= (weights * grad_weights).sum(dim=-1, keepdim=True)
    return weights * grad_weights


@mutant("softmax_backward", "subtracts the plain mean of the row, not that with the weights")
def plain_mean(weights, grad_weights):
    return weights * (grad_weights - grad_weights.mean(dim=-1, keepdim=True))


@rewrite("softmax_backward")
def builds_the_jacobian(weights, grad_weights):
    outer = weights.unsqueeze(-1) * weights.unsqueeze(-2)
    jacobian = torch.diag_embed(weights) - outer
    return (jacobian @ grad_weights.unsqueeze(-1)).squeeze(-1)


@rewrite("softmax_backward")
def with_differences(weights, grad_weights):
    # grad_k = w_k sum_j w_j (g_k - g_j), for the weights of a row sum to one
    differences = grad_weights.unsqueeze(-1) - grad_weights.unsqueeze(-2)
    return weights * torch.einsum("...kj,...j->...k", differences, weights)


# -------------------------------------------------------------------------- attention_backward


def _grad_scores(weights, v, grad_output):
    return attention.softmax_backward(weights, grad_output @ v.transpose(-2, -1))


@mutant("attention_backward", "forgets the scale in the gradient of the queries")
def scales_the_keys_only(q, k, v, grad_output):
    _, weights = attention.explicit_attention(q, k, v)
    grad_scores = _grad_scores(weights, v, grad_output)
    grad_k = grad_scores.transpose(-2, -1) @ (q / math.sqrt(q.shape[-1]))
    return grad_scores @ k, grad_k, weights.transpose(-2, -1) @ grad_output


@mutant("attention_backward", "takes the queries for the first positions instead of the last")
def mask_without_the_past(q, k, v, grad_output):
    scores = attention.scaled_scores(q, k)
    mask = torch.ones_like(scores, dtype=torch.bool).tril()
    weights = attention.masked_softmax(scores, mask)
    grad_scores = _grad_scores(weights, v, grad_output) / math.sqrt(q.shape[-1])
    grad_v = weights.transpose(-2, -1) @ grad_output
    return grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v


@mutant("attention_backward", "takes each weight to depend on its own score only")
def jacobian_is_diagonal(q, k, v, grad_output):
    _, weights = attention.explicit_attention(q, k, v)
    grad_weights = grad_output @ v.transpose(-2, -1)
    grad_scores = weights * (1 - weights) * grad_weights / math.sqrt(q.shape[-1])
    grad_v = weights.transpose(-2, -1) @ grad_output
    return grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v


@mutant("attention_backward", "calls autograd")
def calls_autograd(q, k, v, grad_output):
    inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    output, _ = attention.explicit_attention(*inputs)
    return torch.autograd.grad(output, inputs, grad_output)


@mutant("attention_backward", "returns float32 whatever it was given")
def gradients_in_float32(q, k, v, grad_output):
    q, k, v, grad_output = q.float(), k.float(), v.float(), grad_output.float()
    _, weights = attention.explicit_attention(q, k, v)
    grad_scores = _grad_scores(weights, v, grad_output) / math.sqrt(q.shape[-1])
    grad_v = weights.transpose(-2, -1) @ grad_output
    return grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v


@rewrite("attention_backward")
def gradients_by_einsum(q, k, v, grad_output):
    output, weights = attention.explicit_attention(q, k, v)
    grad_weights = torch.einsum("bhid,bhjd->bhij", grad_output, v)
    row_sums = (grad_output * output).sum(dim=-1, keepdim=True)  # those of weights * grad_weights
    grad_scores = weights * (grad_weights - row_sums) * q.shape[-1] ** -0.5
    return (
        torch.einsum("bhij,bhjd->bhid", grad_scores, k),
        torch.einsum("bhij,bhid->bhjd", grad_scores, q),
        torch.einsum("bhij,bhid->bhjd", weights, grad_output),
    )


@rewrite("attention_backward")
def gradients_query_by_query(q, k, v, grad_output):
    grads = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    scale = 1 / math.sqrt(q.shape[-1])
    for i in range(q.shape[-2]):
        n = k.shape[-2] - q.shape[-2] + i + 1  # keys that this query sees
        query, grad = q[:, :, i : i + 1], grad_output[:, :, i : i + 1]  # (B, H, 1, D)
        keys, values = k[:, :, :n], v[:, :, :n]
        weights = torch.softmax(query @ keys.transpose(-2, -1) * scale, dim=-1)
        grad_weights = grad @ values.transpose(-2, -1)
        mean = (weights * grad_weights).sum(dim=-1, keepdim=True)
        grad_scores = weights * (grad_weights - mean) * scale
        grads[0][:, :, i : i + 1] = grad_scores @ keys
        grads[1][:, :, :n] += grad_scores.transpose(-2, -1) * query
        grads[2][:, :, :n] += weights.transpose(-2, -1) * grad
    return grads


# ------------------------------------------------------------------------- SingleHeadAttention


class _Projections(nn.Module):
    def __init__(self, config):
        super().__init__()
        C = config.d_model
        self.q_proj = nn.Linear(C, C, bias=config.bias)
        self.k_proj = nn.Linear(C, C, bias=config.bias)
        self.v_proj = nn.Linear(C, C, bias=config.bias)
        self.o_proj = nn.Linear(C, C, bias=config.bias)
        self.probability = config.dropout

    def _drop(self, x):
        return F.dropout(x, self.probability, self.training)


def _scores(q, k):
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


def _past_only(scores):
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1)


@mutant("SingleHeadAttention", "drops weights in evaluation too")
class DropsInEvaluation(_Projections):
    def forward(self, x):
        weights = _past_only(_scores(self.q_proj(x), self.k_proj(x)))
        return self.o_proj(F.dropout(weights, self.probability) @ self.v_proj(x))


@mutant("SingleHeadAttention", "splits the width into the config's heads")
class SplitsIntoHeads(_Projections):
    def __init__(self, config):
        super().__init__(config)
        self.n_heads = config.n_heads

    def forward(self, x):
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            projection(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for projection in projections
        )
        y = self._drop(_past_only(_scores(q, k))) @ v
        return self.o_proj(y.transpose(1, 2).flatten(-2))


@mutant("SingleHeadAttention", "has no bias in the projection back")
class OutputWithoutBias(_Projections):
    def __init__(self, config):
        super().__init__(config)
        self.o_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x):
        weights = _past_only(_scores(self.q_proj(x), self.k_proj(x)))
        return self.o_proj(self._drop(weights) @ self.v_proj(x))


@mutant("SingleHeadAttention", "keeps the mask among what is saved")
class MaskIsSaved(_Projections):
    def __init__(self, config):
        super().__init__(config)
        T = config.context_length
        self.register_buffer("mask", torch.ones(T, T, dtype=torch.bool).tril())

    def forward(self, x):
        T = x.shape[1]
        scores = _scores(self.q_proj(x), self.k_proj(x))
        weights = scores.masked_fill(~self.mask[:T, :T], -torch.inf).softmax(dim=-1)
        return self.o_proj(self._drop(weights) @ self.v_proj(x))


@mutant("SingleHeadAttention", "lets keys ask and queries answer")
class KeysAsk(_Projections):
    def forward(self, x):
        weights = _past_only(_scores(self.k_proj(x), self.q_proj(x)))
        return self.o_proj(self._drop(weights) @ self.v_proj(x))


@mutant("SingleHeadAttention", "drops numbers of the output instead of weights")
class DropsTheOutput(_Projections):
    def forward(self, x):
        weights = _past_only(_scores(self.q_proj(x), self.k_proj(x)))
        return self._drop(self.o_proj(weights @ self.v_proj(x)))


@mutant("SingleHeadAttention", "adds a float32 mask, and so stops at half precision")
class AddsFloat32Mask(_Projections):
    def forward(self, x):
        T = x.shape[1]
        mask = torch.full((T, T), -torch.inf, dtype=torch.float32, device=x.device).triu(1)
        weights = (_scores(self.q_proj(x), self.k_proj(x)) + mask).softmax(dim=-1)
        return self.o_proj(self._drop(weights) @ self.v_proj(x))


@mutant("SingleHeadAttention", "scales by the length of the text instead of the width")
class ScalesByLength(_Projections):
    def forward(self, x):
        scores = self.q_proj(x) @ self.k_proj(x).transpose(-2, -1) / math.sqrt(x.shape[1])
        return self.o_proj(self._drop(_past_only(scores)) @ self.v_proj(x))


@rewrite("SingleHeadAttention")
class Fused(_Projections):
    def forward(self, x):
        q, k, v = (project(x).unsqueeze(1) for project in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.probability if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.o_proj(y.squeeze(1))


@rewrite("SingleHeadAttention")
class WithADropoutModule(nn.Module):
    def __init__(self, config):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(config.d_model, config.d_model, bias=config.bias))
        self.drop = nn.Dropout(config.dropout)
        T = config.context_length
        mask = torch.ones(T, T, dtype=torch.bool).tril()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x):
        T = x.shape[1]
        scores = torch.einsum("btc,bsc->bts", self.q_proj(x), self.k_proj(x)) * x.shape[2] ** -0.5
        weights = torch.where(self.mask[:T, :T], scores, scores.new_full((), -torch.inf))
        y = torch.einsum("bts,bsc->btc", self.drop(weights.softmax(dim=-1)), self.v_proj(x))
        return self.o_proj(y)


@rewrite("SingleHeadAttention")
class TokenByToken(_Projections):
    def forward(self, x):
        projections = (self.q_proj, self.k_proj, self.v_proj)
        weight = torch.cat([projection.weight for projection in projections])
        biases = [projection.bias for projection in projections if projection.bias is not None]
        bias = torch.cat(biases) if biases else None
        q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
        rows = []
        for t in range(x.shape[1]):
            past = k[:, : t + 1], v[:, : t + 1]
            scores = (past[0] @ q[:, t, :, None]).squeeze(-1) / math.sqrt(x.shape[-1])  # (B, t + 1)
            weights = self._drop(scores.softmax(dim=-1))
            rows.append((weights[:, None, :] @ past[1]).squeeze(1))
        return self.o_proj(torch.stack(rows, dim=1))
