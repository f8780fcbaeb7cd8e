"""Module 01, wrong answers: the part with one head."""

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


# SingleHeadAttention: variations of one class, each with a step done in another way


class Part(nn.Module):
    """The right answer, in steps that a variation can replace."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.d_model
        self.q_proj = nn.Linear(C, C, bias=config.bias)
        self.k_proj = nn.Linear(C, C, bias=config.bias)
        self.v_proj = nn.Linear(C, C, bias=config.bias)
        self.o_proj = nn.Linear(C, C, bias=config.bias)
        self.p = config.dropout

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])

    def seen(self, scores: Tensor) -> Tensor:
        T = scores.shape[-1]
        return torch.ones(T, T, dtype=torch.bool, device=scores.device).tril()

    def weights(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(~self.seen(scores), -INF).softmax(-1)

    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.p, self.training)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        return self.o_proj(self.drop(self.weights(self.scores(q, k))) @ v)


@probes("SingleHeadAttention")
def _(cls: Any) -> list[Any]:
    def part(dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
        plain = {"d_model": 12, "n_heads": 1, "context_length": 9, "dropout": 0.0, "bias": True}
        built = cls(ModelConfig(**{**plain, **settings}))
        with torch.no_grad():
            for i, (_, parameter) in enumerate(sorted(built.named_parameters())):
                parameter.copy_(draw(*parameter.shape, seed=20 + i) * 0.5)
        return built.to(dtype)

    def shapes(**settings: Any) -> list[Any]:
        return [(n, tuple(p.shape)) for n, p in sorted(part(**settings).state_dict().items())]

    def of_ones() -> nn.Module:
        """Return a part whose output is the sum of a token's dropped weights, in each channel."""
        built = part(dropout=0.25)
        names = dict(built.named_parameters())
        with torch.no_grad():
            names["v_proj.weight"].zero_()
            names["v_proj.bias"].fill_(1.0)
            names["o_proj.weight"].copy_(torch.eye(12))
            names["o_proj.bias"].zero_()
        return built

    def trained(n_tokens: int) -> Tensor:
        return of_ones().train()(draw(400, n_tokens, 12)).detach()

    def kinds_of_first_tokens() -> list[float]:
        return (trained(2)[:, 0] * 100).round().unique().tolist()[:4]

    def share() -> int:
        return round((trained(2)[:, 0].abs() < 1e-6).float().mean().item() * 10)

    def in_place() -> bool:
        return changed(part(), draw(2, 5, 12))[0]

    def gradients() -> list[Any]:
        built = part(torch.float64)
        built(draw(2, 5, 12, dtype=torch.float64)).backward(
            draw(2, 5, 12, seed=9, dtype=torch.float64)
        )
        return [
            p.grad if p.grad is not None else "none" for _, p in sorted(built.named_parameters())
        ]

    def of_the_input() -> Any:
        x = draw(2, 5, 12).requires_grad_()
        part()(x).sum().backward()
        return x.grad if x.grad is not None else "none"

    def all_that_is_not_dropped_doubles() -> bool:
        built, x = part(dropout=0.5), torch.eye(6, 12).expand(50, 6, 12).clone()
        names = dict(built.named_parameters())
        with torch.no_grad():
            for name in ("v_proj", "o_proj"):
                names[f"{name}.weight"].copy_(torch.eye(12))
                names[f"{name}.bias"].zero_()
            weights, dropped = built.eval()(x), built.train()(x)
        return bool((((dropped - 2 * weights).abs() < 1e-4) | (dropped.abs() < 1e-6)).all())

    def device() -> bool:
        from tiny_transformer.course.devices import expect_module_follows_device

        expect_module_follows_device(part, draw(2, 5, 12), "")
        return True

    return [
        shapes,
        lambda: shapes(bias=False),
        lambda: shapes(n_heads=4),
        lambda: part().eval()(draw(2, 5, 12)),
        lambda: part().eval()(draw(5, 5, 12)),
        lambda: part().eval()(draw(1, 1, 12)),
        lambda: part(n_heads=4).eval()(draw(2, 5, 12)),
        lambda: part(bias=False).eval()(draw(2, 5, 12)),
        lambda: part().eval()(draw(2, 9, 12)),
        lambda: part(context_length=5).eval()(draw(2, 5, 12)),
        lambda: part().eval()(draw(2, 12, 12)[:, :7]),
        lambda: part().eval()(20 * draw(2, 5, 12)),
        lambda: part(torch.float64).eval()(draw(2, 5, 12, dtype=torch.float64)),
        lambda: part(dropout=0.25).eval()(draw(2, 5, 12)),
        lambda: of_ones().eval()(draw(2, 3, 12)),
        kinds_of_first_tokens,
        share,
        lambda: bool((trained(3) - trained(3)[..., :1]).abs().max() < 1e-5),
        lambda: bool((trained(3) == trained(3)[..., :1]).all()),
        lambda: len((trained(3)[:, 2] * 100).round().unique()) > 3,
        in_place,
        gradients,
        of_the_input,
        all_that_is_not_dropped_doubles,
        lambda: part(dropout=0.25).eval()(draw(2, 5, 12)).requires_grad,
        device,
    ]


