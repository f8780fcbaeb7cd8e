"""Module 04, wrong answers: the part that turns ids into vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import expect_module_follows_device
from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite


class Part(nn.Module):
    """The right answer, in steps that a variation can replace."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))

    def factor(self) -> float:
        return math.sqrt(self.config.d_model) if self.config.scale_embeddings else 1.0

    def look_up(self, ids: Tensor) -> Tensor:
        return self.weight[ids]

    def forward(self, ids: Tensor) -> Tensor:
        return self.look_up(ids) * self.factor()


@probes("TokenEmbedding")
def _(cls: Any) -> list[Any]:
    def part(dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
        plain = {"d_model": 6, "n_heads": 2, "context_length": 9, "dropout": 0.5, "vocab_size": 11}
        built = cls(ModelConfig(**{**plain, **settings}))
        with torch.no_grad():
            for _, parameter in built.named_parameters():
                parameter.copy_(draw(*parameter.shape, seed=20))
        return built.to(dtype)

    def shapes(**settings: Any) -> list[Any]:
        built = part(**settings)
        stored = [(n, tuple(p.shape)) for n, p in sorted(built.state_dict().items())]
        return [*stored, *(name for name, _ in built.named_parameters())]

    def ids(*shape: int) -> Tensor:
        return torch.randint(11, shape, generator=torch.Generator().manual_seed(len(shape)))

    def twice(**settings: Any) -> Any:
        built = part(**settings)
        return [built(ids(2, 3)).detach().clone(), built(ids(2, 3)).detach().clone()]

    def weight_after(**settings: Any) -> Any:
        built = part(**settings)
        built(ids(2, 3))
        return next(iter(built.parameters())).detach().clone()

    def gradient(**settings: Any) -> Any:
        built = part(torch.float64, **settings)
        built(torch.tensor([[1, 0, 0]])).backward(draw(1, 3, 6, seed=9, dtype=torch.float64))
        found = next(iter(built.parameters())).grad
        return "none" if found is None else found

    def reloaded() -> Any:
        built = part(scale_embeddings=True)
        built(ids(2, 3))
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.copy_(draw(*parameter.shape, seed=33))
        return built(ids(2, 3))

    def on_its_device() -> bool:
        expect_module_follows_device(
            lambda: cls(ModelConfig(d_model=6, n_heads=2, vocab_size=11)), ids(2, 3), ""
        )
        return True

    def dropped() -> float:
        return (part().train()(ids(20, 9)) == 0).float().mean().item() > 0.2

    return [
        shapes,
        lambda: shapes(vocab_size=4, d_model=8),
        lambda: shapes(scale_embeddings=True),
        lambda: part().eval()(torch.tensor([[3, 0, 10], [1, 1, 2]])),
        lambda: part().eval()(ids(9, 2)),
        lambda: part(scale_embeddings=True).eval()(torch.tensor([[3, 0, 10], [1, 1, 2]])),
        lambda: part(scale_embeddings=True, d_model=16).eval()(torch.tensor([[3, 0, 10]])),
        lambda: part(scale_embeddings=True, vocab_size=30).eval()(torch.tensor([[3, 0, 10]])),
        lambda: part(torch.float64, scale_embeddings=True).eval()(ids(2, 3)),
        lambda: part(torch.bfloat16, scale_embeddings=True).eval()(ids(2, 3)).dtype,
        lambda: twice(scale_embeddings=True),
        lambda: weight_after(scale_embeddings=True),
        lambda: weight_after(),
        lambda: gradient(scale_embeddings=True),
        lambda: gradient(),
        lambda: part()(torch.tensor([[0]])),
        lambda: part(tie_weights=False, scale_embeddings=True).eval()(ids(2, 3)),
        lambda: changed(part(), ids(2, 3)),
        reloaded,
        dropped,
        on_its_device,
    ]


@mutant(
    "TokenEmbedding",
    "You never scale: with `config.scale_embeddings`, multiply what is looked up by the root of "
    "d_model.",
)
class NeverScaled(Part):
    def factor(self) -> float:
        return 1.0


@mutant(
    "TokenEmbedding",
    "You always scale: only where `config.scale_embeddings` says so.",
)
class AlwaysScaled(Part):
    def factor(self) -> float:
        return math.sqrt(self.config.d_model)


@mutant("TokenEmbedding", "You scale where the config says not to, and not where it says to.")
class ScaledTheOtherWay(Part):
    def factor(self) -> float:
        return 1.0 if self.config.scale_embeddings else math.sqrt(self.config.d_model)


@mutant("TokenEmbedding", "You multiply by d_model. Multiply by its square root.")
class TimesTheWidth(Part):
    def factor(self) -> float:
        return float(self.config.d_model) if self.config.scale_embeddings else 1.0


@mutant(
    "TokenEmbedding",
    "You divide by the root of d_model, as attention divides its scores. Here it is a product: the "
    "vectors are small, and shall become larger.",
)
class DividedByTheRoot(Part):
    def factor(self) -> float:
        return 1 / super().factor()


@mutant("TokenEmbedding", "Your factor is the root of the vocabulary's size: take that of d_model.")
class RootOfTheVocabulary(Part):
    def factor(self) -> float:
        return math.sqrt(self.config.vocab_size) if self.config.scale_embeddings else 1.0


@mutant("TokenEmbedding", "Your factor is the root of the width of a head: take that of d_model.")
class RootOfTheHead(Part):
    def factor(self) -> float:
        return math.sqrt(self.config.head_dim) if self.config.scale_embeddings else 1.0


@mutant("TokenEmbedding", "Your factor is the root of the context's length: take that of d_model.")
class RootOfTheContext(Part):
    def factor(self) -> float:
        return math.sqrt(self.config.context_length) if self.config.scale_embeddings else 1.0


@mutant(
    "TokenEmbedding",
    "You round the root to a whole number: `int()` or `//` is at work.",
)
class RootRounded(Part):
    def factor(self) -> float:
        return float(int(super().factor()))


@mutant(
    "TokenEmbedding",
    "You scale only where the weights are tied. `scale_embeddings` alone decides.",
)
class ScaledIfTied(Part):
    def factor(self) -> float:
        return super().factor() if self.config.tie_weights else 1.0


@mutant(
    "TokenEmbedding",
    "You make each vector as long as the root of d_model. Multiply by the root, and keep the "
    "differences in length.",
)
class MadeOfOneLength(Part):
    def forward(self, ids: Tensor) -> Tensor:
        return F.normalize(self.look_up(ids), dim=-1) * self.factor()


@mutant(
    "TokenEmbedding",
    "You multiply the table itself, in place: it grows with every call, and the output layer that "
    "shares it gets the factor too.",
)
class TableScaledInPlace(Part):
    def forward(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.mul_(self.factor())
        return self.look_up(ids)


@mutant(
    "TokenEmbedding",
    "You keep a scaled copy of the table from when the part was first used: weights that are "
    "loaded or learned later are not seen. Look up in `weight` each time.",
)
class CopyOfTheTable(Part):
    copied: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        if self.copied is None:
            self.copied = self.weight.detach() * self.factor()
        return self.copied[ids]


@mutant(
    "TokenEmbedding",
    "Your table is on its side: a row for each token, (vocab_size, d_model).",
)
class TableOnItsSide(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(config.d_model, config.vocab_size))

    def look_up(self, ids: Tensor) -> Tensor:
        return self.weight.T[ids]


@mutant(
    "TokenEmbedding",
    "Your table has a row for each position: there should be one for each token, "
    "`vocab_size` rows.",
)
class RowsForPositions(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(config.context_length, config.d_model))


@mutant(
    "TokenEmbedding",
    "Your table has a row more than there are tokens, for padding or unknown ones: keep "
    "`vocab_size` rows.",
)
class ARowMore(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(config.vocab_size + 1, config.d_model))


@mutant(
    "TokenEmbedding",
    "The table lies in a layer inside your part, so it is called `embedding.weight`, and the "
    "reference's does not load: make it `self.weight`.",
)
class InALayerOfItsOwn(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.factor = math.sqrt(config.d_model) if config.scale_embeddings else 1.0

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids) * self.factor


@mutant(
    "TokenEmbedding",
    "The table has another name than the reference's: make it `self.weight`.",
)
class OfAnotherName(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        self.factor = math.sqrt(config.d_model) if config.scale_embeddings else 1.0

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids] * self.factor


@mutant(
    "TokenEmbedding",
    "Your table is a buffer, which is stored and never learned: wrap it in nn.Parameter.",
)
class ABufferForAParameter(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        del self.weight
        self.register_buffer("weight", torch.zeros(config.vocab_size, config.d_model))


@mutant(
    "TokenEmbedding",
    "Your table is a plain tensor, which is neither stored nor learned: wrap it in nn.Parameter.",
)
class APlainTensor(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        del self.weight
        self.weight = torch.zeros(config.vocab_size, config.d_model)


@mutant("TokenEmbedding", "There is a bias beside the table: an embedding has none.")
class WithABias(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.bias = nn.Parameter(torch.zeros(config.d_model))

    def look_up(self, ids: Tensor) -> Tensor:
        return self.weight[ids] + self.bias


@mutant(
    "TokenEmbedding",
    "The scale is stored with the weights: keep it as a plain number, not as a buffer.",
)
class StoredScale(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("scale", torch.tensor(self.factor()))


@mutant("TokenEmbedding", "The scale is learned in your part: it is a fixed number.")
class LearnedScale(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.tensor(self.factor()))

    def forward(self, ids: Tensor) -> Tensor:
        return self.look_up(ids) * self.scale


@mutant(
    "TokenEmbedding",
    "Token 0 gets zeros, as if it were padding: every id of the vocabulary is a token.",
)
class NoughtIsPadding(Part):
    def look_up(self, ids: Tensor) -> Tensor:
        return self.weight[ids] * (ids != 0)[..., None]


@mutant(
    "TokenEmbedding",
    "Token 0 never learns: leave out `padding_idx`. Every id of the vocabulary is a token.",
)
class NoughtNeverLearns(Part):
    def look_up(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight, padding_idx=0)


@mutant(
    "TokenEmbedding",
    "You count ids from 1: id 0 should get the first row.",
)
class CountedFromOne(Part):
    def look_up(self, ids: Tensor) -> Tensor:
        return self.weight[ids - 1]


@mutant(
    "TokenEmbedding",
    "You shorten long vectors: leave out `max_norm`.",
)
class LongVectorsCut(Part):
    def look_up(self, ids: Tensor) -> Tensor:
        x = self.weight[ids]
        return x * (2 / x.norm(dim=-1, keepdim=True).clamp(min=1e-9)).clamp(max=1.0)


@mutant(
    "TokenEmbedding",
    "Your result has its axes in another order: (B, T, C), the channels last.",
)
class ChannelsBeforeTokens(Part):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).transpose(1, 2)


@mutant(
    "TokenEmbedding",
    "Your result has lost the shape of the ids: (B, T) ids give (B, T, C).",
)
class ShapeLost(Part):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids.flatten())


@mutant("TokenEmbedding", "No gradient reaches the table: leave out detach(), .data and no_grad().")
class TableDetached(Part):
    def look_up(self, ids: Tensor) -> Tensor:
        return self.weight.detach()[ids]


@mutant(
    "TokenEmbedding",
    "A token that stands twice in a text learns once: do not divide gradients by how often it "
    "occurs.",
)
class GradientsByFrequency(Part):
    def look_up(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight, scale_grad_by_freq=True)


@mutant("TokenEmbedding", "You return float32 whatever the table is: keep the table's dtype.")
class AlwaysFloat32(Part):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).float()


@mutant(
    "TokenEmbedding",
    "You drop numbers while training. Dropout comes after the sum with the positions, in "
    "`Embeddings`.",
)
class DropsHere(Part):
    def forward(self, ids: Tensor) -> Tensor:
        return F.dropout(super().forward(ids), self.config.dropout, self.training)


@mutant(
    "TokenEmbedding",
    "You make one-hot vectors on the CPU whatever the device of the ids is: index the table, or "
    "pass on `device=ids.device`.",
)
class OneHotOnTheCpu(Part):
    def look_up(self, ids: Tensor) -> Tensor:
        n = self.weight.shape[0]
        return (ids[..., None] == torch.arange(n)).to(self.weight.dtype) @ self.weight


@rewrite("TokenEmbedding")
class AnEmbeddingOfTorch(nn.Embedding):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.vocab_size, config.d_model)
        self.scaled = config.scale_embeddings

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as nn.Embedding calls it
        x = super().forward(input)
        return x * self.embedding_dim**0.5 if self.scaled else x


@rewrite("TokenEmbedding")
class AsAProduct(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(config.vocab_size, config.d_model))
        self.root = config.d_model**0.5 if config.scale_embeddings else None

    def forward(self, ids: Tensor) -> Tensor:
        picked = F.one_hot(ids, self.weight.shape[0]).to(self.weight.dtype)
        x = picked @ self.weight
        if self.root is not None:
            x = self.root * x
        return x


@rewrite("TokenEmbedding")
class ByIndexSelect(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        nn.init.normal_(self.weight, std=0.02)
        self.config = config

    def forward(self, ids: Tensor) -> Tensor:
        B, T = ids.shape
        x = self.weight.index_select(0, ids.reshape(-1)).view(B, T, -1)
        if not self.config.scale_embeddings:
            return x
        return x.mul(math.sqrt(x.size(-1)))


@rewrite("TokenEmbedding")
class TableScaledBeforeTheLookUp(Part):
    def look_up(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight * self.factor())

    def forward(self, ids: Tensor) -> Tensor:
        return self.look_up(ids)
