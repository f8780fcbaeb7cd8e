"""Module 05, wrong answers: the whole model."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import transformer
from torch import Tensor, nn

from tiny_transformer import Parts
from tiny_transformer.config import ModelConfig
from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.toy_parts import toy_parts
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite
from tiny_transformer.model.embeddings import Embeddings
from tiny_transformer.model.transformer_block import TransformerBlock
from tiny_transformer.runtime.random_state import forked_rng

SMALL = ModelConfig(
    n_layers=2, d_model=12, n_heads=3, vocab_size=11, context_length=7, dropout=0.0, norm_eps=0.05
)
TABLES = ("lm_head.weight", "embeddings.token.weight")


class Model(nn.Module):
    """The right answer, in steps that a variation can replace."""

    def __init__(self, config: ModelConfig, parts: Any = None, *, seed: int = 0) -> None:
        super().__init__()
        parts = self.choose(config, parts)
        self.config = config
        with forked_rng(seed):
            self.build(config, parts)
            self.draw()
        if config.tie_weights:
            self.tie()

    def draw(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def choose(self, config: ModelConfig, parts: Any) -> Any:
        return parts or Parts.for_config(config)

    def build(self, config: ModelConfig, parts: Any) -> None:
        self.embeddings = parts.embeddings(config, parts)
        self.blocks = self.build_blocks(config, parts)
        self.final_norm = parts.build_norm(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def build_blocks(self, config: ModelConfig, parts: Any) -> Any:
        return nn.ModuleList(parts.block(config, parts) for _ in range(config.n_layers))

    def tie(self) -> None:
        self.lm_head.weight = self.embeddings.token.weight

    def check(self, ids: Tensor) -> None:
        if ids.ndim != 2 or not 1 <= ids.shape[1] <= self.config.context_length:
            raise ValueError(f"ids of shape {tuple(ids.shape)}")

    def embed(self, ids: Tensor) -> Tensor:
        return self.embeddings(ids)

    def pass_through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def read_out(self, x: Tensor) -> Tensor:
        return self.lm_head(self.final_norm(x))

    def finish(self, logits: Tensor) -> Tensor:
        return logits if logits.dtype.itemsize >= 4 else logits.float()

    def forward(self, ids: Tensor, cache: Any = None, *, last_only: bool = False) -> Tensor:
        self.check(ids)
        x = self.pass_through(self.embed(ids))
        return self.finish(self.read_out(x[:, -1:] if last_only else x))


class PlusOne(TransformerBlock):
    """A block that only adds one."""

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        return x + 1


class Twice(Embeddings):
    """Embeddings that only double the token's vector."""

    def forward(self, ids: Tensor, offset: int = 0, before: Any = None) -> Tensor:
        return 2.0 * self.token(ids)


class Thrice(nn.LayerNorm):
    """A norm that only triples."""

    def forward(self, x: Tensor) -> Tensor:
        return 3.0 * x


