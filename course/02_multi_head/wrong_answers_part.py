"""Module 02, wrong answers: the part with several heads."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

INF = float("inf")
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")


# MultiHeadAttention: variations of one class, each with a step done in another way


class Part(nn.Module):
    """The right answer, in steps that a variation can replace."""

    capabilities = frozenset({"grouped_heads"})

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.H, self.G, self.D = config.n_heads, config.kv_heads, config.head_dim
        C, narrow = config.d_model, self.G * self.D
        self.q_proj = nn.Linear(C, C, bias=config.bias)
        self.k_proj = nn.Linear(C, narrow, bias=config.bias)
        self.v_proj = nn.Linear(C, narrow, bias=config.bias)
        self.o_proj = nn.Linear(C, C, bias=config.bias)
        self.p = config.dropout

    def split(self, y: Tensor, n_heads: int) -> Tensor:
        return y.unflatten(-1, (n_heads, -1)).transpose(1, 2)

    def merge(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(-2)

    def repeat(self, kv: Tensor) -> Tensor:
        return kv.repeat_interleave(self.H // self.G, dim=1)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.project(x)
        k, v = (self.repeat(self.split(y, self.G)) for y in (k, v))
        return self.split(q, self.H), k, v

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])

    def seen(self, scores: Tensor) -> Tensor:
        T = scores.shape[-1]
        return torch.ones(T, T, dtype=torch.bool, device=scores.device).tril()

    def weights(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(~self.seen(scores), -INF).softmax(-1)

    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.p, self.training)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.drop(self.weights(self.scores(q, k))) @ v

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        return self.o_proj(self.merge(self.mix(*self.heads(x))))


@probes("MultiHeadAttention")
def _(cls: Any) -> list[Any]:
    def part(dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
        plain = {"d_model": 12, "n_heads": 3, "context_length": 9, "dropout": 0.0, "n_layers": 1}
        built = cls(ModelConfig(**{**plain, **settings}))
        with torch.no_grad():
            for i, (_, parameter) in enumerate(sorted(built.named_parameters())):
                parameter.copy_(draw(*parameter.shape, seed=20 + i) * 0.5)
        return built.to(dtype)

    made: dict[Any, nn.Module] = {}

    def once(**settings: Any) -> nn.Module:
        """Return a part in evaluation, built at the first call."""
        key = tuple(settings.items())
        made[key] = made.get(key) or part(**settings)
        return made[key].eval()

    def shapes(**settings: Any) -> str:
        return str([(n, tuple(p.shape)) for n, p in sorted(part(**settings).state_dict().items())])

    def showing_weights(dropout: float) -> tuple[nn.Module, Tensor]:
        """Return a part whose output is every head's row of weights, and its input."""
        built = part(dropout=dropout)
        names = dict(built.named_parameters())
        with torch.no_grad():
            for name in ("v_proj", "o_proj"):
                names[f"{name}.weight"].copy_(torch.eye(12))
                names[f"{name}.bias"].zero_()
        return built, torch.eye(4).repeat(1, 3).expand(100, 4, 12).clone()

    def left(dropout: float) -> tuple[Tensor, Tensor]:
        built, x = showing_weights(dropout)
        with torch.no_grad():
            return built.eval()(x), built.train()(x)

    def what_becomes_of_weights() -> list[float]:
        weights, dropped = left(0.25)
        ratios = (dropped / weights)[weights.abs() > 1e-3]
        return (ratios * 100).round().unique().tolist()[:4]

    def share() -> int:
        weights, dropped = left(0.25)
        visible = weights.abs() > 1e-3
        return round((dropped.abs() < 1e-6)[visible].float().mean().item() * 4)

    def alike() -> list[bool]:
        """Return whether heads, keys and sequences are dropped together."""
        kept = (left(0.5)[1].abs() > 1e-6)[:, -1].unflatten(-1, (3, 4))
        return [
            bool((kept == kept[:, :1]).all()),
            bool((kept == kept[..., :1]).all()),
            bool((kept == kept[:1]).all()),
        ]

    def channels_alike() -> bool:
        """Return whether dropping changes all channels of a head alike."""
        built = part(dropout=0.5)
        names = dict(built.named_parameters())
        with torch.no_grad():
            names["v_proj.weight"].zero_()
            names["v_proj.bias"].fill_(1.0)
            names["o_proj.weight"].copy_(torch.eye(12))
            names["o_proj.bias"].zero_()
            sums = built.train()(draw(20, 5, 12)).unflatten(-1, (3, 4))
        return bool((sums - sums[..., :1]).abs().max() < 1e-5)

    def true_to_its_word() -> bool:
        """Return whether a part that says it knows rotary positions does not ignore them."""
        if "rotary" not in getattr(cls, "capabilities", ()):
            return True
        x = draw(2, 5, 12)
        return not torch.allclose(part(position="rotary").eval()(x), once()(x))

    def in_place() -> bool:
        return changed(once(), draw(2, 5, 12))[0]

    def gradients() -> Tensor:
        """Return the length of each parameter's gradient, -1 where there is none."""
        built = part(torch.float64)
        built(draw(2, 5, 12, dtype=torch.float64)).backward(
            draw(2, 5, 12, seed=9, dtype=torch.float64)
        )
        grads = [p.grad for _, p in sorted(built.named_parameters())]
        return torch.tensor([-1.0 if grad is None else float(grad.norm()) for grad in grads])

    def of_the_input() -> Any:
        x = draw(2, 5, 12).requires_grad_()
        once()(x).sum().backward()
        return x.grad if x.grad is not None else "none"

    def device() -> bool:
        from tiny_transformer.course.devices import expect_module_follows_device

        expect_module_follows_device(part, draw(2, 5, 12), "")
        return True

    def out(B: int = 2, T: int = 5, scale: float = 1.0, **settings: Any) -> Any:
        width = settings.get("d_model", 12)
        return once(**settings)(scale * draw(B, T, width))

    grouped = {"n_heads": 6, "n_kv_heads": 2}
    return [
        shapes,
        lambda: shapes(bias=False),
        lambda: shapes(**grouped),
        lambda: out(),
        lambda: out(1, 1),
        lambda: out(5, 3),
        lambda: out(2, 9),
        lambda: out(n_heads=1),
        lambda: out(n_heads=12),
        lambda: out(n_heads=4, bias=False),
        lambda: out(d_model=10, n_heads=5),
        lambda: out(**grouped),
        lambda: out(n_heads=4, n_kv_heads=1),
        lambda: out(scale=20.0),
        lambda: out(context_length=5),
        lambda: part(torch.float64).eval()(draw(2, 5, 12, dtype=torch.float64)),
        lambda: out(dropout=0.25),
        what_becomes_of_weights,
        share,
        alike,
        in_place,
        gradients,
        of_the_input,
        device,
        channels_alike,
        lambda: bool((part(dropout=0.25).train()(draw(20, 5, 12)) == 0).any()),
        true_to_its_word,
        lambda: "grouped_heads" in cls.capabilities,
    ]


