"""Module 04, wrong answers: the part that has a vector for each position."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import positional
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.inputs import draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite


class Part(nn.Module):
    """The right answer, in steps that a variation can replace."""

    weight: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if self.is_learned():
            self.weight = nn.Parameter(torch.zeros(self.size()))
        else:
            self.keep(self.table())

    def is_learned(self) -> bool:
        return self.config.position == "learned"

    def size(self) -> tuple[int, int]:
        return self.config.context_length, self.config.d_model

    def table(self) -> Tensor:
        return positional.sinusoidal_table(*self.size(), base=self.config.rotary_base)

    def keep(self, table: Tensor) -> None:
        self.register_buffer("weight", table, persistent=False)

    def forward(self, length: int, offset: int = 0) -> Tensor:
        return self.weight[offset : offset + length]


@probes("PositionalEmbedding")
def _(cls: Any) -> list[Any]:
    def part(position: str = "learned", dtype: Any = torch.float32, **settings: Any) -> nn.Module:
        plain = {"d_model": 6, "n_heads": 2, "context_length": 9, "dropout": 0.5, "vocab_size": 11}
        built = cls(ModelConfig(**{**plain, "position": position, **settings}))
        with torch.no_grad():
            for _, parameter in built.named_parameters():
                if position == "learned":
                    parameter.copy_(draw(*parameter.shape, seed=20))
        return built.to(dtype)

    def shapes(position: str, **settings: Any) -> list[Any]:
        built = part(position, **settings)
        stored = [(n, tuple(p.shape)) for n, p in sorted(built.state_dict().items())]
        return [*stored, *(name for name, _ in built.named_parameters())]

    def gradient() -> Any:
        built = part(dtype=torch.float64)
        built(3, 2).backward(draw(3, 6, seed=9, dtype=torch.float64))
        found = next(iter(built.parameters())).grad
        return "none" if found is None else found

    def dropped() -> bool:
        return (part("sinusoidal").train()(9)[:, 1::2] == 0).float().mean().item() > 0.2

    return [
        lambda: shapes("learned"),
        lambda: shapes("learned", context_length=4, d_model=8),
        lambda: shapes("sinusoidal"),
        lambda: part().eval()(4),
        lambda: part().eval()(9),
        lambda: part().eval()(1, 1),
        lambda: part().eval()(1, 8),
        lambda: part().eval()(3, 2),
        lambda: part().eval()(2, 5),
        lambda: part().eval()(3, offset=4),
        lambda: part("sinusoidal").eval()(9),
        lambda: part("sinusoidal").eval()(2, 3),
        lambda: part("sinusoidal", context_length=5, d_model=8).eval()(5),
        lambda: part("sinusoidal", rotary_base=100.0).eval()(9),
        lambda: part("sinusoidal", context_length=600, d_model=2).eval()(1, 599),
        lambda: part("sinusoidal", dtype=torch.float64).eval()(3).dtype,
        lambda: part("learned", dtype=torch.float64).eval()(3),
        lambda: part("sinusoidal").to("meta")(3).device.type,
        lambda: part("learned", scale_embeddings=True).eval()(3),
        lambda: part("sinusoidal").eval()(3).requires_grad,
        gradient,
        dropped,
    ]


@mutant(
    "PositionalEmbedding",
    "You ignore the offset: the first vector is always that of position 0. With a cache, a new "
    "token stands after those that are kept.",
)
class IgnoresTheOffset(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return self.weight[:length]


@mutant(
    "PositionalEmbedding",
    "Your slice ends at `length`: it should end at `offset + length`.",
)
class EndsAtTheLength(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return self.weight[offset:length]


@mutant(
    "PositionalEmbedding",
    "You return all positions: `length` of them are wanted.",
)
class AllPositions(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return self.weight


@mutant(
    "PositionalEmbedding",
    "You return everything from the offset on: stop after `length` positions.",
)
class AllFromTheOffset(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return self.weight[offset:]


@mutant(
    "PositionalEmbedding",
    "Your offset is one too large: the first vector is that of position `offset`.",
)
class OneTooFar(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        start = offset + 1 if offset else 0
        return self.weight[start : start + length]


@mutant(
    "PositionalEmbedding",
    "Your offset is one too small: the first vector is that of position `offset`.",
)
class OneTooNear(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        start = max(0, offset - 1)
        return self.weight[start : start + length]


@mutant(
    "PositionalEmbedding",
    "You take the last `length` positions of the table: take those from `offset` on.",
)
class TheLastOfTheTable(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return self.weight[-length:]


@mutant(
    "PositionalEmbedding",
    "You return one vector, that of the offset: return `length` of them.",
)
class OneForAll(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return self.weight[offset].expand(length, -1)


@mutant(
    "PositionalEmbedding",
    "Your positions run backwards: the first is `offset`, the next `offset + 1`.",
)
class Backwards(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return super().forward(length, offset).flip(0)


@mutant(
    "PositionalEmbedding",
    "You exchange `length` and `offset`: forward takes the length first.",
)
class LengthAndOffsetExchanged(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return self.weight[length : length + max(offset, 1)]


@mutant("PositionalEmbedding", "There is an axis for the batch: return (length, d_model).")
class AnAxisForTheBatch(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return super().forward(length, offset)[None]


@mutant(
    "PositionalEmbedding",
    "You always learn the positions: with `sinusoidal`, take the table of sines and cosines.",
)
class AlwaysLearned(Part):
    def is_learned(self) -> bool:
        return True


@mutant(
    "PositionalEmbedding",
    "You never learn the positions: with `learned`, make a table that is an nn.Parameter.",
)
class NeverLearned(Part):
    def is_learned(self) -> bool:
        return False


@mutant(
    "PositionalEmbedding",
    "Your sines and cosines are an nn.Parameter, so training changes them: register a buffer.",
)
class WavesThatAreLearned(Part):
    def keep(self, table: Tensor) -> None:
        self.weight = nn.Parameter(table)


@mutant(
    "PositionalEmbedding",
    "Your sines and cosines are a parameter that needs no gradient. It is stored and counted all "
    "the same: register a buffer with persistent=False.",
)
class AFrozenParameter(Part):
    def keep(self, table: Tensor) -> None:
        self.weight = nn.Parameter(table, requires_grad=False)


@mutant(
    "PositionalEmbedding",
    "Your sines and cosines are stored with the weights, so those of the reference do not load: "
    "register the buffer with persistent=False.",
)
class StoredWaves(Part):
    def keep(self, table: Tensor) -> None:
        self.register_buffer("weight", table)


@mutant(
    "PositionalEmbedding",
    "Your sines and cosines are a plain tensor, or made anew each time, and stay behind when the "
    "model moves to a GPU or to another dtype: register a buffer.",
)
class WavesThatStayBehind(Part):
    def keep(self, table: Tensor) -> None:
        self.weight = table


@mutant("PositionalEmbedding", "You use the base 10000 whatever `config.rotary_base` is.")
class OneBaseForAll(Part):
    def table(self) -> Tensor:
        return positional.sinusoidal_table(*self.size())


@mutant(
    "PositionalEmbedding",
    "Your sines and cosines do not take turns: use your `sinusoidal_table`.",
)
class SinesFirst(Part):
    def table(self) -> Tensor:
        table = super().table()
        return torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)


@mutant(
    "PositionalEmbedding",
    "You hand the sizes to the table in the wrong order: context_length rows, d_model columns.",
)
class SizesExchanged(Part):
    def table(self) -> Tensor:
        length, width = self.size()
        return positional.sinusoidal_table(width, length + length % 2, self.config.rotary_base)


@mutant(
    "PositionalEmbedding",
    "Your sines and cosines have a fixed number of rows, and a longer context runs off their end: "
    "make `config.context_length` of them.",
)
class AFixedNumberOfRows(Part):
    def table(self) -> Tensor:
        return positional.sinusoidal_table(512, self.size()[1], self.config.rotary_base)


@mutant(
    "PositionalEmbedding",
    "Your learned table has a row for each token of the vocabulary: it has one for each position, "
    "context_length rows.",
)
class RowsForTokens(Part):
    def size(self) -> tuple[int, int]:
        return self.config.vocab_size, self.config.d_model


@mutant(
    "PositionalEmbedding",
    "Your learned table has a row too many: positions 0 to context_length - 1.",
)
class ARowMore(Part):
    def size(self) -> tuple[int, int]:
        return self.config.context_length + 1, self.config.d_model


@mutant(
    "PositionalEmbedding",
    "Your learned table lies in a layer inside the part, so it is called `embedding.weight`, and "
    "the reference's does not load: make it `self.weight`.",
)
class InALayerOfItsOwn(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = (config.context_length, config.d_model)
        self.embedding = nn.Embedding(*size)
        if config.position != "learned":
            table = positional.sinusoidal_table(*size, base=config.rotary_base)
            del self.embedding
            self.register_buffer("table", table, persistent=False)

    def forward(self, length: int, offset: int = 0) -> Tensor:
        table = (
            self.get_buffer("table")
            if "table" in dict(self.named_buffers())
            else self.embedding.weight
        )
        return table[offset : offset + length]


@mutant(
    "PositionalEmbedding",
    "Your learned positions are a buffer, which is stored and never learned: wrap the table in "
    "nn.Parameter.",
)
class ABufferForAParameter(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if self.is_learned():
            del self.weight
            self.register_buffer("weight", torch.zeros(self.size()))


@mutant("PositionalEmbedding", "No gradient reaches the table: leave out detach() and .data.")
class TableDetached(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return super().forward(length, offset).detach()


@mutant(
    "PositionalEmbedding",
    "You scale positions by the root of d_model. `scale_embeddings` is about tokens.",
)
class ScaledToo(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        factor = math.sqrt(self.config.d_model) if self.config.scale_embeddings else 1.0
        return super().forward(length, offset) * factor


@mutant(
    "PositionalEmbedding",
    "You drop numbers while training. Dropout comes after the sum with the tokens, in "
    "`Embeddings`.",
)
class DropsHere(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return F.dropout(super().forward(length, offset), self.config.dropout, self.training)


@mutant("PositionalEmbedding", "You return float32 whatever the table is: keep its dtype.")
class AlwaysFloat32(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return super().forward(length, offset).float()


@mutant(
    "PositionalEmbedding",
    "Your rows are made as long as one: take the table as it is.",
)
class OfLengthOne(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return F.normalize(super().forward(length, offset), dim=-1)


@rewrite("PositionalEmbedding")
class ByIndices(nn.Module):
    weight: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        shape = (config.context_length, config.d_model)
        if config.position == "learned":
            self.weight = nn.Parameter(torch.randn(shape) * 0.02)
        else:
            waves = positional.sinusoidal_table(*shape, config.rotary_base)
            self.register_buffer("weight", waves, persistent=False)

    def forward(self, length: int, offset: int = 0) -> Tensor:
        places = torch.arange(offset, offset + length, device=self.weight.device)
        return F.embedding(places, self.weight)


@rewrite("PositionalEmbedding")
class TwoNames(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.learned = config.position == "learned"
        if self.learned:
            self.weight = nn.Parameter(torch.empty(config.context_length, config.d_model))
            nn.init.normal_(self.weight, std=0.02)
            return
        angles = positional.rotary_angles(
            torch.arange(config.context_length), config.d_model, config.rotary_base
        )
        waves = torch.zeros(config.context_length, config.d_model)
        waves[:, 0::2], waves[:, 1::2] = angles.sin(), angles.cos()
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, length: int, offset: int = 0) -> Tensor:
        table = self.weight if self.learned else self.get_buffer("waves")
        return table.narrow(0, offset, length)


@rewrite("PositionalEmbedding")
class RowByRow(Part):
    def forward(self, length: int, offset: int = 0) -> Tensor:
        return torch.stack([self.weight[offset + t] for t in range(length)])