@probes("Transformer")
def _(cls: Any) -> list[Any]:
    ids = torch.tensor([[1, 2, 3, 9, 0], [10, 10, 4, 5, 6]])
    models: dict[Any, Any] = {}

    def model(dtype: torch.dtype = torch.float32, parts: Any = "toys", **settings: Any) -> Any:
        """Return a model, the same one for the same arguments."""
        key = (dtype, str(parts), *settings.items())
        if key not in models:
            models[key] = build(dtype, parts, **settings)
        return models[key].eval()

    def build(dtype: torch.dtype, parts: Any, **settings: Any) -> Any:
        config = dataclasses.replace(SMALL, **settings)
        built = cls(config, toy_parts(config) if parts == "toys" else parts)
        with torch.no_grad():
            for i, (name, parameter) in enumerate(sorted(built.named_parameters())):
                drawn = draw(*parameter.shape, seed=50 + i) * 0.4
                parameter.copy_(drawn + 1 if "norm" in name and name.endswith("weight") else drawn)
        return built.to(dtype)

    def names(**settings: Any) -> str:
        state = model(**settings).state_dict()
        return str(sorted((name, tuple(tensor.shape)) for name, tensor in state.items()))

    def learned(**settings: Any) -> str:
        return str(sorted(name for name, _ in model(**settings).named_parameters()))

    def loud() -> Any:
        return Parts.for_config(SMALL, block=PlusOne, embeddings=Twice, norm=Thrice)

    def trained(seed: int, **settings: Any) -> Tensor:
        built = model(dropout=0.5, **settings).train()
        with forked_rng(seed):
            return built(ids).detach()

    def gradients(**settings: Any) -> Tensor:
        """Return the length of each parameter's gradient, -1 where there is none."""
        built = build(torch.float64, "toys", **settings)
        built(ids).square().sum().backward()
        named = sorted(built.named_parameters())
        return torch.tensor([-1.0 if p.grad is None else p.grad.norm().item() for _, p in named])

    def first_weights(a: int, b: int) -> bool:
        torch.rand(1)
        one = [
            p.detach().clone()
            for _, p in sorted(cls(SMALL, toy_parts(SMALL), seed=a).named_parameters())
        ]
        torch.rand(1)
        two = [
            p.detach() for _, p in sorted(cls(SMALL, toy_parts(SMALL), seed=b).named_parameters())
        ]
        return all(torch.equal(x, y) for x, y in zip(one, two, strict=True))

    def begins_equal() -> bool:
        new = cls(SMALL, toy_parts(SMALL))
        return torch.equal(*(new.get_parameter(name) for name in TABLES))

    def sizes(chosen: Any) -> list[int]:
        config = dataclasses.replace(SMALL, d_model=24)
        new = cls(config, toy_parts(config), seed=1)
        named = sorted(new.named_parameters())
        return [round(200 * p.detach().std().item()) for name, p in named if chosen(name)]

    def generator_kept() -> bool:
        before = torch.random.get_rng_state()
        cls(SMALL, toy_parts(SMALL), seed=3)
        return torch.equal(before, torch.random.get_rng_state())

    def unless_refused(ids: Tensor, **settings: Any) -> Any:
        try:
            return list(model(**settings)(ids).shape)
        except Exception:
            return "refused"

    def modes() -> list[bool]:
        built = model(dropout=0.5)
        return [built.training, any(module.training for module in built.modules())]

    return [
        names,
        lambda: names(tie_weights=False),
        learned,
        lambda: learned(tie_weights=False),
        lambda: model().config == SMALL,
        lambda: [type(m).__name__ for m in [model().blocks, model().lm_head]],
        lambda: model()(ids),
        lambda: model()(ids[:, :1]),
        lambda: model()(torch.tensor([[4, 4, 4]])),
        lambda: model(parts=loud())(ids),
        lambda: model(parts=None)(ids),
        lambda: model(parts=None, position="none", bias=False)(ids),
        lambda: names(parts=None),
        lambda: model(n_layers=3)(ids),
        lambda: model(tie_weights=False)(ids),
        lambda: model(position="rotary", norm="rms_norm", n_heads=2)(ids),
        lambda: model()(ids, last_only=True),
        lambda: model()(ids[:, :1], last_only=True),
        lambda: model(torch.float64)(ids),
        lambda: model(torch.bfloat16)(ids).dtype == torch.float32,
        lambda: model(dropout=0.5)(ids),
        lambda: trained(1),
        lambda: unless_refused(torch.zeros(2, 8, dtype=torch.int64)),
        lambda: unless_refused(torch.tensor([1, 2, 3])),
        begins_equal,
        lambda: changed(model(), ids.clone()),
        gradients,
        lambda: gradients(tie_weights=False),
        lambda: first_weights(3, 3),
        lambda: first_weights(3, 4),
        lambda: sizes(lambda name: "embeddings" in name),
        lambda: sizes(lambda name: "bias" in name),
        lambda: sizes(lambda name: "mlp.weight" in name or "lm_head" in name),
        generator_kept,
        modes,
        lambda: model().train()(ids),
    ]


# assembly


@mutant(
    "Transformer",
    "Your blocks are in a plain Python list, which hides them: no parameters, no .to(), no "
    ".train(). Use nn.ModuleList.",
)
class BlocksInAList(Model):
    def build_blocks(self, config: ModelConfig, parts: Any) -> Any:
        return list(super().build_blocks(config, parts))