# Splitting and merging


@mutant(
    "MultiHeadAttention",
    "You view queries, keys and values as (B, H, T, D) at once, so that a head holds a few tokens "
    "whole instead of its piece of each: view as (B, T, H, D), then transpose.",
)
class ViewedWithoutATranspose(Part):
    def split(self, y: Tensor, n_heads: int) -> Tensor:
        return y.reshape(y.shape[0], n_heads, y.shape[1], -1)


@mutant(
    "MultiHeadAttention",
    "You reshape the heads (B, H, T, D) to (B, T, C) at once, which mixes heads and tokens: "
    "transpose heads and tokens back first.",
)
class MergedWithoutATranspose(Part):
    def merge(self, heads: Tensor) -> Tensor:
        return heads.reshape(heads.shape[0], heads.shape[2], -1)


@mutant(
    "MultiHeadAttention",
    "You view as (B, H, T, D) on the way in and reshape on the way out, both without a transpose. "
    "The two undo each other, and in between every head sees other tokens than you think.",
)
class NeverTransposed(Part):
    def split(self, y: Tensor, n_heads: int) -> Tensor:
        return y.reshape(y.shape[0], n_heads, y.shape[1], -1)

    def merge(self, heads: Tensor) -> Tensor:
        return heads.reshape(heads.shape[0], heads.shape[2], -1)


@mutant(
    "MultiHeadAttention",
    "Your heads take every H-th channel, on the way in and out. Each has D channels in a row, or "
    "the reference's weights mean something else.",
)
class ChannelsInTurn(Part):
    def split(self, y: Tensor, n_heads: int) -> Tensor:
        return y.unflatten(-1, (-1, n_heads)).permute(0, 3, 1, 2)

    def merge(self, heads: Tensor) -> Tensor:
        return heads.permute(0, 2, 3, 1).flatten(-2)


