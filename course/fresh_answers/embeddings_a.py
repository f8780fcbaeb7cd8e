"""Answers to module 04's exercises on tokens and the embedding layer, written afresh."""

import math

import torch
import torch.nn.functional as F
from my_transformer import dropout, embeddings
from torch import nn

from tiny_transformer.course.wrong_answers import mutant, rewrite

# ------------------------------------------------------------------------------------ one_hot


@mutant("one_hot", "returns float32 whatever dtype was asked for")
def ones_in_float32(ids, vocab_size, dtype=torch.float32):
    return F.one_hot(ids, vocab_size).float()


@mutant("one_hot", "is as wide as the largest id that occurs, and not V wide")
def as_wide_as_the_largest_id(ids, vocab_size, dtype=torch.float32):
    return F.one_hot(ids).to(dtype)


@mutant("one_hot", "makes one long list of the ids: a batch loses its axes")
def flattens_the_ids(ids, vocab_size, dtype=torch.float32):
    flat = ids.reshape(-1)
    out = torch.zeros(len(flat), vocab_size, dtype=dtype, device=ids.device)
    out[torch.arange(len(flat), device=ids.device), flat] = 1
    return out


@mutant("one_hot", "has the axis of the vocabulary first, not last")
def vocabulary_first(ids, vocab_size, dtype=torch.float32):
    return torch.stack([ids == token for token in range(vocab_size)]).to(dtype)


@mutant("one_hot", "makes the result on the CPU wherever the ids are")
def always_on_the_cpu(ids, vocab_size, dtype=torch.float32):
    out = torch.zeros(*ids.shape, vocab_size, dtype=dtype, device="cpu")
    return out.scatter(-1, ids.unsqueeze(-1).to("cpu"), 1)


@rewrite("one_hot")
def by_comparing_with_all(ids, vocab_size, dtype=torch.float32):
    return (ids[..., None] == torch.arange(vocab_size, device=ids.device)).to(dtype)


@rewrite("one_hot")
def rows_of_the_identity(ids, vocab_size, dtype=torch.float32):
    return torch.eye(vocab_size, dtype=dtype, device=ids.device)[ids]


# ------------------------------------------------------------------------------- token_logits


@mutant("token_logits", "divides by the lengths of the vectors: cosines, no dot products")
def cosines_of_tokens(x, table):
    return F.normalize(x, dim=-1) @ F.normalize(table, dim=-1).transpose(0, 1)


@mutant("token_logits", "takes minus the distance to each token, for the nearest should win")
def minus_the_distance(x, table):
    return -(x.unsqueeze(-2) - table).square().sum(dim=-1).sqrt()


@mutant("token_logits", "divides by the root of C, as in attention")
def scaled_as_in_attention(x, table):
    return x @ table.transpose(0, 1) / math.sqrt(x.shape[-1])


@mutant("token_logits", "returns float32 whatever it was given")
def logits_in_float32(x, table):
    return F.linear(x.float(), table.float())


@mutant("token_logits", "shifts each row so that its largest score is 0")
def largest_logit_is_zero(x, table):
    logits = x @ table.transpose(0, 1)
    return logits - logits.amax(dim=-1, keepdim=True)


@rewrite("token_logits")
def as_a_linear_layer(x, table):
    return F.linear(x, table)


@rewrite("token_logits")
def token_by_token(x, table):
    return torch.stack([(x * row).sum(dim=-1) for row in table], dim=-1)


# ------------------------------------------------------------------------- embedding_gradient


@mutant("embedding_gradient", "adds only one gradient of a token that stands at many places")
def one_place_wins(ids, grad_vectors, vocab_size):
    grad = grad_vectors.new_zeros(vocab_size, grad_vectors.shape[-1])
    grad[ids] += grad_vectors
    return grad


@mutant("embedding_gradient", "takes the mean over a token's places, not the sum")
def mean_over_places(ids, grad_vectors, vocab_size):
    picked = F.one_hot(ids.flatten(), vocab_size).to(grad_vectors.dtype)
    total = picked.T @ grad_vectors.flatten(0, 1)
    return total / picked.sum(dim=0).clamp(min=1)[:, None]


@mutant("embedding_gradient", "has no rows for the tokens after the largest that occurs")
def no_rows_after_the_largest(ids, grad_vectors, vocab_size):
    picked = F.one_hot(ids.flatten()).to(grad_vectors.dtype)
    return picked.T @ grad_vectors.flatten(0, 1)


@mutant("embedding_gradient", "adds up in the gradients that it was given")
def adds_up_in_the_input(ids, grad_vectors, vocab_size):
    rows = {}
    for token, grad in zip(ids.flatten().tolist(), grad_vectors.flatten(0, 1), strict=True):
        if token in rows:
            rows[token] += grad  # a view of what was given
        else:
            rows[token] = grad
    zeros = grad_vectors.new_zeros(grad_vectors.shape[-1])
    return torch.stack([rows.get(token, zeros) for token in range(vocab_size)])


