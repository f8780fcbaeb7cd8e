"""Answers to module 04's exercises on positions, written afresh."""

import math

import torch
from my_transformer import positional
from torch import nn

from tiny_transformer.course.wrong_answers import mutant, rewrite

# ------------------------------------------------------------------------------ rotary_angles


@mutant("rotary_angles", "computes in float32 and calls the result float64")
def digits_of_float32(positions, head_dim, base=10000.0):
    frequencies = base ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    return (positions.float()[:, None] * frequencies).double()


@mutant("rotary_angles", "leaves out the 2 of the exponent, so that the hands slow down too little")
def without_the_two(positions, head_dim, base=10000.0):
    hands = torch.arange(head_dim // 2, dtype=torch.float64)
    return positions.double()[:, None] / base ** (hands / head_dim)


@mutant("rotary_angles", "has 10000 for every base")
def ten_thousand_for_every_base(positions, head_dim, base=10000.0):
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    return positions.double()[:, None] / 10000.0**exponents


@mutant("rotary_angles", "takes full turns off the angles")
def takes_off_full_turns(positions, head_dim, base=10000.0):
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    return (positions.double()[:, None] / base**exponents) % (2 * math.pi)


@mutant("rotary_angles", "has every angle twice, one for each channel and not for each pair")
def every_angle_twice(positions, head_dim, base=10000.0):
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles = positions.double()[:, None] / base**exponents
    return torch.cat([angles, angles], dim=-1)


@rewrite("rotary_angles")
def hand_by_hand(positions, head_dim, base=10000.0):
    places = positions.to(torch.float64)
    hands = [places / base ** (2 * i / head_dim) for i in range(head_dim // 2)]
    return torch.stack(hands, dim=1)


@rewrite("rotary_angles")
def outer_product_of_exponentials(positions, head_dim, base=10000.0):
    hands = torch.arange(head_dim // 2, dtype=torch.float64, device=positions.device)
    frequencies = torch.exp(hands * (-2 * math.log(base) / head_dim))
    return torch.outer(positions.double(), frequencies)


# --------------------------------------------------------------------------- sinusoidal_table


@mutant("sinusoidal_table", "has all sines first and all cosines after them")
def sines_then_cosines(length, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.arange(length), d_model, base)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


@mutant("sinusoidal_table", "returns float64")
def table_in_float64(length, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.arange(length), d_model, base)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


@mutant("sinusoidal_table", "counts positions from 1")
def counts_from_one(length, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.arange(1, length + 1), d_model, base)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


@mutant("sinusoidal_table", "gives each column an angle of its own, also the cosine of a pair")
def an_angle_for_each_column(length, d_model, base=10000.0):
    columns = torch.arange(d_model, dtype=torch.float64)
    angles = torch.arange(length).double()[:, None] / base ** (columns / d_model)
    return torch.where(columns.long() % 2 == 0, angles.sin(), angles.cos()).float()


@mutant("sinusoidal_table", "ignores the base")
def forgets_the_base_of_the_table(length, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.arange(length), d_model)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


@rewrite("sinusoidal_table")
def even_and_odd_columns(length, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.arange(length), d_model, base)
    table = torch.empty(length, d_model)
    table[:, 0::2] = torch.sin(angles)
    table[:, 1::2] = torch.cos(angles)
    return table


@rewrite("sinusoidal_table")
def number_by_number(length, d_model, base=10000.0):
    table = torch.zeros(length, d_model)
    for p in range(length):
        for column in range(d_model):
            angle = p / base ** (column // 2 * 2 / d_model)
            table[p, column] = math.cos(angle) if column % 2 else math.sin(angle)
    return table


# ------------------------------------------------------------------------ PositionalEmbedding


class _Positions(nn.Module):
    """What the wrong parts share; each goes wrong in one place."""

    def __init__(self, config):
        super().__init__()
        if config.position == "learned":
            self.weight = nn.Parameter(torch.zeros(config.context_length, config.d_model))
        else:
            self.keep(self.table(config))

    def table(self, config):
        size = (config.context_length, config.d_model)
        return positional.sinusoidal_table(*size, config.rotary_base)

    def keep(self, table):
        self.register_buffer("weight", table, persistent=False)

    def forward(self, length, offset=0):
        return self.weight[offset : offset + length]


@mutant("PositionalEmbedding", "ignores the offset")
class AlwaysFromTheStart(_Positions):
    def forward(self, length, offset=0):
        return self.weight[:length]


@mutant("PositionalEmbedding", "takes the length for the end: too few rows after an offset")
class LengthIsTheEnd(_Positions):
    def forward(self, length, offset=0):
        return self.weight[offset:length]


@mutant("PositionalEmbedding", "stores the sinusoidal table in `state_dict`")
class StoresTheTable(_Positions):
    def keep(self, table):
        self.register_buffer("weight", table)


@mutant("PositionalEmbedding", "keeps a plain tensor, which does not move with the model")
class TableStaysBehind(_Positions):
    def keep(self, table):
        self.weight = table


@mutant("PositionalEmbedding", "makes the sinusoidal table a parameter that is frozen")
class FrozenParameter(_Positions):
    def keep(self, table):
        self.weight = nn.Parameter(table, requires_grad=False)


@mutant("PositionalEmbedding", "takes 10000 for every `rotary_base`")
class ForgetsTheBase(_Positions):
    def table(self, config):
        return positional.sinusoidal_table(config.context_length, config.d_model)


@mutant("PositionalEmbedding", "cuts the gradient off: learned positions never learn")
class NeverLearns(_Positions):
    def forward(self, length, offset=0):
        return self.weight.detach()[offset : offset + length]


@mutant("PositionalEmbedding", "puts an axis for the batch in front")
class HasABatch(_Positions):
    def forward(self, length, offset=0):
        return self.weight[None, offset : offset + length]


@rewrite("PositionalEmbedding")
class LooksPositionsUp(nn.Module):
    def __init__(self, config):
        super().__init__()
        learned = config.position == "learned"
        rows, columns = config.context_length, config.d_model
        if learned:
            self.register_parameter("weight", nn.Parameter(torch.randn(rows, columns)))
        else:
            table = positional.sinusoidal_table(rows, columns, base=config.rotary_base)
            self.register_buffer("weight", table, persistent=False)

    def forward(self, length, offset=0):
        positions = torch.arange(offset, offset + length, device=self.weight.device)
        return nn.functional.embedding(positions, self.weight)


@rewrite("PositionalEmbedding")
class MovesThePlainTensorItself(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.position == "learned":
            self.weight = nn.Parameter(torch.ones(config.context_length, config.d_model))
        else:
            self.weight = positional.sinusoidal_table(
                config.context_length, config.d_model, config.rotary_base
            )

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if "weight" not in self._parameters:
            self.weight = fn(self.weight)
        return self

    def forward(self, length, offset=0):
        return self.weight.narrow(0, offset, length)


@rewrite("PositionalEmbedding")
class StacksRows(nn.Module):
    def __init__(self, config):
        super().__init__()
        size = (config.context_length, config.d_model)
        if config.position == "learned":
            self.weight = nn.Parameter(torch.randn(size) * 0.02)
        else:
            table = positional.sinusoidal_table(*size, base=config.rotary_base)
            self.weight = nn.Buffer(table, persistent=False)

    def forward(self, length, offset=0):
        return torch.stack([self.weight[p] for p in range(offset, offset + length)])


# ------------------------------------------------------------------------------- shift_matrix


def _block_diagonal(cos, sin):
    pairs = torch.stack([cos, sin, -sin, cos], dim=-1).unflatten(-1, (2, 2))
    return torch.block_diag(*pairs)


@mutant("shift_matrix", "moves back where it should move on")
def moves_the_other_way(offset, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.tensor([offset]), d_model, base)[0]
    return _block_diagonal(angles.cos(), angles.sin()).T.contiguous()


@mutant("shift_matrix", "moves on where the offset is below 0")
def never_moves_back(offset, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.tensor([abs(offset)]), d_model, base)[0]
    return _block_diagonal(angles.cos(), angles.sin())


@mutant("shift_matrix", "takes the sines for the first half of the columns: right for two channels")
def for_halves(offset, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.tensor([offset]), d_model, base)[0]
    cos, sin = torch.diag(angles.cos()), torch.diag(angles.sin())
    return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])


@mutant("shift_matrix", "returns float32")
def matrix_in_float32(offset, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.tensor([offset]), d_model, base)[0].float()
    return _block_diagonal(angles.cos(), angles.sin())


@mutant("shift_matrix", "turns every pair as fast as the first: right for two channels")
def one_speed_for_all(offset, d_model, base=10000.0):
    angles = torch.full((d_model // 2,), float(offset), dtype=torch.float64)
    return _block_diagonal(angles.cos(), angles.sin())


@rewrite("shift_matrix")
def pair_by_pair(offset, d_model, base=10000.0):
    matrix = torch.zeros(d_model, d_model, dtype=torch.float64)
    for i in range(0, d_model, 2):
        angle = offset / base ** (i / d_model)
        matrix[i, i] = matrix[i + 1, i + 1] = math.cos(angle)
        matrix[i, i + 1] = math.sin(angle)
        matrix[i + 1, i] = -math.sin(angle)
    return matrix


@rewrite("shift_matrix")
def by_kronecker_products(offset, d_model, base=10000.0):
    angles = positional.rotary_angles(torch.tensor([offset]), d_model, base).squeeze(0)
    same = torch.eye(2, dtype=torch.float64)
    other = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    return torch.kron(angles.cos().diag(), same) + torch.kron(angles.sin().diag(), other)


# ------------------------------------------------------------------------------- apply_rotary


@mutant("apply_rotary", "pairs neighbours, which is the same for two channels only")
def pairs_neighbours(x, cos, sin):
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


@mutant("apply_rotary", "turns the other way")
def turns_the_other_way(x, cos, sin):
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)


@mutant("apply_rotary", "returns the dtype of the angles where that is the wider one")
def dtype_of_the_angles(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@mutant("apply_rotary", "turns the vectors that it was given, in place")
def turns_in_place(x, cos, sin):
    half = x.shape[-1] // 2
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x[..., :half].clone(), x[..., half:].clone()
    x[..., :half] = first * cos - second * sin
    x[..., half:] = second * cos + first * sin
    return x


@mutant("apply_rotary", "computes the second half from the first half that is turned already")
def from_the_turned_half(x, cos, sin):
    half = x.shape[-1] // 2
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    turned = x.clone()
    turned[..., :half] = turned[..., :half] * cos - turned[..., half:] * sin
    turned[..., half:] = turned[..., half:] * cos + turned[..., :half] * sin
    return turned


@rewrite("apply_rotary")
def as_complex_numbers(x, cos, sin):
    first, second = x.double().chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.complex(cos.double(), sin.double())
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


@rewrite("apply_rotary")
def with_the_other_half(x, cos, sin):
    half = x.shape[-1] // 2
    signs = torch.cat([-torch.ones(half), torch.ones(half)]).to(x)
    wide_cos = torch.cat([cos, cos], dim=-1).to(x.dtype)
    wide_sin = torch.cat([sin, sin], dim=-1).to(x.dtype)
    return x * wide_cos + x.roll(half, dims=-1) * signs * wide_sin


# ------------------------------------------------------------------------------ rotary_scores


def _turned(x, positions, base):
    angles = positional.rotary_angles(positions, x.shape[-1], base)
    return positional.apply_rotary(x, angles.cos(), angles.sin())


@mutant("rotary_scores", "lets the queries stand at the first positions, not at the last")
def queries_from_zero(q, k, base=10000.0):
    q = _turned(q, torch.arange(q.shape[-2]), base)
    k = _turned(k, torch.arange(k.shape[-2]), base)
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


@mutant("rotary_scores", "ignores the base")
def forgets_the_base_of_the_scores(q, k, base=10000.0):
    q = _turned(q, torch.arange(k.shape[-2])[-q.shape[-2] :], 10000.0)
    k = _turned(k, torch.arange(k.shape[-2]), 10000.0)
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


@mutant("rotary_scores", "turns the keys against the queries, so that positions add up")
def turns_keys_back(q, k, base=10000.0):
    q = _turned(q, torch.arange(k.shape[-2])[-q.shape[-2] :], base)
    k = _turned(k, -torch.arange(k.shape[-2]), base)
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


@mutant("rotary_scores", "hides the keys that come later")
def hides_later_keys(q, k, base=10000.0):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    q = _turned(q, torch.arange(n_keys - n_queries, n_keys), base)
    scores = q @ _turned(k, torch.arange(n_keys), base).transpose(-2, -1)
    later = torch.ones(n_queries, n_keys, dtype=torch.bool).triu(n_keys - n_queries + 1)
    return (scores / math.sqrt(q.shape[-1])).masked_fill(later, -torch.inf)


@mutant("rotary_scores", "divides by the root of the number of pairs, not of channels")
def root_of_the_pairs(q, k, base=10000.0):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    q = _turned(q, torch.arange(n_keys - n_queries, n_keys), base)
    k = _turned(k, torch.arange(n_keys), base)
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1] // 2)


@rewrite("rotary_scores")
def products_of_complex_numbers(q, k, base=10000.0):
    n_queries, n_keys, width = q.shape[-2], k.shape[-2], q.shape[-1]
    angles = positional.rotary_angles(torch.arange(n_keys), width, base).to(q.device)
    hands = torch.polar(torch.ones_like(angles), angles)
    complex_q = torch.complex(*q.double().chunk(2, dim=-1)) * hands[n_keys - n_queries :]
    complex_k = torch.complex(*k.double().chunk(2, dim=-1)) * hands
    scores = torch.einsum("bhmi,bhni->bhmn", complex_q, complex_k.conj()).real
    return (scores * width**-0.5).to(q.dtype)
