"""Module 03, wrong answers: the whole block."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite
from tiny_transformer.model.parts import Parts


class Block(nn.Module):
    """The right answer, in steps that a variation can replace."""

    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__()
        self.norm1 = parts.build_norm(config)
        self.attention = parts.attention(config)
        self.norm2 = parts.build_norm(config)
        self.mlp = parts.mlp(config)
        self.p = config.dropout

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def attend(self, x: Tensor) -> Tensor:
        return self.drop(self.attention(self.norm1(x)))

    def feed(self, x: Tensor) -> Tensor:
        return self.drop(self.mlp(self.norm2(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)
        return x + self.feed(x)


class Change(nn.Module):
    """A part that does something simple, and counts its calls."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change, self.calls = change, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.change(x)


@probes("TransformerBlock")
def _(cls: Any) -> list[Any]:
    def config(**settings: Any) -> ModelConfig:
        plain = {"d_model": 12, "n_heads": 3, "context_length": 9, "dropout": 0.0, "d_ff": 10}
        return ModelConfig(**{**plain, "norm_eps": 0.3, **settings})

    def block(dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
        kind = config(**settings)
        built = cls(kind, Parts.for_config(kind))
        with torch.no_grad():
            for i, (_, parameter) in enumerate(sorted(built.named_parameters())):
                parameter.copy_(draw(*parameter.shape, seed=20 + i) * 0.5)
        return built.to(dtype)

    def shapes(**settings: Any) -> list[Any]:
        kind = config(**settings)
        built = cls(kind, Parts.for_config(kind))
        return [(n, tuple(p.shape)) for n, p in sorted(built.state_dict().items())]

    def learned() -> list[str]:
        return sorted(name for name, _ in block().named_parameters())

    def simple(norms: list[float], attention: Any, mlp: Any, p: float = 0.0, C: int = 2) -> Any:
        made = iter([Change(lambda x, n=n: n * x) for n in norms])
        parts = SimpleNamespace(
            build_norm=lambda config: next(made),
            attention=lambda config: attention,
            mlp=lambda config: mlp,
        )
        return cls(config(d_model=C, n_heads=1, dropout=p), parts)

    def by_hand() -> list[Any]:
        attention, mlp = Change(lambda x: x + 100), Change(lambda x: 3 * x)
        built = simple([0.5, 0.25], attention, mlp)
        return [built(torch.tensor([[[2.0, 4.0]]])), attention.calls, mlp.calls]

    def of_zeros() -> Tensor:
        zero = Change(torch.zeros_like)
        return simple([0.5, 0.25], zero, zero)(draw(2, 3, 2))

    def added(p: float, attention: float, mlp: float) -> Tensor:
        one, two = (Change(lambda x, v=v: torch.full_like(x, v)) for v in (attention, mlp))
        built = simple([1.0, 1.0], one, two, p, 40).train()
        return built(torch.ones(20, 5, 40)) - 1

    def kinds(p: float, attention: float, mlp: float) -> list[float]:
        return (added(p, attention, mlp) * 100).round().unique().tolist()[:6]

    def share(p: float, attention: float, mlp: float) -> int:
        gone = (added(p, attention, mlp).abs() < 1e-3).float().mean().item()
        return round(gone * 10)

    def both_or_none() -> bool:
        change = added(0.5, 1000.0, 1.0)
        return bool(((change > 1000) == (change % 1000 > 0.5)).float().mean() > 0.8)

    def whole_tokens() -> bool:
        gone = (added(0.5, 1000.0, 0.0).abs() < 1e-3).float()
        return bool(gone.mean(dim=-1).std() > 0.3)

    def reads() -> list[Any]:
        seen: list[Tensor] = []

        def remember(x: Tensor) -> Tensor:
            seen.append((x.detach() * 100).round().unique()[:5])
            return torch.zeros_like(x)

        built = simple([1.0, 1.0], Change(remember), Change(remember), 0.5, 20).train()
        built(torch.ones(4, 5, 20))
        return seen

    def stream() -> list[float]:
        zero = Change(torch.zeros_like)
        built = simple([1.0, 1.0], zero, zero, 0.5, 20).train()
        return (built(torch.ones(4, 5, 20)) * 100).round().unique().tolist()[:6]

    def gradients() -> list[Any]:
        built, x = block(torch.float64), draw(2, 5, 12).double().requires_grad_()
        built(x).backward(draw(2, 5, 12, seed=9).double())
        leaves = [x, *(p for _, p in sorted(built.named_parameters()))]
        return [leaf.grad if leaf.grad is not None else "none" for leaf in leaves]

    return [
        shapes,
        learned,
        by_hand,
        of_zeros,
        lambda: block().eval()(draw(2, 5, 12)),
        lambda: block(dropout=0.5).eval()(draw(2, 5, 12)),
        lambda: kinds(0.5, 1000.0, 0.0),
        lambda: kinds(0.5, 0.0, 1.0),
        lambda: share(0.25, 300.0, 0.0),
        lambda: share(0.25, 0.0, 3.0),
        both_or_none,
        whole_tokens,
        reads,
        stream,
        lambda: block(torch.float64).eval()(draw(2, 5, 12, dtype=torch.float64)),
        lambda: changed(block().eval(), draw(2, 5, 12)),
        gradients,
    ]


# Norms in the wrong place


@mutant(
    "TransformerBlock",
    "Your block is Post-LN: it normalises the sums. Here the norm stands before each part, and "
    "nothing touches the stream.",
)
class PostNorm(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.drop(self.attention(x)))
        return self.norm2(x + self.drop(self.mlp(x)))


@mutant(
    "TransformerBlock",
    "You normalise what the parts answer. The norm stands in front of each part, on what it reads.",
)
class NormsBehindTheParts(Block):
    def attend(self, x: Tensor) -> Tensor:
        return self.drop(self.norm1(self.attention(x)))

    def feed(self, x: Tensor) -> Tensor:
        return self.drop(self.norm2(self.mlp(x)))


@mutant(
    "TransformerBlock",
    "You add to the normalised stream. Only the part reads the normalised copy; the stream itself "
    "goes on as it was: `x = x + attention(norm1(x))`.",
)
class AddsToTheNormalised(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        x = x + self.drop(self.attention(x))
        x = self.norm2(x)
        return x + self.drop(self.mlp(x))


@mutant("TransformerBlock", "The attention reads the stream as it is: `norm1` comes first.")
class AttentionWithoutANorm(Block):
    def attend(self, x: Tensor) -> Tensor:
        return self.drop(self.attention(x))


@mutant("TransformerBlock", "The MLP reads the stream as it is: normalise with `norm2` first.")
class MlpWithoutANorm(Block):
    def feed(self, x: Tensor) -> Tensor:
        return self.drop(self.mlp(x))


@mutant("TransformerBlock", "Neither part reads a normalised stream: use `norm1` and `norm2`.")
class NoNorms(Block):
    def attend(self, x: Tensor) -> Tensor:
        return self.drop(self.attention(x))

    def feed(self, x: Tensor) -> Tensor:
        return self.drop(self.mlp(x))


@mutant("TransformerBlock", "`norm1` stands before both parts: the MLP has `norm2`.")
class FirstNormTwice(Block):
    def feed(self, x: Tensor) -> Tensor:
        return self.drop(self.mlp(self.norm1(x)))


@mutant("TransformerBlock", "The two norms are exchanged: `norm1` is the attention's.")
class NormsExchanged(Block):
    def attend(self, x: Tensor) -> Tensor:
        return self.drop(self.attention(self.norm2(x)))

    def feed(self, x: Tensor) -> Tensor:
        return self.drop(self.mlp(self.norm1(x)))


@mutant(
    "TransformerBlock",
    "Both names stand for one norm, built once: each part has a norm of its own, so ask "
    "`parts.build_norm` twice.",
)
class OneNormForBoth(Block):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, parts)
        self.norm2 = self.norm1


@mutant(
    "TransformerBlock",
    "The block's output is normalised. The next block does that where it reads, and the model has "
    "a last norm of its own.",
)
class NormalisedAtTheEnd(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.layer_norm(x, x.shape[-1:])


# Residuals


@mutant("TransformerBlock", "What the attention answers replaces the stream: add it.")
class NoFirstResidual(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(x)
        return x + self.feed(x)


@mutant("TransformerBlock", "What the MLP answers replaces the stream: add it.")
class NoSecondResidual(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)
        return self.feed(x)


@mutant("TransformerBlock", "There are no residuals: add what each part answers to the stream.")
class NoResiduals(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.feed(self.attend(x))


@mutant(
    "TransformerBlock",
    "Both parts read the same stream, side by side. Here the MLP reads what the attention has "
    "already added to.",
)
class SideBySide(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.attend(x) + self.feed(x)


@mutant(
    "TransformerBlock",
    "Both parts read the same `norm1(x)`, side by side. The MLP reads what the attention has "
    "already added to, by `norm2`.",
)
class BothReadTheFirstNorm(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        return x + self.drop(self.attention(y)) + self.drop(self.mlp(y))


@mutant(
    "TransformerBlock",
    "The second sum begins from the block's input, so what the attention added is lost: "
    "the MLP's answer is added to the stream as it is then.",
)
class SecondSumFromTheInput(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = x + self.attend(x)
        return x + self.feed(y)


@mutant("TransformerBlock", "The MLP comes before the attention: it is the other way round.")
class MlpFirst(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.feed(x)
        return x + self.attend(x)


@mutant("TransformerBlock", "There is no MLP: the second line is missing.")
class WithoutTheMlp(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.attend(x)


@mutant(
    "TransformerBlock",
    "The sums are divided by the root of 2. They are plain sums.",
)
class SumsDivided(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = (x + self.attend(x)) / math.sqrt(2)
        return (x + self.feed(x)) / math.sqrt(2)


# Dropout


@mutant("TransformerBlock", "Nothing is dropped in training: use `config.dropout`.")
class NeverDrops(Block):
    def drop(self, x: Tensor) -> Tensor:
        return x


@mutant("TransformerBlock", "Numbers are dropped in evaluation too: ask `self.training`.")
class DropsInEvaluation(Block):
    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p)


@mutant("TransformerBlock", "Numbers are dropped in evaluation and not in training.")
class DropsInEvaluationOnly(Block):
    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, not self.training)


@mutant(
    "TransformerBlock",
    "You drop numbers of the stream, after the sum. Drop what a branch adds, before it is added.",
)
class DropsTheStream(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(x + self.attention(self.norm1(x)))
        return self.drop(x + self.mlp(self.norm2(x)))


@mutant(
    "TransformerBlock",
    "In the second line you drop numbers of the stream, after the sum. Drop what the MLP adds, "
    "before it is added, as in the first.",
)
class DropsTheStreamAtTheEnd(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)
        return self.drop(x + self.mlp(self.norm2(x)))


@mutant(
    "TransformerBlock",
    "You drop numbers of what the parts read. Drop numbers of what they answer.",
)
class DropsWhatIsRead(Block):
    def attend(self, x: Tensor) -> Tensor:
        return self.attention(self.drop(self.norm1(x)))

    def feed(self, x: Tensor) -> Tensor:
        return self.mlp(self.drop(self.norm2(x)))


@mutant("TransformerBlock", "Nothing is dropped of what the MLP adds.")
class DropsAfterAttentionOnly(Block):
    def feed(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm2(x))


@mutant("TransformerBlock", "Nothing is dropped of what the attention adds.")
class DropsAfterTheMlpOnly(Block):
    def attend(self, x: Tensor) -> Tensor:
        return self.attention(self.norm1(x))


@mutant("TransformerBlock", "The numbers that stay are not enlarged: divide them by 1 - p.")
class DroppedAndNotEnlarged(Block):
    def drop(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) >= self.p).to(x.dtype) if self.training else x


@mutant("TransformerBlock", "Both branches drop the same numbers: draw for each of the two.")
class OneDrawForBoth(Block):
    def forward(self, x: Tensor) -> Tensor:
        kept = self.drop(torch.ones_like(x))
        x = x + kept * self.attention(self.norm1(x))
        return x + kept * self.mlp(self.norm2(x))


@mutant("TransformerBlock", "All channels of a token are dropped together: draw for each number.")
class DropsWholeTokens(Block):
    def drop(self, x: Tensor) -> Tensor:
        return x * self.kept(x[..., :1])

    def kept(self, x: Tensor) -> Tensor:
        return F.dropout(torch.ones_like(x), self.p, self.training)


@mutant("TransformerBlock", "The probability is always 0.1: use `config.dropout`.")
class AlwaysATenth(Block):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, parts)
        self.p = 0.1


# How it is built


@mutant(
    "TransformerBlock",
    "The parts have other names than the reference's, so its weights do not load: `norm1`, "
    "`attention`, `norm2`, `mlp`.",
)
class OtherNames(nn.Module):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__()
        self.ln_1, self.attn = parts.build_norm(config), parts.attention(config)
        self.ln_2, self.feed_forward = parts.build_norm(config), parts.mlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attn(self.ln_1(x)))
        return x + self.dropout(self.feed_forward(self.ln_2(x)))


@mutant(
    "TransformerBlock",
    "The norms are PyTorch's, whatever `parts` says: `parts.build_norm(config)` knows which kind, "
    "which eps and whether there is a shift.",
)
class OwnNorms(Block):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, parts)
        self.norm1, self.norm2 = nn.LayerNorm(config.d_model), nn.LayerNorm(config.d_model)


@mutant(
    "TransformerBlock",
    "The MLP is one that you build yourself: ask for `parts.mlp(config)`.",
)
class OwnMlp(Block):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, parts)
        self.mlp = Parts.for_config(config).mlp(config)


@mutant(
    "TransformerBlock",
    "The attention is one that you build yourself: ask for `parts.attention(config)`.",
)
class OwnAttention(Block):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, parts)
        self.attention = Parts.for_config(config).attention(config)


@mutant(
    "TransformerBlock",
    "Norms, attention and MLP are all built by yourself: `parts` says what to build.",
)
class AllItsOwn(Block):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, Parts.for_config(config))


@mutant(
    "TransformerBlock",
    "There is something in the state_dict beside the four parts, so the reference's weights do not "
    "load.",
)
class WithAScale(Block):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__(config, parts)
        self.scale = nn.Parameter(torch.ones(config.d_model))


@mutant(
    "TransformerBlock",
    "The parts are in a plain list, where `nn.Module` does not see them: neither learned nor "
    "stored. Give each an attribute.",
)
class InAPlainList(nn.Module):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__()
        self.parts = [
            parts.build_norm(config),
            parts.attention(config),
            parts.build_norm(config),
            parts.mlp(config),
        ]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        norm1, attention, norm2, mlp = self.parts
        x = x + self.dropout(attention(norm1(x)))
        return x + self.dropout(mlp(norm2(x)))


# Good manners


@mutant("TransformerBlock", "You add into the input with `x += ...`: write `x = x + ...`.")
class WritesIntoItsInput(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        with torch.no_grad():
            x.copy_(y.detach())
        return y


@mutant("TransformerBlock", "The output is float32 whatever comes in: keep the dtype of x.")
class AlwaysFloat32(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


@mutant("TransformerBlock", "No gradient flows along the stream: leave out detach().")
class DetachedStream(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = x.detach() + self.attend(x)
        return x + self.feed(x)


@mutant("TransformerBlock", "The parts run twice: keep what they answered the first time.")
class EveryPartTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        return super().forward(x)


@rewrite("TransformerBlock")
class WithADropoutModule(nn.Module):
    def __init__(self, config: ModelConfig, parts: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = (parts.build_norm(config) for _ in range(2))
        self.attention, self.mlp = parts.attention(config), parts.mlp(config)
        self.dropout1, self.dropout2 = nn.Dropout(config.dropout), nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout1(self.attention(self.norm1(x)))
        return x + self.dropout2(self.mlp(self.norm2(x)))


@rewrite("TransformerBlock")
class ByALoop(Block):
    def forward(self, x: Tensor) -> Tensor:
        for norm, part in ((self.norm1, self.attention), (self.norm2, self.mlp)):
            x = torch.add(x, self.drop(part(norm(x))))
        return x


@rewrite("TransformerBlock")
class WithNamesForEachStep(Block):
    def forward(self, x: Tensor) -> Tensor:
        read = self.norm1(x)
        change = self.attention(read)
        middle = self.drop(change) + x
        read = self.norm2(middle)
        change = self.mlp(read)
        return self.drop(change) + middle


@rewrite("TransformerBlock")
class WithACache(Block):
    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        y = self.norm1(x)
        y = self.attention(y) if cache is None else self.attention(y, cache=cache)
        x = x + self.drop(y)
        return x + self.feed(x)