@mutant("SingleHeadAttention", "The scale is missing: divide the scores by the root of the width.")
class WithoutTheScale(Part):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1)


@mutant("SingleHeadAttention", "You divide the scores by the width. Divide by its square root.")
class DividedByTheWidth(Part):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / q.shape[-1]


@mutant(
    "SingleHeadAttention",
    "Your scale is the root of the number of tokens: `shape[-2]` or `shape[1]`. It is that of the "
    "width, `shape[-1]`.",
)
class ScaledByTheNumberOfTokens(Part):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-2])


@mutant(
    "SingleHeadAttention",
    "Your scale is for several heads, the root of d_model / n_heads. This part has one head as "
    "wide as the model.",
)
class ScaledForSeveralHeads(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.head_dim = config.d_model // config.n_heads

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)


@mutant("SingleHeadAttention", "There is no mask: your tokens see those after them.")
class WithoutAMask(Part):
    def seen(self, scores: Tensor) -> Tensor:
        return torch.ones_like(super().seen(scores))


@mutant("SingleHeadAttention", "Your mask is off by one: each token sees the one after it.")
class SeesTheNext(Part):
    def seen(self, scores: Tensor) -> Tensor:
        return torch.ones_like(super().seen(scores)).tril(1)


@mutant(
    "SingleHeadAttention",
    "A token cannot see itself, and the first one, which sees nothing, is NaN: keep the diagonal.",
)
class WithoutItself(Part):
    def seen(self, scores: Tensor) -> Tensor:
        return torch.ones_like(super().seen(scores)).tril(-1)


@mutant(
    "SingleHeadAttention",
    "Your mask is turned round: tokens see those after them and not those before. Use the lower "
    "triangle.",
)
class SeesTheFutureAlone(Part):
    def seen(self, scores: Tensor) -> Tensor:
        return torch.ones_like(super().seen(scores)).triu()


@mutant(
    "SingleHeadAttention",
    "You zero hidden weights after the softmax, and rows no longer sum to one. Hide the scores "
    "before it.",
)
class MaskedAfterTheSoftmax(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1) * self.seen(scores)


