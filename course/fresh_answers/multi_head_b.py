"""Answers to module 02's exercises on what heads do, and its whole part, written afresh."""

import math

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import nn

from tiny_transformer.course.wrong_answers import mutant, rewrite

# ----------------------------------------------------------------------------- head_divergence


def _entropy(weights):
    return torch.special.entr(weights).sum(dim=-1)


def _of_two(p, q):
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


@mutant("head_divergence", "fills in the pairs with the first head before the second only")
def upper_half_only(weights):
    H = weights.shape[1]
    divergence = weights.new_zeros(H, H)
    for g in range(H):
        for h in range(g + 1, H):
            divergence[g, h] = _of_two(weights[:, g], weights[:, h]).mean()
    return divergence


@mutant("head_divergence", "averages the weights over queries first, and compares the averages")
def averages_the_weights_first(weights):
    mean = weights.mean(dim=(0, 2))  # (H, Tk)
    return _of_two(mean[:, None], mean[None, :])


@mutant("head_divergence", "adds the sequences of a batch up instead of averaging")
def sums_over_the_batch(weights):
    return _of_two(weights.unsqueeze(2), weights.unsqueeze(1)).mean(dim=-1).sum(dim=0)


@mutant("head_divergence", "takes the logarithm of weights of 0, and gets NaN")
def logarithm_of_zero(weights):
    p, q = weights.unsqueeze(2), weights.unsqueeze(1)
    middle = (p + q) / 2
    both = p * (p / middle).log() + q * (q / middle).log()
    return both.sum(dim=-1).mean(dim=(0, -1)) / 2


@mutant("head_divergence", "returns the root: the distance, not the divergence")
def root_of_it(weights):
    divergence = _of_two(weights.unsqueeze(2), weights.unsqueeze(1)).clamp(min=0)
    return divergence.sqrt().mean(dim=(0, -1))


@mutant("head_divergence", "writes into float32 whatever the weights are")
def table_in_float32(weights):
    H = weights.shape[1]
    divergence = torch.zeros(H, H, device=weights.device)
    for g in range(H):
        for h in range(H):
            divergence[g, h] = _of_two(weights[:, g], weights[:, h]).mean()
    return divergence


@rewrite("head_divergence")
def distances_to_the_middle(weights):
    p, q = weights[:, :, None], weights[:, None]
    middle = (p + q) / 2
    to_p = (torch.xlogy(p, p) - torch.xlogy(p, middle)).sum(dim=-1)
    to_q = (torch.xlogy(q, q) - torch.xlogy(q, middle)).sum(dim=-1)
    return ((to_p + to_q) / 2).flatten(3).mean(dim=(0, 3))


@rewrite("head_divergence")
def pair_by_pair(weights):
    heads = weights.unbind(dim=1)
    rows = []
    for p in heads:
        row = []
        for q in heads:
            entropy = attention.attention_entropy
            row.append(entropy((p + q) / 2).mean() - (entropy(p).mean() + entropy(q).mean()) / 2)
        rows.append(torch.stack(row))
    return torch.stack(rows)


# -------------------------------------------------------------------------- head_contributions


@mutant("head_contributions", "reads the weight's memory as (H, D, C): right for one number out")
def reads_the_weight_anew(heads, o_weight):
    return heads @ o_weight.reshape(heads.shape[1], heads.shape[3], o_weight.shape[0])


@mutant("head_contributions", "takes every H-th column for a head: right for heads of one number")
def every_nth_column(heads, o_weight):
    H = heads.shape[1]
    terms = [heads[:, h] @ o_weight[:, h::H].T for h in range(H)]
    return torch.stack(terms, dim=1)


@mutant("head_contributions", "puts the tokens before the heads")
def tokens_before_heads(heads, o_weight):
    blocks = o_weight.unflatten(1, (heads.shape[1], heads.shape[3]))
    return torch.einsum("bhtd,chd->bthc", heads, blocks)


@mutant("head_contributions", "makes room for H * D numbers, though C may be another")
def room_for_as_many_as_come_in(heads, o_weight):
    B, H, T, D = heads.shape
    contributions = heads.new_zeros(B, H, T, H * D)
    for h in range(H):
        contributions[:, h] = heads[:, h] @ o_weight[:, h * D : (h + 1) * D].T
    return contributions


@mutant("head_contributions", "silences the heads that it was given, one after the other")
def silences_for_good(heads, o_weight):
    terms = []
    before = attention.merge_heads(heads) @ o_weight.T
    for h in range(heads.shape[1]):
        heads[:, h] = 0
        after = attention.merge_heads(heads) @ o_weight.T
        terms.append(before - after)
        before = after
    return torch.stack(terms, dim=1)