@mutant("embedding_gradient", "returns float32 whatever it was given")
def gradient_in_float32(ids, grad_vectors, vocab_size):
    grad = torch.zeros(vocab_size, grad_vectors.shape[-1])
    return grad.index_add_(0, ids.flatten(), grad_vectors.flatten(0, 1).float())


@rewrite("embedding_gradient")
def by_index_add(ids, grad_vectors, vocab_size):
    grad = grad_vectors.new_zeros(vocab_size, grad_vectors.shape[-1])
    return grad.index_add(0, ids.reshape(-1), grad_vectors.reshape(-1, grad_vectors.shape[-1]))


@rewrite("embedding_gradient")
def sum_for_each_token(ids, grad_vectors, vocab_size):
    return torch.stack([grad_vectors[ids == token].sum(dim=0) for token in range(vocab_size)])


# ----------------------------------------------------------------------------- TokenEmbedding


@mutant("TokenEmbedding", "rounds the root of C down: right where C is a square")
class RootRoundedDown(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        self.factor = math.isqrt(config.d_model) if config.scale_embeddings else 1

    def forward(self, ids):
        return self.weight[ids] * self.factor


@mutant("TokenEmbedding", "scales also where the config does not say so")
class AlwaysScales(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))

    def forward(self, ids):
        return self.weight[ids] * math.sqrt(self.weight.shape[1])


@mutant("TokenEmbedding", "scales the first numbers of the table, and never what is looked up")
class ScalesAtTheStart(nn.Module):
    def __init__(self, config):
        super().__init__()
        table = torch.randn(config.vocab_size, config.d_model) * 0.02
        if config.scale_embeddings:
            table = table * math.sqrt(config.d_model)
        self.weight = nn.Parameter(table)

    def forward(self, ids):
        return F.embedding(ids, self.weight)


@mutant("TokenEmbedding", "scales the table itself, again at every call")
class ScalesTheTable(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))

    def forward(self, ids):
        if self.config.scale_embeddings:
            self.weight.data *= math.sqrt(self.config.d_model)
        return F.embedding(ids, self.weight)


@mutant("TokenEmbedding", "keeps the table in a module, so that its name is `table.weight`")
class TableInAModule(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.d_model)
        self.factor = math.sqrt(config.d_model) if config.scale_embeddings else 1.0

    @property
    def weight(self):
        return self.table.weight

    def forward(self, ids):
        return self.table(ids) * self.factor


@mutant("TokenEmbedding", "stores the factor in `state_dict`")
class StoresTheFactor(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        factor = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, ids):
        return self.weight[ids] * self.factor  # pyright: ignore[reportOperatorIssue]