@mutant(
    "Transformer",
    "All your layers are one block, used again and again: `[block] * n_layers` repeats a "
    "reference. Build a new block for each layer.",
)
class OneBlockForAll(Model):
    def build_blocks(self, config: ModelConfig, parts: Any) -> Any:
        return nn.ModuleList([parts.block(config, parts)] * config.n_layers)


@mutant(
    "Transformer",
    "Your blocks are an nn.Sequential under another name, or stand in the model one by one. The "
    "parameters of layer 0 begin with `blocks.0.`.",
)
class BlocksOfAnotherName(Model):
    def build_blocks(self, config: ModelConfig, parts: Any) -> Any:
        self.layers = super().build_blocks(config, parts)
        return None

    def pass_through(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x)
        return x


@mutant(
    "Transformer",
    "You build from the reference's classes, whatever `parts` names: use `parts.embeddings`, "
    "`parts.block` and `parts.build_norm`.",
)
class PartsIgnored(Model):
    def choose(self, config: ModelConfig, parts: Any) -> Any:
        return Parts.for_config(config)


@mutant(
    "Transformer",
    "Your final norm is always a plain nn.LayerNorm: `parts.build_norm(config)` makes the one that "
    "the config and the parts ask for.",
)
class FinalNormOfItsOwn(Model):
    def build(self, config: ModelConfig, parts: Any) -> None:
        super().build(config, parts)
        self.final_norm = nn.LayerNorm(config.d_model)


@mutant("Transformer", "Your head has a bias. It is a linear layer without one.")
class HeadWithABias(Model):
    def build(self, config: ModelConfig, parts: Any) -> None:
        super().build(config, parts)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size)


@mutant("Transformer", "You do not keep the config: `self.config = config`.")
class WithoutItsConfig(Model):
    def __init__(self, config: ModelConfig, parts: Any = None, *, seed: int = 0) -> None:
        super().__init__(config, parts, seed=seed)
        self.config = dataclasses.replace(config, n_layers=config.n_layers + 1)


# tying


@mutant(
    "Transformer",
    "Your head is never tied to the token embedding. It is where `config.tie_weights`.",
)
class NeverTied(Model):
    def tie(self) -> None:
        pass


@mutant(
    "Transformer",
    "Your head is always tied. It is only where `config.tie_weights`.",
)
class AlwaysTied(Model):
    def build(self, config: ModelConfig, parts: Any) -> None:
        super().build(config, parts)
        self.tie()


@mutant(
    "Transformer",
    "You copy the table's numbers into the head: they are equal at first, and part at the first "
    "step. Assign the parameter.",
)
class TiedByACopy(Model):
    def tie(self) -> None:
        table = self.embeddings.token.weight
        self.lm_head.weight = nn.Parameter(table.detach().clone())


# the forward pass


@mutant(
    "Transformer",
    "The final norm is missing in `forward`: Pre-LN blocks never normalise the stream itself.",
)
class WithoutTheFinalNorm(Model):
    def read_out(self, x: Tensor) -> Tensor:
        return self.lm_head(x)


@mutant("Transformer", "You normalise after every block. `final_norm` comes once, after the last.")
class NormAfterEveryBlock(Model):
    def pass_through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.final_norm(block(x))
        return x


@mutant("Transformer", "You add the block's input to its output. The block does that inside.")
class ResidualAroundTheBlock(Model):
    def pass_through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


@mutant("Transformer", "Your blocks run in the wrong order: the first is `blocks[0]`.")
class BlocksBackwards(Model):
    def pass_through(self, x: Tensor) -> Tensor:
        for block in reversed(self.blocks):
            x = block(x)
        return x


@mutant(
    "Transformer",
    "Each block reads the embeddings, and not what the block before it made: `x = block(x)`.",
)
class BlocksSideBySide(Model):
    def pass_through(self, x: Tensor) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(x)
        return y