@rewrite("head_contributions")
def alone_with_zeros(heads, o_weight):
    terms = []
    for h in range(heads.shape[1]):
        alone = torch.zeros_like(heads)
        alone[:, h] = heads[:, h]
        terms.append(F.linear(alone.transpose(1, 2).flatten(-2), o_weight))
    return torch.stack(terms, dim=1)


@rewrite("head_contributions")
def columns_of_each_head(heads, o_weight):
    columns = torch.stack(o_weight.split(heads.shape[-1], dim=1))  # (H, C, D)
    return torch.einsum("bhtd,hcd->bhtc", heads, columns)


# ----------------------------------------------------------------------------- head_importance


@mutant("head_importance", "takes the slope at open gates for the whole way down to closed ones")
def by_the_gradient(loss_of, n_heads):
    gates = torch.ones(n_heads, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss_of(gates), gates)
    return -gradient


@mutant("head_importance", "opens and closes the gates of one tensor, which the loss may have kept")
def one_tensor_of_gates(loss_of, n_heads):
    gates = torch.ones(n_heads)
    whole = loss_of(gates)
    rises = []
    for h in range(n_heads):
        gates[h] = 0
        rises.append(loss_of(gates) - whole)
        gates[h] = 1
    return torch.stack(rises)


@mutant("head_importance", "does not open a gate again before it closes the next")
def closes_one_after_the_other(loss_of, n_heads):
    whole = loss_of(torch.ones(n_heads))
    rises = []
    for h in range(n_heads):
        gates = torch.ones(n_heads)
        gates[: h + 1] = 0
        rises.append(loss_of(gates) - whole)
        whole = loss_of(gates)
    return torch.stack(rises)


@mutant("head_importance", "goes through Python's floats, and returns float32 whatever came")
def through_floats(loss_of, n_heads):
    whole = loss_of(torch.ones(n_heads)).item()
    return torch.tensor([loss_of(row).item() - whole for row in 1 - torch.eye(n_heads)])


@mutant("head_importance", "gives gates of True and False")
def gates_of_bool(loss_of, n_heads):
    whole = loss_of(torch.ones(n_heads, dtype=torch.bool))
    closed = ~torch.eye(n_heads, dtype=torch.bool)
    return torch.stack([loss_of(gates) - whole for gates in closed])


@mutant("head_importance", "compares with all heads silent: what each does alone")
def each_head_alone(loss_of, n_heads):
    silent = loss_of(torch.zeros(n_heads))
    return torch.stack([silent - loss_of(gates) for gates in torch.eye(n_heads)])


@rewrite("head_importance")
def all_losses_then_differences(loss_of, n_heads):
    losses = [loss_of(torch.ones(n_heads))]
    for h in range(n_heads):
        losses.append(loss_of((torch.arange(n_heads) != h).float()))
    losses = torch.stack(losses)
    return losses[1:] - losses[0]


@rewrite("head_importance")
def from_lists_of_gates(loss_of, n_heads):
    closed = []
    for h in reversed(range(n_heads)):
        closed.append(loss_of(torch.tensor([1.0] * h + [0.0] + [1.0] * (n_heads - h - 1))))
    return torch.stack(closed[::-1]).sub(loss_of(torch.tensor([1.0] * n_heads)))


# -------------------------------------------------------------------------- MultiHeadAttention


class _Heads(nn.Module):
    capabilities = frozenset({"grouped_heads"})

    def __init__(self, config):
        super().__init__()
        C = config.d_model
        kv_width = config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(C, C, bias=config.bias)
        self.k_proj = nn.Linear(C, kv_width, bias=config.bias)
        self.v_proj = nn.Linear(C, kv_width, bias=config.bias)
        self.o_proj = nn.Linear(C, C, bias=config.bias)
        self.n_heads, self.kv_heads = config.n_heads, config.kv_heads
        self.head_dim = config.head_dim
        self.probability = config.dropout

    def _split(self, x):
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _queries_keys_values(self, x):
        q, k, v = (self._split(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        group = self.n_heads // self.kv_heads
        return q, k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)

    def _drop(self, weights):
        return F.dropout(weights, self.probability, self.training)

    def _merge(self, heads):
        return self.o_proj(heads.transpose(1, 2).flatten(-2))


def _past_only(scores):
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1)


def _scores(q, k):
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