@mutant(
    "SingleHeadAttention",
    "You give hidden keys the score 0, and exp(0) is 1: later tokens keep a share. Minus infinity "
    "hides.",
)
class HiddenScoresAreZero(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return (scores * self.seen(scores)).softmax(-1)


@mutant(
    "SingleHeadAttention",
    "Your weights sum to one over the queries, not over the keys: look at `dim` of the softmax.",
)
class SoftmaxOverTheQueries(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(~self.seen(scores), -INF).softmax(-2)


@mutant(
    "SingleHeadAttention",
    "Your weights sum to one over the sequences of the batch: look at `dim` of the softmax.",
)
class SoftmaxOverTheBatch(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(~self.seen(scores), -1e9).softmax(0)


@mutant(
    "SingleHeadAttention",
    "Your weights are equal over the past: queries and keys are ignored. Their products should "
    "decide.",
)
class EvenWeights(Part):
    def weights(self, scores: Tensor) -> Tensor:
        seen = self.seen(scores).to(scores.dtype)
        return (0 * scores + seen) / seen.sum(-1, keepdim=True)


@mutant(
    "SingleHeadAttention",
    "There is no softmax: the scores themselves are the weights.",
)
class ScoresAsWeights(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return scores * self.seen(scores)


@mutant(
    "SingleHeadAttention",
    "Your softmax does not take the largest score away, and large scores overflow: use `softmax`, "
    "or `explicit_attention`, which has it.",
)
class WithoutTheMaximum(Part):
    def weights(self, scores: Tensor) -> Tensor:
        powers = scores.exp() * self.seen(scores)
        return powers / powers.sum(-1, keepdim=True)


@mutant(
    "SingleHeadAttention",
    "Queries and keys come from the same projection: `k_proj` is not used.",
)
class QueriesForKeys(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.q_proj(x), self.v_proj(x)


@mutant(
    "SingleHeadAttention",
    "The values are the keys: `v_proj` is not used.",
)
class KeysForValues(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.k_proj(x), self.k_proj(x)


@mutant(
    "SingleHeadAttention",
    "The keys are made by `v_proj` and the values by `k_proj`: exchange them.",
)
class KeysAndValuesExchanged(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.v_proj(x), self.k_proj(x)


@mutant(
    "SingleHeadAttention",
    "The queries are made by `k_proj` and the keys by `q_proj`: exchange them.",
)
class QueriesAndKeysExchanged(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.k_proj(x), self.q_proj(x), self.v_proj(x)


@mutant(
    "SingleHeadAttention",
    "You average the tokens as they came in: project the values with `v_proj`.",
)
class InputForValues(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.k_proj(x), x


@mutant(
    "SingleHeadAttention",
    "You project the values with `q_proj`: use `v_proj`.",
)
class QueriesForValues(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.k_proj(x), self.q_proj(x)


@mutant(
    "SingleHeadAttention",
    "The projection at the end is missing: hand the averages to `o_proj`.",
)
class WithoutTheLastProjection(Part):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        return self.drop(self.weights(self.scores(q, k))) @ v


@mutant(
    "SingleHeadAttention",
    "You project the values with `o_proj` before the average and the result with `v_proj`: "
    "exchange them.",
)
class ValueAndOutputExchanged(Part):
    def forward(self, x: Tensor) -> Tensor:
        q, k, _ = self.project(x)
        return self.v_proj(self.weights(self.scores(q, k)) @ self.o_proj(x))


@mutant(
    "SingleHeadAttention",
    "You add the input to the output. The block does that, around this part.",
)
class WithItsOwnResidual(Part):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


@mutant(
    "SingleHeadAttention",
    "You scale the output by the root of the width. Only the scores are scaled.",
)
class OutputScaled(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / math.sqrt(x.shape[-1])


@mutant(
    "SingleHeadAttention",
    "Your tokens attend along the batch, as if the axes were (T, B, C). Transposing the last two "
    "axes of k, and those only, keeps sequences apart.",
)
class AlongTheBatch(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


@mutant(
    "SingleHeadAttention",
    "All sequences are treated as one long sequence: tokens see other sequences of the batch.",
)
class BatchAsOneSequence(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)[None]).view(x.shape)


@mutant(
    "SingleHeadAttention",
    "Your weights are transposed before the average: query i should use row i of them.",
)
class WeightsTransposed(Part):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        return self.o_proj(self.drop(self.weights(self.scores(q, k))).transpose(-2, -1) @ v)


@mutant(
    "SingleHeadAttention",
    "Weights are dropped in evaluation too: F.dropout needs `training=self.training`, and a plain "
    "function must only be given the dropout while `self.training`.",
)
class DropsInEvaluation(Part):
    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.p)


@mutant("SingleHeadAttention", "Nothing is dropped while training: use `config.dropout`.")
class NeverDrops(Part):
    def drop(self, weights: Tensor) -> Tensor:
        return weights


@mutant(
    "SingleHeadAttention",
    "Weights are dropped in evaluation and not while training: turn the question round.",
)
class DropsInEvaluationOnly(Part):
    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.p, not self.training)


@mutant(
    "SingleHeadAttention",
    "You drop numbers of the output. Drop attention weights, before the average; the block drops "
    "outputs.",
)
class DropsTheOutput(Part):
    def drop(self, weights: Tensor) -> Tensor:
        return weights

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), self.p, self.training)


@mutant(
    "SingleHeadAttention",
    "You drop weights and then numbers of the output as well. The block drops outputs; here only "
    "weights are.",
)
class DropsBoth(Part):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), self.p, self.training)


@mutant(
    "SingleHeadAttention",
    "The weights that stay are not enlarged: divide them by `1 - dropout`.",
)
class DroppedAndNotEnlarged(Part):
    def drop(self, weights: Tensor) -> Tensor:
        kept = torch.rand_like(weights) >= self.p
        return weights * kept if self.training else weights


@mutant(
    "SingleHeadAttention",
    "You drop scores before the softmax: a score of 0 is not a weight of 0. Drop weights.",
)
class DropsScores(Part):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return F.dropout(super().scores(q, k), self.p, self.training)

    def drop(self, weights: Tensor) -> Tensor:
        return weights


@mutant(
    "SingleHeadAttention",
    "You drop numbers of the input, or of what is projected from it. Drop attention weights.",
)
class DropsValues(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x)
        return q, k, F.dropout(v, self.p, self.training)

    def drop(self, weights: Tensor) -> Tensor:
        return weights


@mutant(
    "SingleHeadAttention",
    "You drop all weights of a token at once: draw for each weight.",
)
class DropsWholeRows(Part):
    def drop(self, weights: Tensor) -> Tensor:
        return weights * F.dropout(torch.ones_like(weights[..., :1]), self.p, self.training)


@mutant(
    "SingleHeadAttention",
    "You keep weights with the probability that they should be dropped with.",
)
class KeepsForDrops(Part):
    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, 1 - self.p if self.p else 0.0, self.training)


@mutant(
    "SingleHeadAttention",
    "Your layers have no biases where the config asks for them: hand on `bias=config.bias`.",
)
class NeverABias(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(config.d_model, config.d_model, bias=False))


@mutant(
    "SingleHeadAttention",
    "Your layers have biases where the config asks for none: hand on `bias=config.bias`.",
)
class AlwaysABias(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(config.d_model, config.d_model))


@mutant(
    "SingleHeadAttention",
    "The layers have other names than the reference's, so its weights do not load: `q_proj`, "
    "`k_proj`, `v_proj`, `o_proj`.",
)
class OtherNames(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.d_model
        self.query, self.key, self.value, self.out = (nn.Linear(C, C, config.bias) for _ in "1234")
        self.p = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unsqueeze(1) for p in (self.query, self.key, self.value))
        p = self.p if self.training else 0.0
        return self.out(attention.explicit_attention(q, k, v, p)[0].squeeze(1))


@mutant(
    "SingleHeadAttention",
    "One layer makes queries, keys and values together. That is a good idea, and its weights "
    "cannot be loaded from the reference's three: keep three layers.",
)
class OneLayerForThree(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, config.bias)
        self.o_proj = nn.Linear(config.d_model, config.d_model, config.bias)
        self.p = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        p = self.p if self.training else 0.0
        return self.o_proj(attention.explicit_attention(q, k, v, p)[0].squeeze(1))


@mutant(
    "SingleHeadAttention",
    "Queries and keys share one layer under two names: training one trains the other. Make a "
    "layer for each.",
)
class OneLayerUnderTwoNames(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.k_proj = self.q_proj


@mutant(
    "SingleHeadAttention",
    "Your mask is a buffer that is stored with the weights, so those of the reference do not "
    "load: make it in forward, or pass persistent=False.",
)
class StoredMask(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        T = config.context_length
        self.register_buffer("mask", torch.ones(T, T, dtype=torch.bool).tril())


@mutant(
    "SingleHeadAttention",
    "Your mask has a fixed size and fails for shorter sequences: cut it to (T, T), or make it in "
    "forward.",
)
class MaskOfOneSize(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        T = config.context_length
        self.register_buffer("mask", torch.ones(T, T, dtype=torch.bool).tril(), persistent=False)

    def seen(self, scores: Tensor) -> Tensor:
        return self.mask


@mutant(
    "SingleHeadAttention",
    "Your mask stays on the CPU when the model moves: make it on the device of the input, or "
    "register it as a buffer.",
)
class MaskThatStaysBehind(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.triangle = torch.ones(config.context_length, config.context_length).tril().bool()

    def seen(self, scores: Tensor) -> Tensor:
        T = scores.shape[-1]
        return self.triangle[:T, :T]


@mutant(
    "SingleHeadAttention",
    "Your part has several heads, as the config says. This one has a single head, as wide as the "
    "model; module 02 splits it.",
)
class SeveralHeads(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.n_heads = config.n_heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for y in self.project(x))
        y = self.drop(self.weights(self.scores(q, k))) @ v
        return self.o_proj(y.transpose(1, 2).flatten(-2))


@mutant(
    "SingleHeadAttention",
    "The projections are as wide as a head of several. Here they are as wide as the model: (C, C).",
)
class NarrowProjections(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        C, D = config.d_model, config.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(C, D, config.bias))
        self.o_proj = nn.Linear(D, C, config.bias)


@mutant(
    "SingleHeadAttention",
    "You write into the input, which the block still needs: no operation whose name ends in an "
    "underscore, no `x += ...`.",
)
class WritesIntoItsInput(Part):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        with torch.no_grad():
            x.mul_(0.5)
        return y


@mutant(
    "SingleHeadAttention",
    "You compute in float32 whatever comes in: the output should have the dtype of x.",
)
class AlwaysFloat32(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


@mutant(
    "SingleHeadAttention",
    "No gradient reaches `q_proj` and `k_proj`: leave out detach() and torch.no_grad().",
)
class DetachedWeights(Part):
    def weights(self, scores: Tensor) -> Tensor:
        return super().weights(scores).detach()


@mutant(
    "SingleHeadAttention",
    "No gradient reaches the input, so the layers below would not learn: leave out detach().",
)
class DetachedInput(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


@mutant(
    "SingleHeadAttention",
    "You drop numbers of queries or keys as well. Only attention weights are dropped.",
)
class DropsQueriesToo(Part):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x)
        return F.dropout(q, self.p, self.training), k, v


@mutant(
    "SingleHeadAttention",
    "You return the output together with the weights. The part returns one tensor, (B, T, C).",
)
class ReturnsTheWeightsToo(Part):
    def forward(self, x: Tensor) -> Any:
        q, k, _ = self.project(x)
        return super().forward(x), self.weights(self.scores(q, k))


@mutant(
    "SingleHeadAttention",
    "There is an axis too many: the heads' axis has to go again before `o_proj`, with squeeze(1).",
)
class AnAxisTooMany(Part):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unsqueeze(1)


@rewrite("SingleHeadAttention")
class FromThePieces(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.d_model
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(C, C, bias=config.bias) for _ in range(4)
        )
        self.attention_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        scores = attention.scaled_scores(self.q_proj(x), self.k_proj(x))  # (B, T, T)
        weights = attention.masked_softmax(scores, attention.causal_mask(T, T, x.device))
        mixed = attention.weighted_average(self.attention_dropout(weights), self.v_proj(x))
        return self.o_proj(mixed)


@rewrite("SingleHeadAttention")
class FusedCall(Part):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y[:, None] for y in self.project(x))
        p = self.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return self.o_proj(y[:, 0])


@rewrite("SingleHeadAttention")
class WithAMaskBuffer(Part):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        T = config.context_length
        hidden = torch.full((T, T), -INF).triu(1)
        self.register_buffer("hidden", hidden, persistent=False)

    def weights(self, scores: Tensor) -> Tensor:
        T = scores.shape[-1]
        return torch.softmax(scores + self.hidden[:T, :T], dim=-1)


@rewrite("SingleHeadAttention")
class ByEinsum(Part):
    def forward(self, x: Tensor) -> Tensor:
        T, C = x.size(1), x.size(2)
        q, k, v = self.project(x)
        scores = torch.einsum("btc,bsc->bts", q, k) * C**-0.5
        hidden = torch.triu(torch.ones(T, T).to(x.device), diagonal=1).bool()
        weights = torch.exp(torch.log_softmax(scores.masked_fill(hidden, -INF), dim=-1))
        return self.o_proj(torch.einsum("bts,bsc->btc", self.drop(weights), v))


@rewrite("SingleHeadAttention")
class OneTokenAtATime(Part):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        rows = []
        for t in range(x.shape[1]):
            past = k[:, : t + 1]
            scores = torch.bmm(past, q[:, t].unsqueeze(-1)).squeeze(-1) / past.shape[-1] ** 0.5
            weights = self.drop(torch.softmax(scores, dim=-1))  # (B, t + 1)
            rows.append((weights.unsqueeze(-1) * v[:, : t + 1]).sum(dim=1))
        return self.o_proj(torch.stack(rows, dim=1))
