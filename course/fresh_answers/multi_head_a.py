"""Answers to module 02's exercises on heads, their sizes and the fused form, written afresh."""

import math

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import nn

from tiny_transformer.course.wrong_answers import mutant, rewrite

# --------------------------------------------------------------------------------- split_heads


@mutant("split_heads", "reads the memory in the new shape, without exchanging two axes")
def reads_the_memory_anew(x, n_heads):
    B, T, C = x.shape
    return x.reshape(B, n_heads, T, C // n_heads)


@mutant("split_heads", "gives head h every H-th channel instead of D channels in a row")
def every_nth_channel(x, n_heads):
    return x.unflatten(-1, (-1, n_heads)).permute(0, 3, 1, 2)


@mutant("split_heads", "cuts into pieces of H channels, which is right where H is D")
def pieces_of_h_channels(x, n_heads):
    return torch.stack(x.split(n_heads, dim=-1), dim=1)


@mutant("split_heads", "lays the heads end to end and mixes them up with the sequences of a batch")
def batch_inside_the_heads(x, n_heads):
    B, T, C = x.shape
    return torch.cat(x.chunk(n_heads, dim=-1), dim=0).reshape(B, n_heads, T, C // n_heads)


@mutant("split_heads", "rebuilds the tensor from lists, which forget its dtype")
def rebuilt_from_lists(x, n_heads):
    D = x.shape[-1] // n_heads
    return torch.tensor(
        [
            [[row[h * D : (h + 1) * D] for row in text] for h in range(n_heads)]
            for text in x.tolist()
        ],
        device=x.device,
    )


@rewrite("split_heads")
def stacked_chunks(x, n_heads):
    return torch.stack(x.chunk(n_heads, dim=-1), dim=1)


@rewrite("split_heads")
def channel_by_channel(x, n_heads):
    B, T, C = x.shape
    D = C // n_heads
    heads = x.new_zeros(B, n_heads, T, D)
    for h in range(n_heads):
        for d in range(D):
            heads[:, h, :, d] = x[:, :, h * D + d]
    return heads


# --------------------------------------------------------------------------------- merge_heads


@mutant("merge_heads", "reads the memory in the new shape, without exchanging two axes")
def without_the_transpose(heads):
    B, H, T, D = heads.shape
    return heads.reshape(B, T, H * D)


@mutant("merge_heads", "puts the first numbers of all heads first, then the second ones")
def first_numbers_first(heads):
    return heads.permute(0, 2, 3, 1).flatten(-2)


@mutant("merge_heads", "takes a view, which fits only heads that a transpose has made")
def view_of_the_memory(heads):
    B, H, T, D = heads.shape
    return heads.transpose(1, 2).view(B, T, H * D)


@mutant("merge_heads", "transposes the heads that it was given")
def transposes_in_place(heads):
    return heads.transpose_(1, 2).flatten(-2)


@mutant("merge_heads", "writes into zeros, which are float32 whatever the heads are")
def into_float32_zeros(heads):
    B, H, T, D = heads.shape
    y = torch.zeros(B, T, H * D, device=heads.device)
    for h in range(H):
        y[..., h * D : (h + 1) * D] = heads[:, h]
    return y


@rewrite("merge_heads")
def head_after_head(heads):
    return torch.cat(heads.unbind(dim=1), dim=-1)


@rewrite("merge_heads")
def by_index(heads):
    H, D = heads.shape[1], heads.shape[3]
    channels = torch.arange(H * D, device=heads.device)
    # Indices on both sides of a slice put their axis first: (C, B, T).
    return heads[:, channels // D, :, channels % D].permute(1, 2, 0)


# --------------------------------------------------------------------------- join_head_weights


@mutant("join_head_weights", "puts the matrices side by side instead of one above the other")
def side_by_side(head_weights):
    return torch.cat(list(head_weights), dim=1)


@mutant("join_head_weights", "takes the first row of each head, then the second: right for D = 1")
def heads_take_turns(head_weights):
    return torch.stack(list(head_weights), dim=1).flatten(0, 1)


@mutant("join_head_weights", "gives each head channels of its own to read")
def along_the_diagonal(head_weights):
    return torch.block_diag(*head_weights)


@mutant("join_head_weights", "leaves the heads on an axis of their own")
def heads_on_an_axis(head_weights):
    return torch.stack(list(head_weights))


@mutant("join_head_weights", "rebuilds the rows from lists, which forget dtype and gradient")
def rows_from_lists(head_weights):
    rows = [row for weight in head_weights for row in weight.tolist()]
    return torch.tensor(rows, device=head_weights[0].device)


@rewrite("join_head_weights")
def stacked_and_flattened(head_weights):
    D, C = head_weights[0].shape
    return torch.stack(tuple(head_weights)).reshape(len(head_weights) * D, C)


@rewrite("join_head_weights")
def row_of_each_number(head_weights):
    return torch.stack([row for weight in head_weights for row in weight.unbind(0)])


# ----------------------------------------------------------------------------- repeat_kv_heads


@mutant("repeat_kv_heads", "repeats all heads in turn, so that neighbours share none")
def heads_in_turn(kv, n_heads):
    return kv.repeat(1, n_heads // kv.shape[1], 1, 1)


@mutant("repeat_kv_heads", "divides by the key heads, not by the group: right where they agree")
def divides_by_the_key_heads(kv, n_heads):
    return kv[:, torch.arange(n_heads, device=kv.device) // kv.shape[1]]


@mutant("repeat_kv_heads", "repeats each token instead of each head, which shows from two tokens")
def repeats_the_tokens(kv, n_heads):
    B, H_kv, T, D = kv.shape
    return kv.repeat_interleave(n_heads // H_kv, dim=2).reshape(B, n_heads, T, D)


@mutant("repeat_kv_heads", "repeats each head H times, whatever there was")
def as_often_as_query_heads(kv, n_heads):
    return kv.repeat_interleave(n_heads, dim=1)


@mutant("repeat_kv_heads", "writes into zeros, which are float32 whatever the keys are")
def into_new_float32_zeros(kv, n_heads):
    B, H_kv, T, D = kv.shape
    repeated = torch.zeros(B, n_heads, T, D, device=kv.device)
    for h in range(n_heads):
        repeated[:, h] = kv[:, h // (n_heads // H_kv)]
    return repeated


@rewrite("repeat_kv_heads")
def expanded(kv, n_heads):
    B, H_kv, T, D = kv.shape
    groups = kv[:, :, None].expand(B, H_kv, n_heads // H_kv, T, D)
    return groups.reshape(B, n_heads, T, D)


@rewrite("repeat_kv_heads")
def head_by_head(kv, n_heads):
    group = n_heads // kv.shape[1]
    return torch.stack([kv[:, h // group] for h in range(n_heads)], dim=1)


# ----------------------------------------------------------------------- multi_head_parameters


@mutant("multi_head_parameters", "ignores the number of key-value heads")
def ignores_key_value_heads(d_model, n_heads, n_kv_heads=None, bias=True):
    return 4 * d_model * (d_model + bias)


@mutant("multi_head_parameters", "gives keys and values biases as wide as the model")
def biases_of_full_width(d_model, n_heads, n_kv_heads=None, bias=True):
    kv_width = d_model // n_heads * (n_kv_heads or n_heads)
    return 2 * d_model * d_model + 2 * d_model * kv_width + (4 * d_model if bias else 0)


@mutant("multi_head_parameters", "divides C by the key heads: right where H is their square")
def width_divided_by_key_heads(d_model, n_heads, n_kv_heads=None, bias=True):
    kv_width = d_model if n_kv_heads is None else d_model // n_kv_heads
    return sum((d_model + bias) * width for width in (d_model, kv_width, kv_width, d_model))


@mutant("multi_head_parameters", "returns a float")
def a_float(d_model, n_heads, n_kv_heads=None, bias=True):
    share = 1 if n_kv_heads is None else n_kv_heads / n_heads
    outputs = 2 * d_model * (1 + share)
    return float(outputs * (d_model + (1 if bias else 0)))


@mutant("multi_head_parameters", "takes the last layer to read as many numbers as there are values")
def reads_back_from_few_heads(d_model, n_heads, n_kv_heads=None, bias=True):
    head_dim = d_model // n_heads
    kv_width = head_dim * (n_heads if n_kv_heads is None else n_kv_heads)
    into_heads = (d_model + bias) * (d_model + 2 * kv_width)
    return into_heads + (kv_width + bias) * d_model


@rewrite("multi_head_parameters")
def counts_real_layers(d_model, n_heads, n_kv_heads=None, bias=True):
    kv_width = (n_kv_heads or n_heads) * (d_model // n_heads)
    widths = (d_model, kv_width, kv_width, d_model)
    layers = [nn.Linear(d_model, width, bias=bias, device="meta") for width in widths]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


@rewrite("multi_head_parameters")
def counted_by_the_head(d_model, n_heads, n_kv_heads=None, bias=True):
    if n_kv_heads is None:
        n_kv_heads = n_heads
    head_dim = d_model // n_heads
    total = n_heads * head_dim * d_model  # the way back
    for _ in range(n_heads + 2 * n_kv_heads):
        total += d_model * head_dim
    if bias:
        total += head_dim * (n_heads + 2 * n_kv_heads) + d_model
    return total


# ---------------------------------------------------------------------------- multi_head_flops


@mutant("multi_head_flops", "takes it for one head and ignores fewer keys and values")
def as_for_one_head(n_tokens, d_model, n_heads, n_kv_heads=None):
    return attention.attention_flops(n_tokens, d_model)


@mutant("multi_head_flops", "takes the mixing to be cheaper with fewer heads of keys")
def mixing_saves_too(n_tokens, d_model, n_heads, n_kv_heads=None):
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    kv_width = d_model // n_heads * n_kv_heads
    projections = 4 * n_tokens * d_model * (d_model + kv_width)
    return projections, 4 * n_tokens**2 * kv_width


@mutant("multi_head_flops", "counts the mixing of one head instead of all")
def mixing_of_one_head(n_tokens, d_model, n_heads, n_kv_heads=None):
    head_dim = d_model // n_heads
    kv_width = head_dim * (n_heads if n_kv_heads is None else n_kv_heads)
    return 4 * n_tokens * d_model * (d_model + kv_width), 4 * n_tokens**2 * head_dim


@mutant("multi_head_flops", "returns floats, for it divides with a fraction")
def two_floats(n_tokens, d_model, n_heads, n_kv_heads=None):
    share = (n_kv_heads or n_heads) / n_heads
    projections = 2 * n_tokens * d_model * d_model * (2 + 2 * share)
    mixing = n_heads * 4 * n_tokens**2 * (d_model / n_heads)
    return projections, mixing


@mutant("multi_head_flops", "takes the way back to be as narrow as keys and values")
def narrow_way_back(n_tokens, d_model, n_heads, n_kv_heads=None):
    kv_width = d_model // n_heads * (n_heads if n_kv_heads is None else n_kv_heads)
    projections = 2 * n_tokens * d_model * (d_model + 3 * kv_width)
    return projections, 4 * n_tokens**2 * d_model


@rewrite("multi_head_flops")
def product_by_product(n_tokens, d_model, n_heads, n_kv_heads=None):
    def product(a, b, c):
        return 2 * a * b * c

    head_dim = d_model // n_heads
    projections = product(n_tokens, d_model, d_model)  # back to the stream
    mixing = 0
    for _ in range(n_heads):
        projections += product(n_tokens, d_model, head_dim)
        mixing += product(n_tokens, head_dim, n_tokens) + product(n_tokens, n_tokens, head_dim)
    for _ in range(n_kv_heads or n_heads):
        projections += 2 * product(n_tokens, d_model, head_dim)
    return projections, mixing


@rewrite("multi_head_flops")
def share_of_the_single_head(n_tokens, d_model, n_heads, n_kv_heads=None):
    projections, mixing = attention.attention_flops(n_tokens, d_model)
    shared = n_heads if n_kv_heads is None else n_kv_heads
    return projections * (n_heads + shared) // (2 * n_heads), mixing


# ----------------------------------------------------------------------------- fused_attention


@mutant("fused_attention", "asks for is_causal whenever, which takes the queries for the first")
def always_is_causal(q, k, v, dropout=0.0):
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


@mutant("fused_attention", "hides nothing unless there are as many queries as keys")
def causal_only_if_square(q, k, v, dropout=0.0):
    square = q.shape[-2] == k.shape[-2]
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=square)


@mutant("fused_attention", "scales the queries, which the operation does once more")
def scales_before(q, k, v, dropout=0.0):
    mask = attention.causal_mask(q.shape[-2], k.shape[-2], q.device)
    q = q / math.sqrt(q.shape[-1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


@mutant("fused_attention", "gives a mask of ones and zeros, which are added to the scores")
def adds_ones_and_zeros(q, k, v, dropout=0.0):
    mask = attention.causal_mask(q.shape[-2], k.shape[-2], q.device).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


@mutant("fused_attention", "drops numbers of the output instead of weights")
def drops_of_the_output(q, k, v, dropout=0.0):
    mask = attention.causal_mask(q.shape[-2], k.shape[-2], q.device)
    return F.dropout(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), dropout)


@mutant("fused_attention", "ignores dropout")
def never_drops(q, k, v, dropout=0.0):
    mask = attention.causal_mask(q.shape[-2], k.shape[-2], q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@rewrite("fused_attention")
def minus_infinity_is_added(q, k, v, dropout=0.0):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    later = torch.full((n_queries, n_keys), -torch.inf, dtype=q.dtype, device=q.device)
    later = later.triu(n_keys - n_queries + 1)
    scale = q.shape[-1] ** -0.5
    return F.scaled_dot_product_attention(q, k, v, later, dropout, False, scale=scale)


@rewrite("fused_attention")
def padded_to_a_square(q, k, v, dropout=0.0):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    padded = F.pad(q, (0, 0, n_keys - n_queries, 0))  # queries of zeros at the first positions
    output = F.scaled_dot_product_attention(padded, k, v, dropout_p=dropout, is_causal=True)
    return output[:, :, n_keys - n_queries :]