@mutant("MultiHeadAttention", "scales by the width of the model instead of that of a head")
class ScalesByTheModel(_Heads):
    def forward(self, x, cache=None):
        q, k, v = self._queries_keys_values(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(x.shape[-1])
        return self._merge(self._drop(_past_only(scores)) @ v)


@mutant("MultiHeadAttention", "gives query heads the key heads in turn, not to neighbours one")
class KeyHeadsInTurn(_Heads):
    def forward(self, x, cache=None):
        q, k, v = (self._split(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        group = self.n_heads // self.kv_heads
        k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)
        return self._merge(self._drop(_past_only(_scores(q, k))) @ v)


@mutant("MultiHeadAttention", "says that it knows a cache, and ignores it")
class PromisesACache(_Heads):
    capabilities = frozenset({"grouped_heads", "kv_cache"})

    def forward(self, x, cache=None):
        q, k, v = self._queries_keys_values(x)
        return self._merge(self._drop(_past_only(_scores(q, k))) @ v)


@mutant("MultiHeadAttention", "drops scores before the softmax, where 0 is a score like another")
class DropsScores(_Heads):
    def forward(self, x, cache=None):
        q, k, v = self._queries_keys_values(x)
        return self._merge(_past_only(self._drop(_scores(q, k))) @ v)


@mutant("MultiHeadAttention", "gives head h every H-th channel, and merges to fit")
class EveryNthChannel(_Heads):
    def forward(self, x, cache=None):
        q = self.q_proj(x).unflatten(-1, (-1, self.n_heads)).permute(0, 3, 1, 2)
        k = self.k_proj(x).unflatten(-1, (-1, self.kv_heads)).permute(0, 3, 1, 2)
        v = self.v_proj(x).unflatten(-1, (-1, self.kv_heads)).permute(0, 3, 1, 2)
        group = self.n_heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        heads = self._drop(_past_only(_scores(q, k))) @ v
        return self.o_proj(heads.permute(0, 2, 3, 1).flatten(-2))


@mutant("MultiHeadAttention", "keeps the mask of the first text, which a longer one does not fit")
class MaskOfTheFirstText(_Heads):
    def __init__(self, config):
        super().__init__(config)
        self.mask = None

    def forward(self, x, cache=None):
        T = x.shape[1]
        if self.mask is None:
            self.mask = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        q, k, v = self._queries_keys_values(x)
        scores = _scores(q, k).masked_fill(~self.mask[:T, :T], -torch.inf)
        return self._merge(self._drop(scores.softmax(dim=-1)) @ v)


@mutant("MultiHeadAttention", "has biases in the projections into heads, whatever the config says")
class AlwaysBiases(_Heads):
    def __init__(self, config):
        super().__init__(config)
        kv_width = config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, kv_width)
        self.v_proj = nn.Linear(config.d_model, kv_width)

    def forward(self, x, cache=None):
        q, k, v = self._queries_keys_values(x)
        return self._merge(self._drop(_past_only(_scores(q, k))) @ v)


@mutant("MultiHeadAttention", "makes keys and values for every query head, however few are asked")
class KeysForEveryHead(_Heads):
    def __init__(self, config):
        super().__init__(config)
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        self.v_proj = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, x, cache=None):
        q, k, v = (self._split(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self._merge(self._drop(_past_only(_scores(q, k))) @ v)


@rewrite("MultiHeadAttention")
class FusedInGroups(_Heads):
    def forward(self, x, cache=None):
        q, k, v = (self._split(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.probability if self.training else 0.0
        heads = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=self.kv_heads != self.n_heads
        )
        return self._merge(heads)


@rewrite("MultiHeadAttention")
class GroupsOnAnAxis(_Heads):
    def forward(self, x, cache=None):
        # G key-value heads, R query heads for each: nothing is repeated.
        q = self.q_proj(x).unflatten(-1, (self.kv_heads, -1, self.head_dim))  # (B, T, G, R, D)
        k = self.k_proj(x).unflatten(-1, (self.kv_heads, self.head_dim))  # (B, T, G, D)
        v = self.v_proj(x).unflatten(-1, (self.kv_heads, self.head_dim))
        scores = torch.einsum("btgrd,bsgd->bgrts", q, k) * self.head_dim**-0.5
        weights = self._drop(_past_only(scores))
        return self.o_proj(torch.einsum("bgrts,bsgd->btgrd", weights, v).flatten(2))


@rewrite("MultiHeadAttention")
class HeadByHead(nn.Module):
    capabilities = frozenset({"grouped_heads"})

    def __init__(self, config):
        super().__init__()
        kv_width = config.kv_heads * config.head_dim
        widths = {"q_proj": config.d_model, "k_proj": kv_width, "v_proj": kv_width}
        for name, width in widths.items():
            self.add_module(name, nn.Linear(config.d_model, width, bias=config.bias))
        self.o_proj = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.head_dim, self.group = config.head_dim, config.n_heads // config.kv_heads

    def forward(self, x, cache=None):
        queries = self.q_proj(x).split(self.head_dim, dim=-1)
        keys = self.k_proj(x).split(self.head_dim, dim=-1)
        values = self.v_proj(x).split(self.head_dim, dim=-1)
        found = []
        for h, q in enumerate(queries):
            k, v = keys[h // self.group], values[h // self.group]
            weights = self.attention_dropout(_past_only(_scores(q, k)))  # (B, T, T)
            found.append(weights @ v)
        return self.o_proj(torch.cat(found, dim=-1))