@mutant("Transformer", "You skip the last block.")
class LastBlockSkipped(Model):
    def pass_through(self, x: Tensor) -> Tensor:
        for block in self.blocks[:-1]:
            x = block(x)
        return x


@mutant(
    "Transformer",
    "You do not use positions: call `self.embeddings(ids)`, which adds them, and not its `token` "
    "alone.",
)
class TokensAlone(Model):
    def embed(self, ids: Tensor) -> Tensor:
        return self.embeddings.token(ids)


@mutant("Transformer", "Your positions begin at 1: the first token stands at position 0.")
class PositionsFromOne(Model):
    def embed(self, ids: Tensor) -> Tensor:
        return self.embeddings(ids, 1)


@mutant("Transformer", "You return probabilities. Return logits, without a softmax.")
class Probabilities(Model):
    def finish(self, logits: Tensor) -> Tensor:
        return super().finish(logits).softmax(-1)


@mutant(
    "Transformer",
    "You return the last position's logits always: in training, all positions count.",
)
class LastPositionAlways(Model):
    def finish(self, logits: Tensor) -> Tensor:
        return super().finish(logits)[:, -1:]


@mutant("Transformer", "You do not use `last_only`.")
class LastOnlyIgnored(Model):
    def forward(self, ids: Tensor, cache: Any = None, *, last_only: bool = False) -> Tensor:
        return super().forward(ids, cache)


@mutant(
    "Transformer",
    "With `last_only` you return (B, V). Keep the axis of positions: (B, 1, V).",
)
class LastOnlyWithoutItsAxis(Model):
    def forward(self, ids: Tensor, cache: Any = None, *, last_only: bool = False) -> Tensor:
        logits = super().forward(ids, cache)
        return logits[:, -1] if last_only else logits


@mutant(
    "Transformer",
    "With `last_only` you give the blocks the last token alone: it needs those before it. Take the "
    "last position after the blocks.",
)
class LastTokenAlone(Model):
    def forward(self, ids: Tensor, cache: Any = None, *, last_only: bool = False) -> Tensor:
        return super().forward(ids[:, -1:] if last_only else ids, cache)


@mutant(
    "Transformer",
    "The logits of a bfloat16 model are bfloat16 with you: return float32 there.",
)
class LogitsOfAnyDtype(Model):
    def finish(self, logits: Tensor) -> Tensor:
        return logits


@mutant("Transformer", "You turn every logit into float32, those of a float64 model too.")
class LogitsAlwaysFloat32(Model):
    def finish(self, logits: Tensor) -> Tensor:
        return logits.float()


@mutant(
    "Transformer",
    "You take more tokens than the context holds: compare `ids.shape[1]` with "
    "`config.context_length`.",
)
class AnyLength(Model):
    def check(self, ids: Tensor) -> None:
        if ids.ndim != 2:
            raise ValueError("two axes")


@mutant(
    "Transformer",
    "You crop ids that are too long. Raise: whoever calls has to know what was read.",
)
class CropsTooMany(Model):
    def forward(self, ids: Tensor, cache: Any = None, *, last_only: bool = False) -> Tensor:
        return super().forward(ids[:, -self.config.context_length :], cache, last_only=last_only)


@mutant(
    "Transformer",
    "Dropout is on in evaluation: something in your model drops whatever `self.training` says.",
)
class DropsInEvaluation(Model):
    def embed(self, ids: Tensor) -> Tensor:
        return F.dropout(super().embed(ids), self.config.dropout)


@mutant(
    "Transformer",
    "You add dropout of your own after the blocks. The parts do all the dropping.",
)
class DropoutOfItsOwn(Model):
    def pass_through(self, x: Tensor) -> Tensor:
        return F.dropout(super().pass_through(x), self.config.dropout, self.training)


@mutant(
    "Transformer",
    "Your model cannot learn: `forward` runs without gradients, or detaches.",
)
class WithoutGradients(Model):
    def pass_through(self, x: Tensor) -> Tensor:
        return super().pass_through(x).detach()


@mutant(
    "Transformer",
    "The embeddings do not learn: their output is detached.",
)
class EmbeddingsDetached(Model):
    def embed(self, ids: Tensor) -> Tensor:
        return super().embed(ids).detach()


