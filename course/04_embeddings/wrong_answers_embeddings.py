"""Module 04, wrong answers: token and position together, and dropout on the sum."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.devices import expect_module_follows_device
from tiny_transformer.course.inputs import draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite
from tiny_transformer.model.parts import Parts

IDS = torch.tensor([[3, 0, 10, 3], [1, 1, 7, 2], [5, 4, 4, 9]])  # (B 3, T 4)


class Part(nn.Module):
    """The right answer, in steps that a variation can replace."""

    position: Any  # None where nothing is added

    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__()
        self.config = config
        self.token = parts.token_embedding(config)
        self.position = parts.positional_embedding(config) if self.is_added() else None

    def is_added(self) -> bool:
        return self.config.position in ("learned", "sinusoidal")

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)

    def positions(self, ids: Tensor, offset: int) -> Tensor:
        return self.position(ids.shape[1], offset)

    def total(self, ids: Tensor, offset: int) -> Tensor:
        x = self.token(ids)
        return x if self.position is None else x + self.positions(ids, offset)

    def forward(self, ids: Tensor, offset: int = 0) -> Tensor:
        return self.drop(self.total(ids, offset))


class TokenStand(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def forward(self, ids: Tensor) -> Tensor:
        return ids[..., None] * torch.ones(8)


class PositionStand(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def forward(self, length: int, offset: int = 0) -> Tensor:
        return 100.0 * torch.arange(offset, offset + length)[:, None] * torch.ones(8)


@probes("Embeddings")
def _(cls: Any) -> list[Any]:
    stands = SimpleNamespace(token_embedding=TokenStand, positional_embedding=PositionStand)

    def settings(**given: Any) -> ModelConfig:
        plain = {"d_model": 8, "n_heads": 2, "context_length": 9, "dropout": 0.0, "vocab_size": 11}
        return ModelConfig(**{**plain, **given})

    def part(dtype: torch.dtype = torch.float32, **given: Any) -> nn.Module:
        built = cls(settings(**given), Parts())
        with torch.no_grad():
            for i, (_, parameter) in enumerate(sorted(built.named_parameters())):
                parameter.copy_(draw(*parameter.shape, seed=20 + i))
        return built.to(dtype)

    def shapes(**given: Any) -> list[Any]:
        built = part(**given)
        stored = [(n, tuple(p.shape)) for n, p in sorted(built.state_dict().items())]
        return [*stored, *sorted(name for name, _ in built.named_parameters())]

    def of_stands(**given: Any) -> Any:
        return cls(settings(**given), stands).eval()(IDS, 3)

    def without_positions(position: str) -> Any:
        only = SimpleNamespace(token_embedding=TokenStand)
        return cls(settings(position=position), only).eval()(IDS, 3)

    def trained(dropout: float = 0.25) -> Tensor:
        built = part(dropout=dropout).train()
        names = dict(built.named_parameters())
        with torch.no_grad():
            names["token.weight"].fill_(1.0)
            names["position.weight"].fill_(2.0)
        return built(torch.zeros(30, 9, dtype=torch.int64)).detach()

    def kinds() -> list[float]:
        return (trained() * 100).round().unique().tolist()[:6]

    def share(dropout: float) -> int:
        return round((trained(dropout).abs() < 1e-6).float().mean().item() * 10)

    def alike(axis: int) -> bool:
        rows = (trained().abs() < 1e-6).transpose(0, axis).flatten(1)
        return bool((rows == rows[:1]).all())

    def gradients(**given: Any) -> list[Any]:
        built = part(torch.float64, **given)
        built(IDS, 2).backward(draw(3, 4, 8, seed=9, dtype=torch.float64))
        return [
            p.grad if p.grad is not None else "none" for _, p in sorted(built.named_parameters())
        ]

    def on_its_device() -> bool:
        expect_module_follows_device(lambda: cls(settings(), Parts()), IDS.clone(), "")
        return True

    def in_evaluation() -> Tensor:
        return part(dropout=0.5).eval()(IDS).detach()

    def positions_while_training() -> Tensor:
        """Return the share of numbers that are 0, 1.33, 2.67 and 4: which term was dropped."""
        y = trained()
        wanted = torch.tensor([0.0, 1.0, 4 / 3, 2.0, 8 / 3, 3.0, 4.0])
        return ((y[..., None] - wanted).abs() < 1e-3).any(0).any(0).any(0)

    return [
        shapes,
        lambda: shapes(position="sinusoidal"),
        lambda: shapes(position="rotary"),
        lambda: shapes(position="none"),
        lambda: part().eval()(IDS),
        lambda: part().eval()(IDS, 3),
        lambda: part().eval()(IDS[:, :1], offset=8),
        lambda: part().eval()(IDS.T.contiguous()),
        lambda: part(position="sinusoidal").eval()(IDS),
        lambda: part(position="sinusoidal").eval()(IDS, 3),
        lambda: part(position="rotary").eval()(IDS, 3),
        lambda: part(scale_embeddings=True).eval()(IDS),
        of_stands,
        lambda: of_stands(scale_embeddings=True),
        lambda: without_positions("rotary"),
        lambda: without_positions("none"),
        lambda: part(torch.bfloat16, position="sinusoidal").eval()(IDS).dtype,
        lambda: part(dropout=0.0).train()(IDS),
        in_evaluation,
        kinds,
        lambda: share(0.5),
        lambda: share(0.25),
        positions_while_training,
        lambda: [alike(axis) for axis in range(3)],
        gradients,
        on_its_device,
    ]


@mutant(
    "Embeddings",
    "Positions are missing: add the position part's vectors where `config.position` is learned or "
    "sinusoidal.",
)
class WithoutPositions(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        return self.token(ids)


@mutant(
    "Embeddings",
    "You do not hand the offset on: new tokens get the positions from 0 on, whatever the cache "
    "holds.",
)
class OffsetNotHandedOn(Part):
    def positions(self, ids: Tensor, offset: int) -> Tensor:
        return self.position(ids.shape[1])


@mutant("Embeddings", "Your offset is one too small: the first token stands at `offset` itself.")
class OffsetOneTooSmall(Part):
    def positions(self, ids: Tensor, offset: int) -> Tensor:
        return self.position(ids.shape[1], max(0, offset - 1))


@mutant("Embeddings", "Your offset is one too large: the first token stands at `offset` itself.")
class OffsetOneTooLarge(Part):
    def positions(self, ids: Tensor, offset: int) -> Tensor:
        return self.position(ids.shape[1], offset + 1 if offset else 0)


@mutant(
    "Embeddings",
    "You ask for as many positions as there are sequences: the number of tokens is `ids.shape[1]`.",
)
class AsManyPositionsAsSequences(Part):
    def positions(self, ids: Tensor, offset: int) -> Tensor:
        return self.position(ids.shape[0], offset)


@mutant(
    "Embeddings",
    "Each sequence gets a position of its own and all its tokens share it: positions are along the "
    "tokens.",
)
class PositionsAlongTheBatch(Part):
    def positions(self, ids: Tensor, offset: int) -> Tensor:
        return self.position(ids.shape[0], offset)[:, None]


@mutant(
    "Embeddings",
    "All tokens get the vector of one position: ask for `ids.shape[1]` of them.",
)
class OnePositionForAll(Part):
    def positions(self, ids: Tensor, offset: int) -> Tensor:
        return self.position(1, offset)


@mutant("Embeddings", "You multiply token and position: add them.")
class Multiplied(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        x = self.token(ids)
        return x if self.position is None else x * self.positions(ids, offset)


@mutant("Embeddings", "You take the mean of token and position: take the sum.")
class AMeanForASum(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        x = super().total(ids, offset)
        return x if self.position is None else x / 2


@mutant(
    "Embeddings",
    "You set token and position side by side: the result is as wide as the model, so add them.",
)
class SideBySide(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        x = self.token(ids)
        if self.position is None:
            return x
        return torch.cat([x, self.positions(ids, offset).expand_as(x)], dim=-1)


@mutant(
    "Embeddings",
    "Only learned positions are added: with `sinusoidal` the position part has them too.",
)
class LearnedOnly(Part):
    def is_added(self) -> bool:
        return self.config.position == "learned"


@mutant("Embeddings", "Only sinusoidal positions are added: learned ones are too.")
class SinusoidalOnly(Part):
    def is_added(self) -> bool:
        return self.config.position == "sinusoidal"


@mutant(
    "Embeddings",
    "You add positions where the config asks for rotary ones or none: rotary positions act inside "
    "attention.",
)
class AlwaysAdded(Part):
    def is_added(self) -> bool:
        return True


@mutant(
    "Embeddings",
    "You build a position part where none is added, and its weights are stored and counted: with "
    "rotary positions or none, build none.",
)
class AlwaysBuilt(Part):
    def is_added(self) -> bool:
        return True

    def total(self, ids: Tensor, offset: int) -> Tensor:
        return super().total(ids, offset) if super().is_added() else self.token(ids)


@mutant(
    "Embeddings",
    "You add positions where they are rotary: those act inside attention, and nothing is added.",
)
class AddedForRotaryToo(Part):
    def is_added(self) -> bool:
        return self.config.position != "none"


@mutant(
    "Embeddings",
    "You scale by the root of d_model once more: the token part has done so.",
)
class TokensScaledAgain(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        factor = math.sqrt(self.config.d_model) if self.config.scale_embeddings else 1.0
        x = self.token(ids) * factor
        return x if self.position is None else x + self.positions(ids, offset)


@mutant(
    "Embeddings",
    "You scale the sum by the root of d_model: only tokens are scaled, and the token part does it.",
)
class SumScaled(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        factor = math.sqrt(self.config.d_model) if self.config.scale_embeddings else 1.0
        return super().total(ids, offset) * factor


@mutant("Embeddings", "You normalise the sum: the norm belongs to the blocks.")
class Normalised(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        x = super().total(ids, offset)
        return F.layer_norm(x, x.shape[-1:])


@mutant("Embeddings", "There is no dropout: it comes after the sum, while training.")
class NeverDrops(Part):
    def drop(self, x: Tensor) -> Tensor:
        return x


@mutant(
    "Embeddings",
    "You drop in evaluation too: F.dropout needs `training=self.training`, nn.Dropout knows by "
    "itself.",
)
class DropsInEvaluation(Part):
    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout)


@mutant(
    "Embeddings",
    "You drop in evaluation too, and with a probability of your own: F.dropout needs "
    "`config.dropout` and `training=self.training`.",
)
class DropsATenthAlways(Part):
    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1)


@mutant("Embeddings", "You drop in evaluation and not while training: turn the question round.")
class DropsInEvaluationOnly(Part):
    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, not self.training)


@mutant(
    "Embeddings",
    "You drop numbers of the tokens, and the positions come through whole: drop the sum.",
)
class DropsTokens(Part):
    def forward(self, ids: Tensor, offset: int = 0) -> Tensor:
        x = self.drop(self.token(ids))
        return x if self.position is None else x + self.positions(ids, offset)


@mutant(
    "Embeddings",
    "You drop numbers of the positions, and the tokens come through whole: drop the sum.",
)
class DropsPositions(Part):
    def forward(self, ids: Tensor, offset: int = 0) -> Tensor:
        x = self.token(ids)
        return x if self.position is None else x + self.drop(self.positions(ids, offset))


@mutant(
    "Embeddings",
    "You drop tokens and positions each by itself: drop the sum, once.",
)
class DropsEachByItself(Part):
    def forward(self, ids: Tensor, offset: int = 0) -> Tensor:
        x = self.drop(self.token(ids))
        if self.position is None:
            return x
        return x + self.drop(self.positions(ids, offset).expand_as(x))


@mutant("Embeddings", "What stays is not enlarged: divide it by `1 - dropout`.")
class DroppedAndNotEnlarged(Part):
    def drop(self, x: Tensor) -> Tensor:
        kept = torch.rand_like(x) >= self.config.dropout
        return x * kept if self.training else x


@mutant("Embeddings", "You keep numbers with the probability that they should be dropped with.")
class KeepsForDrops(Part):
    def drop(self, x: Tensor) -> Tensor:
        p = self.config.dropout
        return F.dropout(x, 1 - p if p else 0.0, self.training)


@mutant("Embeddings", "You drop whole tokens: draw for each number.")
class DropsWholeTokens(Part):
    def drop(self, x: Tensor) -> Tensor:
        return x * F.dropout(torch.ones_like(x[..., :1]), self.config.dropout, self.training)


@mutant("Embeddings", "The same numbers are dropped in all sequences: draw for each number.")
class DropsAlikeInAllSequences(Part):
    def drop(self, x: Tensor) -> Tensor:
        return x * F.dropout(torch.ones_like(x[:1]), self.config.dropout, self.training)


@mutant("Embeddings", "The same channels are dropped for all tokens: draw for each number.")
class DropsAlikeForAllTokens(Part):
    def drop(self, x: Tensor) -> Tensor:
        return x * F.dropout(torch.ones_like(x[:, :1]), self.config.dropout, self.training)


@mutant(
    "Embeddings",
    "You drop with one half whatever the config says: hand on `config.dropout`.",
)
class AlwaysOneHalf(Part):
    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


@mutant(
    "Embeddings",
    "You name classes of your own in place of `parts`: then nobody can replace the two parts.",
)
class ClassesOfItsOwn(Part):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, Parts())


@mutant(
    "Embeddings",
    "You build tables inside your part: build it from `parts.token_embedding` and "
    "`parts.positional_embedding`, or other parts cannot take their places.",
)
class TablesOfTorch(Part):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, Parts())
        self.token = nn.Embedding(config.vocab_size, config.d_model)

    def total(self, ids: Tensor, offset: int) -> Tensor:
        x = self.token(ids)
        return x if self.position is None else x + self.positions(ids, offset)


@mutant(
    "Embeddings",
    "Your parts have other names than the reference's, so its weights do not load: `token` and "
    "`position`.",
)
class OtherNames(nn.Module):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__()
        self.tokens = parts.token_embedding(config)
        added = config.position in ("learned", "sinusoidal")
        self.positions = parts.positional_embedding(config) if added else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, offset: int = 0) -> Tensor:
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(ids.shape[1], offset)
        return self.dropout(x)


@mutant(
    "Embeddings",
    "The parts lie in a plain list or dictionary, where nn.Module does not find them: their "
    "parameters are not stored and not learned.",
)
class PartsInAPlainList(Part):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, parts)
        self.both = [self.token, self.position]
        del self.token, self.position

    def total(self, ids: Tensor, offset: int) -> Tensor:
        token, position = self.both
        x = token(ids)
        return x if position is None else x + position(ids.shape[1], offset)


@mutant("Embeddings", "No gradient reaches the positions: leave out detach() and .data.")
class PositionsDetached(Part):
    def positions(self, ids: Tensor, offset: int) -> Tensor:
        return super().positions(ids, offset).detach()


@mutant("Embeddings", "No gradient reaches the tokens: leave out detach() and .data.")
class TokensDetached(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        x = self.token(ids).detach()
        return x if self.position is None else x + self.positions(ids, offset)


@mutant("Embeddings", "You return float32: keep the dtype of the tables.")
class AlwaysFloat32(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        return super().total(ids, offset).float()


@rewrite("Embeddings")
class WithALayerOfTorch(nn.Module):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__()
        self.token = parts.token_embedding(config)
        if config.position in {"learned", "sinusoidal"}:
            self.position = parts.positional_embedding(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, offset: int = 0) -> Tensor:
        x = self.token(ids)
        if hasattr(self, "position"):
            x += self.position(ids.size(1), offset=offset)
        return self.drop(x)


@rewrite("Embeddings")
class WithAMaskByHand(Part):
    def drop(self, x: Tensor) -> Tensor:
        p = self.config.dropout
        if not self.training or p == 0:
            return x
        return torch.where(torch.rand_like(x) < p, torch.zeros_like(x), x / (1 - p))


@rewrite("Embeddings")
class PositionByPosition(Part):
    def total(self, ids: Tensor, offset: int) -> Tensor:
        columns = []
        for t in range(ids.shape[1]):
            x = self.token(ids[:, t : t + 1])
            columns.append(x if self.position is None else x + self.position(1, offset + t))
        return torch.cat(columns, dim=1)


@rewrite("Embeddings")
class AsASumOfTwo(nn.Module):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__()
        self.token = parts.token_embedding(config)
        none = config.position in ("rotary", "none")
        self.position = None if none else parts.positional_embedding(config)
        self.p = config.dropout_probability

    def forward(self, ids: Tensor, offset: int = 0) -> Tensor:
        terms = [self.token(ids)]
        if self.position:
            terms.append(self.position(ids.shape[-1], offset).unsqueeze(0).expand_as(terms[0]))
        return F.dropout(torch.stack(terms).sum(0), p=self.p, training=self.training)