@mutant(
    "MultiHeadAttention",
    "On the way out, your heads take turns in the channels. Head 0's D channels come first.",
)
class MergedInTurn(Part):
    def merge(self, heads: Tensor) -> Tensor:
        return heads.permute(0, 2, 3, 1).flatten(-2)


@mutant(
    "MultiHeadAttention",
    "Your heads stand where tokens should: without a transpose to (B, H, T, D), the heads of one "
    "token look at each other, and no token sees another.",
)
class HeadsLookAtEachOther(Part):
    def split(self, y: Tensor, n_heads: int) -> Tensor:
        return y.unflatten(-1, (n_heads, -1))

    def repeat(self, kv: Tensor) -> Tensor:
        return kv.repeat_interleave(self.H // self.G, dim=2)

    def merge(self, heads: Tensor) -> Tensor:
        return heads.flatten(-2)


@mutant(
    "MultiHeadAttention",
    "You average the heads and fill all channels with that. Put them side by side.",
)
class HeadsAveraged(Part):
    def merge(self, heads: Tensor) -> Tensor:
        return heads.mean(dim=1).repeat(1, 1, self.H)


@mutant(
    "MultiHeadAttention",
    "You hand the heads to `o_proj` as they are, with an axis of their own. Put them side by side "
    "first, (B, T, C): transpose, then flatten the last two axes.",
)
class NotMerged(Part):
    def merge(self, heads: Tensor) -> Tensor:
        return heads


@mutant(
    "MultiHeadAttention",
    "You add the heads up, so that D channels are left for a layer that reads C. Put them side by "
    "side.",
)
class HeadsAddedUp(Part):
    def merge(self, heads: Tensor) -> Tensor:
        return heads.sum(dim=1)


@mutant(
    "MultiHeadAttention",
    "There is one head, as wide as the model: split into `config.n_heads`.",
)
class OneHeadOnly(Part):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.project(x)
        k, v = (self.merge(self.repeat(self.split(y, self.G))) for y in (k, v))
        return q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)

    def merge(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(-2)


@mutant(
    "MultiHeadAttention",
    "All heads have the weights of head 0: the scores of each should come from its own queries and "
    "keys.",
)
class WeightsOfTheFirstHead(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return super().weights(scores)[:, :1].expand(-1, self.H, -1, -1)


# Key-value heads


@mutant(
    "MultiHeadAttention",
    "You repeat the whole set of key-value heads, 0, 1, 0, 1. Neighbours share, 0, 0, 1, 1: "
    "`repeat_interleave`.",
)
class WholeSetRepeated(Part):
    def repeat(self, kv: Tensor) -> Tensor:
        return kv.repeat(1, self.H // self.G, 1, 1)


@mutant(
    "MultiHeadAttention",
    "All query heads use key-value head 0. Each group has its own.",
)
class FirstKeyValueHeadForAll(Part):
    def repeat(self, kv: Tensor) -> Tensor:
        return kv if self.H == self.G else kv[:, :1].expand(-1, self.H, -1, -1)


@mutant(
    "MultiHeadAttention",
    "You leave the key-value heads as they are, fewer than those of the queries: repeat them.",
)
class NotRepeated(Part):
    def repeat(self, kv: Tensor) -> Tensor:
        return kv


@mutant(
    "MultiHeadAttention",
    "You ignore `config.kv_heads`: `k_proj` and `v_proj` are as wide as the model whatever it is.",
)
class KeyValueHeadsIgnored(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.G = self.H
        self.k_proj, self.v_proj = (
            nn.Linear(config.d_model, config.d_model, bias=config.bias) for _ in "kv"
        )


@mutant(
    "MultiHeadAttention",
    "`config.n_kv_heads` is None where the user asks for nothing else: `config.kv_heads` is always "
    "a number.",
)
class NoneForANumber(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.narrow = config.n_kv_heads * config.head_dim  # pyright: ignore[reportOptionalOperand]


@mutant(
    "MultiHeadAttention",
    "The class does not say that it knows key-value heads, so models that have them refuse it: "
    'capabilities = {"grouped_heads"}, beside the methods.',
)
class WithoutCapabilities(Part):
    capabilities = frozenset()


@mutant(
    "MultiHeadAttention",
    "You list capabilities that the part has not: it neither keeps a cache nor turns queries and "
    "keys by their positions. List what you wrote.",
)
class TooManyCapabilities(Part):
    capabilities = frozenset({"grouped_heads", "rotary", "qk_norm", "kv_cache", "weights"})


# Scores, mask, softmax


@mutant(
    "MultiHeadAttention",
    "You scale by the root of the model's width. Each dot product sums over one head: the root of "
    "D = C / H.",
)
class ScaledByTheModelWidth(Part):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1] * self.H)


@mutant("MultiHeadAttention", "The scale is missing: divide the scores by the root of D.")
class WithoutTheScale(Part):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1)


@mutant("MultiHeadAttention", "You divide the scores by D. Divide by its square root.")
class DividedByTheWidth(Part):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / q.shape[-1]


@mutant(
    "MultiHeadAttention",
    "You scale by the root of the number of heads. It is that of the width of one, `shape[-1]`.",
)
class ScaledByTheNumberOfHeads(Part):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(self.H)


@mutant("MultiHeadAttention", "There is no mask: your tokens see those after them.")
class WithoutAMask(Part):
    def seen(self, scores: Tensor) -> Tensor:
        return torch.ones_like(super().seen(scores))


@mutant("MultiHeadAttention", "Your mask is off by one: each token sees the one after it.")
class SeesTheNext(Part):
    def seen(self, scores: Tensor) -> Tensor:
        return torch.ones_like(super().seen(scores)).tril(1)


@mutant(
    "MultiHeadAttention",
    "A token cannot see itself, and the first one, which sees nothing, is NaN: keep the diagonal.",
)
class WithoutItself(Part):
    def seen(self, scores: Tensor) -> Tensor:
        return torch.ones_like(super().seen(scores)).tril(-1)


@mutant(
    "MultiHeadAttention",
    "Only head 0 has a mask: the others see the future. The mask is for every head.",
)
class MaskForTheFirstHead(Part):
    def seen(self, scores: Tensor) -> Tensor:
        mask = super().seen(scores).expand(scores.shape).clone()
        mask[:, 1:] = True
        return mask


@mutant(
    "MultiHeadAttention",
    "You zero hidden weights after the softmax, and rows no longer sum to one. Hide the scores "
    "before it.",
)
class MaskedAfterTheSoftmax(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1) * self.seen(scores)


@mutant(
    "MultiHeadAttention",
    "Your weights sum to one over the queries, not over the keys: look at `dim` of the softmax.",
)
class SoftmaxOverTheQueries(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(~self.seen(scores), -INF).softmax(-2)


@mutant(
    "MultiHeadAttention",
    "Your weights sum to one over the heads: `dim=1` of (B, H, queries, keys). The keys are last.",
)
class SoftmaxOverTheHeads(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(~self.seen(scores), -1e9).softmax(1)


@mutant(
    "MultiHeadAttention",
    "Your softmax does not take the largest score away, and large scores overflow: use yours, or "
    "`explicit_attention`.",
)
class WithoutTheMaximum(Part):
    def weights(self, scores: Tensor) -> Tensor:
        powers = scores.exp() * self.seen(scores)
        return powers / powers.sum(-1, keepdim=True)


@mutant("MultiHeadAttention", "Your weights are equal over the past: queries and keys are ignored.")
class EvenWeights(Part):
    def weights(self, scores: Tensor) -> Tensor:
        seen = self.seen(scores).to(scores.dtype)
        return (0 * scores + seen) / seen.sum(-1, keepdim=True)


# Projections


@mutant("MultiHeadAttention", "The keys come from `q_proj`: `k_proj` is not used.")
class QueriesForKeys(Part):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, _, v = super().heads(x)
        return q, q, v


@mutant("MultiHeadAttention", "The values are the keys: `v_proj` is not used.")
class KeysForValues(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.k_proj(x), self.k_proj(x)


@mutant(
    "MultiHeadAttention",
    "The keys are made by `v_proj` and the values by `k_proj`: exchange them.",
)
class KeysAndValuesExchanged(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.v_proj(x), self.k_proj(x)


@mutant(
    "MultiHeadAttention",
    "Queries and keys are exchanged in the scores: rows are queries, columns keys.",
)
class QueriesAndKeysExchanged(Part):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scores(k, q)


@mutant("MultiHeadAttention", "The projection at the end is missing: hand all heads to `o_proj`.")
class WithoutTheLastProjection(Part):
    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        return self.merge(self.mix(*self.heads(x)))


@mutant("MultiHeadAttention", "You add the input to the output. The block does that.")
class WithItsOwnResidual(Part):
    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        return x + super().forward(x)


@mutant(
    "MultiHeadAttention",
    "Your layers have no biases where the config asks for them: hand on `bias=config.bias`.",
)
class NeverABias(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        for name in LAYERS:
            old = getattr(self, name)
            setattr(self, name, nn.Linear(old.in_features, old.out_features, bias=False))


@mutant(
    "MultiHeadAttention",
    "Your layers have biases where the config asks for none: hand on `bias=config.bias`.",
)
class AlwaysABias(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        for name in LAYERS:
            old = getattr(self, name)
            setattr(self, name, nn.Linear(old.in_features, old.out_features))


@mutant(
    "MultiHeadAttention",
    "One layer makes queries, keys and values together. That is a good idea, and its weights "
    "cannot be loaded from the reference's three: keep three layers.",
)
class OneLayerForThree(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.widths = [self.H * self.D, self.G * self.D, self.G * self.D]
        del self.q_proj, self.k_proj, self.v_proj
        self.qkv = nn.Linear(config.d_model, sum(self.widths), config.bias)

    def project(self, x: Tensor) -> Any:
        return self.qkv(x).split(self.widths, dim=-1)


@mutant(
    "MultiHeadAttention",
    "Each head has layers of its own. One layer for all heads is the same, faster, and has the "
    "reference's names: `q_proj`, `k_proj`, `v_proj`.",
)
class ALayerForEachHead(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        del self.q_proj, self.k_proj, self.v_proj
        self.layers = nn.ModuleList(
            nn.Linear(config.d_model, self.D, config.bias) for _ in range(self.H + 2 * self.G)
        )

    def project(self, x: Tensor) -> Any:
        made = [layer(x) for layer in self.layers]
        parts = made[: self.H], made[self.H : self.H + self.G], made[self.H + self.G :]
        return [torch.cat(part, dim=-1) for part in parts]


@mutant(
    "MultiHeadAttention",
    "Queries and keys share one layer under two names: training one trains the other. Make a "
    "layer for each.",
)
class OneLayerUnderTwoNames(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if self.H == self.G:
            self.k_proj = self.q_proj


@mutant(
    "MultiHeadAttention",
    "Your mask is a buffer that is stored with the weights, so those of the reference do not "
    "load: make it in forward, or pass persistent=False.",
)
class StoredMask(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        T = config.context_length
        self.register_buffer("mask", torch.ones(T, T, dtype=torch.bool).tril())


@mutant(
    "MultiHeadAttention",
    "Your mask has a fixed size and fails for shorter sequences: cut it to (T, T).",
)
class MaskOfOneSize(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        T = config.context_length
        self.register_buffer("mask", torch.ones(T, T, dtype=torch.bool).tril(), persistent=False)

    def seen(self, scores: Tensor) -> Tensor:
        return self.mask


@mutant(
    "MultiHeadAttention",
    "Your mask stays on the CPU when the model moves: make it on the device of the input.",
)
class MaskThatStaysBehind(Part):
    def seen(self, scores: Tensor) -> Tensor:
        return torch.ones(scores.shape[-2:], dtype=torch.bool).tril()


# Dropout


@mutant(
    "MultiHeadAttention",
    "Weights are dropped in evaluation too: F.dropout needs `training=self.training`, and a plain "
    "function must only be given the dropout while `self.training`.",
)
class DropsInEvaluation(Part):
    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.p)


@mutant("MultiHeadAttention", "Nothing is dropped while training: use `config.dropout`.")
class NeverDrops(Part):
    def drop(self, weights: Tensor) -> Tensor:
        return weights


@mutant(
    "MultiHeadAttention",
    "You drop numbers of the output. Drop attention weights, before the average; the block drops "
    "outputs.",
)
class DropsTheOutput(NeverDrops):
    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        return F.dropout(super().forward(x), self.p, self.training)


@mutant(
    "MultiHeadAttention",
    "You drop attention weights, which is right, and numbers of the output as well. Leave the "
    "second out: the block drops outputs.",
)
class DropsTheOutputToo(Part):
    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        return F.dropout(super().forward(x), self.p, self.training)


@mutant(
    "MultiHeadAttention",
    "You drop numbers of the values, or of what is merged. Drop attention weights.",
)
class DropsWhatWasFound(NeverDrops):
    def merge(self, heads: Tensor) -> Tensor:
        return F.dropout(super().merge(heads), self.p, self.training)


@mutant(
    "MultiHeadAttention",
    "You drop whole heads: draw for each weight.",
)
class DropsWholeHeads(Part):
    def drop(self, weights: Tensor) -> Tensor:
        whole = torch.ones_like(weights[:, :, :1, :1])
        return weights * F.dropout(whole, self.p, self.training)


@mutant(
    "MultiHeadAttention",
    "Every head drops the same weights: draw for each head.",
)
class DropsAlikeInEveryHead(Part):
    def drop(self, weights: Tensor) -> Tensor:
        return weights * F.dropout(torch.ones_like(weights[:, :1]), self.p, self.training)


@mutant("MultiHeadAttention", "The weights that stay are not divided by `1 - dropout`.")
class DroppedAndNotEnlarged(Part):
    def drop(self, weights: Tensor) -> Tensor:
        kept = torch.rand_like(weights) >= self.p
        return weights * kept if self.training else weights


@mutant("MultiHeadAttention", "You drop scores before the softmax. Drop weights, after it.")
class DropsScores(NeverDrops):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return F.dropout(super().scores(q, k), self.p, self.training)


# What is handed out


@mutant(
    "MultiHeadAttention",
    "You write into the input, which the block still needs: no operation whose name ends in an "
    "underscore, no `x += ...`.",
)
class WritesIntoItsInput(Part):
    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        y = super().forward(x)
        with torch.no_grad():
            x.mul_(0.5)
        return y


@mutant(
    "MultiHeadAttention",
    "You compute in float32 whatever comes in: the output should have the dtype of x.",
)
class AlwaysFloat32(Part):
    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        return super().forward(x).float()


@mutant(
    "MultiHeadAttention",
    "No gradient reaches `q_proj` and `k_proj`: leave out detach() and torch.no_grad().",
)
class DetachedWeights(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return super().weights(scores).detach()


@mutant("MultiHeadAttention", "You return the weights as well. One tensor, (B, T, C).")
class ReturnsTheWeightsToo(Part):
    def forward(self, x: Tensor, cache: Any = None) -> Any:
        q, k, _ = self.heads(x)
        return super().forward(x), self.weights(self.scores(q, k))


@rewrite("MultiHeadAttention")
class FromThePieces(nn.Module):
    capabilities = frozenset({"grouped_heads"})

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        C, narrow = config.d_model, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(C, C, config.bias)
        self.k_proj = nn.Linear(C, narrow, config.bias)
        self.v_proj = nn.Linear(C, narrow, config.bias)
        self.o_proj = nn.Linear(C, C, config.bias)

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        H, n_kv = self.config.n_heads, self.config.kv_heads
        q = attention.split_heads(self.q_proj(x), H)
        k = attention.repeat_kv_heads(attention.split_heads(self.k_proj(x), n_kv), H)
        v = attention.repeat_kv_heads(attention.split_heads(self.v_proj(x), n_kv), H)
        dropout = self.config.dropout if self.training else 0.0
        found, _ = attention.explicit_attention(q, k, v, dropout)
        return self.o_proj(attention.merge_heads(found))


@rewrite("MultiHeadAttention")
class FusedCall(Part):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)


@rewrite("MultiHeadAttention")
class HeadByHead(Part):
    capabilities = ("grouped_heads",)

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        q, k, v = self.project(x)
        D, group = self.D, self.H // self.G
        found = []
        for h in range(self.H):
            own, shared = slice(h * D, (h + 1) * D), slice(h // group * D, (h // group + 1) * D)
            weights = self.weights(self.scores(q[..., own], k[..., shared]))  # (B, T, T)
            found.append(self.drop(weights) @ v[..., shared])
        return self.o_proj(torch.cat(found, dim=-1))


@rewrite("MultiHeadAttention")
class ByEinsumInGroups(Part):
    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.project(x)
        q = q.reshape(B, T, self.G, self.H // self.G, self.D)
        k, v = k.reshape(B, T, self.G, self.D), v.reshape(B, T, self.G, self.D)
        scores = torch.einsum("btgnd,bsgd->bgnts", q, k) * self.D**-0.5
        weights = self.drop(self.weights(scores))
        return self.o_proj(torch.einsum("bgnts,bsgd->btgnd", weights, v).reshape(B, T, C))


@rewrite("MultiHeadAttention")
class WithAMaskBuffer(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.attention_dropout = nn.Dropout(config.dropout)
        T = config.context_length
        self.register_buffer("hidden", torch.full((T, T), -INF).triu(1), persistent=False)

    def weights(self, scores: Tensor) -> Tensor:
        T = scores.shape[-1]
        return torch.softmax(scores + self.hidden[:T, :T], dim=-1)

    def drop(self, weights: Tensor) -> Tensor:
        return self.attention_dropout(weights)