@mutant("TokenEmbedding", "turns scaled bfloat16 vectors into float32")
class FactorIsFloat32(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        self.factor = torch.tensor([config.d_model], dtype=torch.float32).sqrt()
        self.scaled = config.scale_embeddings

    def forward(self, ids):
        vectors = self.weight[ids]
        return vectors * self.factor.to(vectors.device) if self.scaled else vectors


@mutant("TokenEmbedding", "takes token 0 for padding, so that its vector never learns")
class TokenZeroIsPadding(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        self.factor = math.sqrt(config.d_model) if config.scale_embeddings else 1.0

    def forward(self, ids):
        return F.embedding(ids, self.weight, padding_idx=0) * self.factor


@rewrite("TokenEmbedding")
class IsAnEmbedding(nn.Embedding):
    def __init__(self, config):
        super().__init__(config.vocab_size, config.d_model)
        self.scaled = config.scale_embeddings

    def forward(self, ids):
        vectors = super().forward(ids)
        return vectors * self.embedding_dim**0.5 if self.scaled else vectors


@rewrite("TokenEmbedding")
class MultipliesByOneHot(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.randn(config.vocab_size, config.d_model))

    def forward(self, ids):
        picked = embeddings.one_hot(ids, self.config.vocab_size, self.weight.dtype)
        if self.config.scale_embeddings:
            picked = picked * math.sqrt(self.config.d_model)
        return picked @ self.weight


@rewrite("TokenEmbedding")
class SelectsRows(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.register_parameter(
            "weight", nn.Parameter(torch.ones(config.vocab_size, config.d_model))
        )
        self.root = math.sqrt(config.d_model) if config.scale_embeddings else None

    def forward(self, ids):
        rows = self.weight.index_select(0, ids.reshape(-1))
        if self.root is not None:
            rows = rows.mul(self.root)
        return rows.reshape(*ids.shape, -1)


# --------------------------------------------------------------------------------- Embeddings


class _Layer(nn.Module):
    """What the wrong layers share; each goes wrong in one place."""

    def __init__(self, config, parts):
        super().__init__()
        self.config = config
        self.token = parts.token_embedding(config)
        self.position = self.build_position(config, parts)
        self.drop = nn.Dropout(config.dropout)

    def build_position(self, config, parts):
        if config.position in ("learned", "sinusoidal"):
            return parts.positional_embedding(config)
        return None

    def forward(self, ids, offset=0):
        x = self.token(ids)
        if self.position is not None:
            x = x + self.position(ids.shape[1], offset)
        return self.drop(x)


@mutant("Embeddings", "ignores the offset: every text begins at position 0")
class ForgetsTheOffset(_Layer):
    def forward(self, ids, offset=0):
        return super().forward(ids)


@mutant("Embeddings", "drops numbers of the token vectors only, before positions are added")
class DropsTokensOnly(_Layer):
    def forward(self, ids, offset=0):
        x = self.drop(self.token(ids))
        return x if self.position is None else x + self.position(ids.shape[1], offset)


@mutant("Embeddings", "adds learned positions only, and no sinusoidal ones")
class LearnedPositionsOnly(_Layer):
    def build_position(self, config, parts):
        return parts.positional_embedding(config) if config.position == "learned" else None


@mutant("Embeddings", "builds a position part also where none is added")
class AlwaysBuildsPositions(_Layer):
    def build_position(self, config, parts):
        return parts.positional_embedding(config)

    def forward(self, ids, offset=0):
        x = self.token(ids)
        if self.config.position in ("learned", "sinusoidal"):
            x = x + self.position(ids.shape[1], offset)  # pyright: ignore[reportOptionalCall]
        return self.drop(x)


@mutant("Embeddings", "builds its own token embedding, whatever `parts` says")
class NamesItsOwnClass(_Layer):
    def __init__(self, config, parts):
        super().__init__(config, parts)
        self.token = embeddings.TokenEmbedding(config)


@mutant("Embeddings", "drops numbers in evaluation too")
class DropsInEvaluation(_Layer):
    def forward(self, ids, offset=0):
        x = self.token(ids)
        if self.position is not None:
            x = x + self.position(ids.shape[1], offset)
        return F.dropout(x, self.config.dropout)


@mutant("Embeddings", "takes the number of texts for their length")
class AsManyPositionsAsTexts(_Layer):
    def forward(self, ids, offset=0):
        x = self.token(ids)
        if self.position is not None:
            x = x + self.position(len(ids), offset)
        return self.drop(x)


@mutant("Embeddings", "calls the parts `tokens` and `positions`, so that no weights load")
class PluralNames(nn.Module):
    def __init__(self, config, parts):
        super().__init__()
        self.tokens = parts.token_embedding(config)
        self.positions = None
        if config.position in ("learned", "sinusoidal"):
            self.positions = parts.positional_embedding(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, ids, offset=0):
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(ids.shape[1], offset)
        return self.drop(x)


@rewrite("Embeddings")
class WithAMaskOfItsOwn(nn.Module):
    def __init__(self, config, parts):
        super().__init__()
        self.p = config.dropout
        self.has_positions = config.position not in ("rotary", "none")
        if self.has_positions:
            self.position = parts.positional_embedding(config)
        self.token = parts.token_embedding(config)

    def forward(self, ids, offset=0):
        _, length = ids.shape
        x = self.token(ids)
        if self.has_positions:
            x = self.position(length, offset).unsqueeze(0) + x
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(x.shape, device=x.device) >= self.p
        return torch.where(keep, x / (1 - self.p), torch.zeros_like(x))


@rewrite("Embeddings")
class WithFunctionalDropout(nn.Module):
    def __init__(self, config, parts):
        super().__init__()
        self.config = config
        self.add_module("token", parts.token_embedding(config))
        if config.position in {"learned", "sinusoidal"}:
            self.add_module("position", parts.positional_embedding(config))

    def forward(self, ids, offset=0):
        vectors = [self.token(ids)]
        if "position" in self._modules:
            one_text = self.position(ids.size(1), offset=offset)
            vectors.append(one_text.expand_as(vectors[0]))
        return F.dropout(sum(vectors), self.config.dropout, training=self.training)


@rewrite("Embeddings")
class WithTheDropoutOfModuleThree(nn.Module):
    def __init__(self, config, parts):
        super().__init__()
        self.token = parts.token_embedding(config)
        self.position = None
        match config.position:
            case "learned" | "sinusoidal":
                self.position = parts.positional_embedding(config)
        self.finish = dropout.Dropout(config.dropout)

    def forward(self, ids, offset=0):
        if self.position is None:
            return self.finish(self.token(ids))
        positions = self.position(ids.shape[-1], offset)
        return self.finish(torch.stack([vectors + positions for vectors in self.token(ids)]))