# first weights


@mutant(
    "Transformer",
    "Building the model draws from PyTorch's global generator, and shifts everybody else's random "
    "numbers: build inside `forked_rng(seed)` or torch.random.fork_rng().",
)
class DrawsFromTheGlobalGenerator(Model):
    def __init__(self, config: ModelConfig, parts: Any = None, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        nn.Module.__init__(self)
        self.config = config
        self.build(config, self.choose(config, parts))
        self.draw()
        if config.tie_weights:
            self.tie()


@mutant(
    "Transformer",
    "You leave the first weights as the layers make them: tables of zeros, from which nothing is "
    "learned, and matrices that are too large. Draw every matrix and table.",
)
class WeightsAsTheyAreMade(Model):
    def draw(self) -> None:
        pass


@mutant(
    "Transformer",
    "Your first weights are too large, and so are the first logits: their deviation is 0.02.",
)
class WeightsTooLarge(Model):
    def draw(self) -> None:
        super().draw()
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter)


@mutant(
    "Transformer",
    "You leave the biases as nn.Linear makes them, at random. They begin with 0.",
)
class BiasesAtRandom(Model):
    def draw(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)


@mutant(
    "Transformer",
    "You do not use `seed`: the same weights, whatever it is.",
)
class SeedIgnored(Model):
    def __init__(self, config: ModelConfig, parts: Any = None, *, seed: int = 0) -> None:
        super().__init__(config, parts)


@mutant(
    "Transformer",
    "You do not seed: models with the same seed begin with different weights.",
)
class NotSeeded(Model):
    def __init__(self, config: ModelConfig, parts: Any = None, *, seed: int = 0) -> None:
        super().__init__(config, parts, seed=int(torch.randint(2**30, (1,))) + seed)


# right answers in other words


@rewrite("Transformer")
class InOneGo(nn.Module):
    def __init__(self, config: ModelConfig, parts: Any = None, *, seed: int = 0) -> None:
        super().__init__()
        if parts is None:
            parts = Parts.for_config(config)
        self.config = config
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        self.embeddings = parts.embeddings(config, parts)
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layers):
            self.blocks.append(parts.block(config, parts))
        self.final_norm = parts.build_norm(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, False)
        self.apply(self.draw)
        torch.random.set_rng_state(state)
        if config.tie_weights:
            transformer.tie_weights(self)

    @staticmethod
    def draw(module: nn.Module) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                parameter.data.normal_(mean=0.0, std=0.02)
            if name == "bias":
                parameter.data.zero_()

    def forward(self, ids: Tensor, cache: Any = None, *, last_only: bool = False) -> Tensor:
        _, T = ids.shape
        assert self.config.context_length >= T, "too long"
        x = self.embeddings(ids)
        for i in range(self.config.n_layers):
            x = self.blocks[i](x)
        logits = self.lm_head(self.final_norm(x))
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.to(torch.float32)
        return logits[:, T - 1 :] if last_only else logits


@rewrite("Transformer")
class HeadAsAProduct(Model):
    def read_out(self, x: Tensor) -> Tensor:
        return self.final_norm(x) @ self.lm_head.weight.mT


@rewrite("Transformer")
class WithAGeneratorOfItsOwn(Model):
    def __init__(self, config: ModelConfig, parts: Any = None, *, seed: int = 0) -> None:
        super().__init__(config, parts, seed=seed)
        source = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    branch = name.endswith(("o_proj.weight", "down_proj.weight"))
                    std = 0.02 / math.sqrt(2 * config.n_layers) if branch else 0.02
                    parameter.copy_(torch.randn(parameter.shape, generator=source) * std)


@rewrite("Transformer")
class PassingTheStreamOn(Model):
    def pass_through(self, x: Tensor, first: int = 0) -> Tensor:
        if first == len(self.blocks):
            return x
        return self.pass_through(self.blocks[first](x), first + 1)

    def read_out(self, x: Tensor) -> Tensor:
        return torch.einsum("btc,vc->btv", self.final_norm(x), self.lm_head.weight)
