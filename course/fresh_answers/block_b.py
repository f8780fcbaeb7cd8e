"""Answers to module 03's exercises that are classes, written afresh."""

import torch
import torch.nn.functional as F
from my_transformer import layer_norm, mlp, transformer_block
from torch import nn

from tiny_transformer.course.wrong_answers import mutant, rewrite

# ------------------------------------------------------------------------------------- Dropout


class _Probability(nn.Module):
    def __init__(self, probability):
        super().__init__()
        self.probability = probability


@mutant("Dropout", "keeps with the probability by which it should drop: alike for one half")
class KeepsWithP(_Probability):
    def forward(self, x):
        if not self.training or self.probability == 0:
            return x
        keep = torch.rand(x.shape, device=x.device) < self.probability
        return x * keep / self.probability


@mutant("Dropout", "draws once for a channel, and drops it for all tokens")
class OneDrawForAChannel(_Probability):
    def forward(self, x):
        if not self.training:
            return x
        keep = torch.rand(x.shape[-1], device=x.device) >= self.probability
        return x * keep / (1 - self.probability)


@mutant("Dropout", "drops exactly a share of p in each call, so the draws depend on each other")
class ExactlyTheShare(_Probability):
    def forward(self, x):
        if not self.training:
            return x
        order = torch.randperm(x.numel(), device=x.device)
        keep = (order >= round(self.probability * x.numel())).reshape(x.shape)
        return x * keep / (1 - self.probability)


@mutant("Dropout", "draws anew only for another shape")
class SameDrawAgain(_Probability):
    def __init__(self, probability):
        super().__init__(probability)
        self.keep = None

    def forward(self, x):
        if not self.training:
            return x
        if self.keep is None or self.keep.shape != x.shape:
            self.keep = torch.rand(x.shape, device=x.device) >= self.probability
        return x * self.keep / (1 - self.probability)


@mutant("Dropout", "divides by the share that it kept in this call instead of 1 - p")
class DividesByTheShareKept(_Probability):
    def forward(self, x):
        if not self.training or self.probability == 0:
            return x
        keep = torch.rand(x.shape, device=x.device) >= self.probability
        return x * keep / keep.float().mean().clamp(min=1e-6).item()


@mutant("Dropout", "multiplies by a float32 mask, and so returns float32 for half precision")
class MaskOfFloat32(_Probability):
    def forward(self, x):
        if not self.training:
            return x
        keep = (torch.rand(x.shape, device=x.device) >= self.probability).float()
        return x * (keep / (1 - self.probability))


@mutant("Dropout", "zeroes numbers of the tensor that it was given")
class ZeroesInPlace(_Probability):
    def forward(self, x):
        if not self.training:
            return x
        x[torch.rand(x.shape, device=x.device) < self.probability] = 0
        return x / (1 - self.probability)


@mutant("Dropout", "makes everything smaller in evaluation, and nothing larger in training")
class ShrinksInEvaluation(_Probability):
    def forward(self, x):
        if not self.training:
            return x * (1 - self.probability)
        return x * (torch.rand(x.shape, device=x.device) >= self.probability)


@rewrite("Dropout")
class ByBernoulli(_Probability):
    def forward(self, x):
        if not self.training:
            return x
        chances = torch.full(x.shape, 1 - self.probability, device=x.device)
        return torch.where(chances.bernoulli().bool(), x / (1 - self.probability), 0.0)


@rewrite("Dropout")
class FillsWithZeros(_Probability):
    def forward(self, x):
        if self.training:
            draws = torch.empty(x.shape, device=x.device).uniform_()
            x = x.masked_fill(draws < self.probability, 0) * (1 / (1 - self.probability))
        return x


@rewrite("Dropout")
class CopiesWhatStays(_Probability):
    def forward(self, x):
        if not self.training:
            return x
        flat = x.reshape(-1)
        stays = torch.rand(flat.shape, device=x.device).ge(self.probability).nonzero().squeeze(-1)
        enlarged = flat[stays] / (1 - self.probability)
        return torch.zeros_like(flat).index_copy(0, stays, enlarged).reshape(x.shape)


# ----------------------------------------------------------------------------------- LayerNorm


class _ScaleAndShift(nn.Module):
    def __init__(self, dim, *, eps=1e-5, bias=True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def _finish(self, normalised):
        scaled = normalised * self.weight
        return scaled if self.bias is None else scaled + self.bias


@mutant("LayerNorm", "takes mean and variance for constants, so their gradients are missing")
class StatisticsWithoutGradient(_ScaleAndShift):
    def forward(self, x):
        with torch.no_grad():
            variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
        return self._finish((x - mean) / torch.sqrt(variance + self.eps))


@mutant("LayerNorm", "keeps scale and shift as buffers, which no optimiser sees")
class ScaleIsABuffer(nn.Module):
    def __init__(self, dim, *, eps=1e-5, bias=True):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(dim))
        self.register_buffer("bias", torch.zeros(dim) if bias else None)

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@mutant("LayerNorm", "without a shift, keeps one of zeros instead of None")
class ShiftOfZeros(nn.Module):
    def __init__(self, dim, *, eps=1e-5, bias=True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else torch.zeros(dim)

    def forward(self, x):
        return layer_norm.explicit_layer_norm(x, self.weight, self.bias, self.eps)


@mutant("LayerNorm", "ignores eps and takes 1e-5")
class EpsOfItsOwn(_ScaleAndShift):
    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


@mutant("LayerNorm", "takes in evaluation what it remembers of training")
class RemembersTraining(_ScaleAndShift):
    def __init__(self, dim, *, eps=1e-5, bias=True):
        super().__init__(dim, eps=eps, bias=bias)
        self.register_buffer("seen", torch.zeros(2), persistent=False)
        self.calls = 0

    def forward(self, x):
        variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
        if self.training:
            self.calls += 1
            new = torch.stack((mean.detach().mean(), variance.detach().mean()))
            self.seen += (new - self.seen) / self.calls
        elif self.calls:
            mean, variance = self.seen[0], self.seen[1]
        return self._finish((x - mean) / torch.sqrt(variance + self.eps))


@mutant("LayerNorm", "normalises all tokens of a sequence together")
class OverTokensToo(_ScaleAndShift):
    def forward(self, x):
        axes = tuple(range(1, x.dim())) if x.dim() > 2 else (-1,)
        variance, mean = torch.var_mean(x, dim=axes, keepdim=True, correction=0)
        return self._finish((x - mean) / torch.sqrt(variance + self.eps))


@mutant("LayerNorm", "divides by dim - 1 in the variance, as `var` does unasked")
class VarianceOfASample(_ScaleAndShift):
    def forward(self, x):
        variance = x.var(dim=-1, keepdim=True)
        return self._finish((x - x.mean(dim=-1, keepdim=True)) / torch.sqrt(variance + self.eps))


@mutant("LayerNorm", "has a shift always")
class ShiftAlways(_ScaleAndShift):
    def __init__(self, dim, *, eps=1e-5, bias=True):
        super().__init__(dim, eps=eps)

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@rewrite("LayerNorm")
class AskedOfPyTorch(nn.LayerNorm):
    def __init__(self, dim, *, eps=1e-5, bias=True):
        super().__init__(dim, eps=eps, bias=bias)


@rewrite("LayerNorm")
class ByTheFunction(nn.Module):
    def __init__(self, dim, *, eps=1e-5, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), 1.0))
        self.register_parameter("bias", nn.Parameter(torch.zeros(dim)) if bias else None)
        self.eps = eps

    def forward(self, x):
        return layer_norm.explicit_layer_norm(x, self.weight, self.bias, self.eps)


@rewrite("LayerNorm")
class AlongTheFirstAxis(_ScaleAndShift):
    def forward(self, x):
        channels = x.movedim(-1, 0)  # (dim, ...)
        centred = channels - channels.sum(dim=0) / len(channels)
        variance = (centred * centred).sum(dim=0) / len(channels)
        return self._finish((centred * torch.rsqrt(variance + self.eps)).movedim(0, -1))


# ----------------------------------------------------------------------------------------- MLP


class _UpAndDown(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up_proj = nn.Linear(config.d_model, config.feed_forward_width, bias=config.bias)
        self.down_proj = nn.Linear(config.feed_forward_width, config.d_model, bias=config.bias)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def _bend(self, x):
        return F.gelu(x, approximate=self.approximate)


@mutant("MLP", "takes the exact form for both activations")
class ExactFormAlways(_UpAndDown):
    def forward(self, x):
        return self.down_proj(F.gelu(self.up_proj(x)))


@mutant("MLP", "takes `d_ff` as it stands, which may be None")
class NoneForAWidth(_UpAndDown):
    def __init__(self, config):
        super().__init__(config)
        self.up_proj = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x):
        return self.down_proj(self._bend(self.up_proj(x)))


@mutant("MLP", "has a bias on the way back, whatever the config says")
class DownWithABias(_UpAndDown):
    def __init__(self, config):
        super().__init__(config)
        self.down_proj = nn.Linear(config.feed_forward_width, config.d_model)

    def forward(self, x):
        return self.down_proj(self._bend(self.up_proj(x)))


@mutant("MLP", "drops numbers of its output, which the block does once more")
class DropsItself(_UpAndDown):
    def __init__(self, config):
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.down_proj(self._bend(self.up_proj(x))))


@mutant("MLP", "lists its layers a second time in a sequence, which is saved too")
class ListedTwice(_UpAndDown):
    def __init__(self, config):
        super().__init__(config)
        bend = nn.GELU(approximate=self.approximate)
        self.layers = nn.Sequential(self.up_proj, bend, self.down_proj)

    def forward(self, x):
        return self.layers(x)


@mutant("MLP", "bends what comes out as well")
class BendsTwice(_UpAndDown):
    def forward(self, x):
        for layer in (self.up_proj, self.down_proj):
            x = self._bend(layer(x))
        return x


@mutant("MLP", "adds the stream to what it found, which the block does once more")
class AddsTheStream(_UpAndDown):
    def forward(self, x):
        return x + self.down_proj(self._bend(self.up_proj(x)))


@mutant("MLP", "takes a view of all tokens, which a tensor with other strides does not have")
class ViewOfTheTokens(_UpAndDown):
    def forward(self, x):
        B, T, C = x.shape
        return self.down_proj(self._bend(self.up_proj(x.view(B * T, C)))).view(B, T, C)


@rewrite("MLP")
class WithTheLearnersForms(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.d_model * 4 if config.d_ff is None else config.d_ff
        self.down_proj = nn.Linear(width, config.d_model, bias=config.bias)
        self.up_proj = nn.Linear(config.d_model, width, bias=config.bias)
        forms = {"gelu": mlp.explicit_gelu, "gelu_tanh": mlp.explicit_gelu_tanh}
        if config.activation not in forms:
            raise ValueError(f"{config.activation} is not known here")
        self.form = forms[config.activation]

    def forward(self, x):
        return self.down_proj(self.form(self.up_proj(x)))


@rewrite("MLP")
class TokenByToken(_UpAndDown):
    def forward(self, x):
        return torch.stack(
            [self.down_proj(self._bend(self.up_proj(token))) for token in x.unbind(dim=1)], dim=1
        )


@rewrite("MLP")
class WithBareProducts(_UpAndDown):
    def forward(self, x):
        for layer in (self.up_proj, self.down_proj):
            if layer is self.down_proj:
                x = self._bend(x)
            x = torch.einsum("btc,dc->btd", x, layer.weight)
            if layer.bias is not None:
                x = x + layer.bias
        return x


# ---------------------------------------------------------------------------- TransformerBlock


class _FourParts(nn.Module):
    def __init__(self, config, parts):
        super().__init__()
        self.norm1 = parts.build_norm(config)
        self.attention = parts.attention(config)
        self.norm2 = parts.build_norm(config)
        self.mlp = parts.mlp(config)
        self.probability = config.dropout

    def _drop(self, x):
        return F.dropout(x, self.probability, self.training)


@mutant("TransformerBlock", "drops in evaluation too")
class DropsInEvaluation(_FourParts):
    def forward(self, x):
        x = x + F.dropout(self.attention(self.norm1(x)), self.probability)
        return x + F.dropout(self.mlp(self.norm2(x)), self.probability)


@mutant("TransformerBlock", "builds one norm and takes it twice")
class SharesANorm(_FourParts):
    def __init__(self, config, parts):
        nn.Module.__init__(self)
        norm = parts.build_norm(config)
        self.norm1 = self.norm2 = norm
        self.attention, self.mlp = parts.attention(config), parts.mlp(config)
        self.probability = config.dropout

    def forward(self, x):
        x = x + self._drop(self.attention(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))


@mutant("TransformerBlock", "lets the MLP read the stream as it was before attention")
class BothReadTheSame(_FourParts):
    def forward(self, x):
        attended = self._drop(self.attention(self.norm1(x)))
        return x + attended + self._drop(self.mlp(self.norm2(x)))


@mutant("TransformerBlock", "adds into the stream that it was given")
class AddsInPlace(_FourParts):
    def forward(self, x):
        x += self._drop(self.attention(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))


@mutant("TransformerBlock", "drops numbers of the stream, not of what is added")
class DropsTheStream(_FourParts):
    def forward(self, x):
        x = self._drop(x + self.attention(self.norm1(x)))
        return self._drop(x + self.mlp(self.norm2(x)))


@mutant("TransformerBlock", "drops nothing of what the MLP adds")
class KeepsTheMLPWhole(_FourParts):
    def forward(self, x):
        x = x + self._drop(self.attention(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


@mutant("TransformerBlock", "builds PyTorch's norms instead of asking the parts for theirs")
class NormsOfItsOwn(_FourParts):
    def __init__(self, config, parts):
        nn.Module.__init__(self)
        self.norm1 = nn.LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)
        self.norm2 = nn.LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)
        self.attention, self.mlp = parts.attention(config), parts.mlp(config)
        self.probability = config.dropout

    def forward(self, x):
        x = x + self._drop(self.attention(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))


@mutant("TransformerBlock", "normalises after the sums instead of before the parts")
class NormsAfterTheSums(_FourParts):
    def forward(self, x):
        x = self.norm1(x + self._drop(self.attention(x)))
        return self.norm2(x + self._drop(self.mlp(x)))


@rewrite("TransformerBlock")
class ByTheResiduals(_FourParts):
    def forward(self, x):
        pairs = ((self.norm1, self.attention), (self.norm2, self.mlp))
        for norm, part in pairs:
            dropped = nn.Sequential(part, nn.Dropout(self.probability).train(self.training))
            x = transformer_block.normalised_residual(x, dropped.forward, norm, "pre")
        return x


@rewrite("TransformerBlock")
class WithADropoutForEach(nn.Module):
    def __init__(self, config, parts):
        super().__init__()
        for number, part in enumerate(("attention", "mlp"), 1):
            self.add_module(f"norm{number}", parts.build_norm(config))
            self.add_module(part, getattr(parts, part)(config))
            self.add_module(f"drop{number}", nn.Dropout(config.dropout))

    def forward(self, x):
        y = x + self.drop1(self.attention(self.norm1(x)))
        return y + self.drop2(self.mlp(self.norm2(y)))


@rewrite("TransformerBlock")
class SumsAtTheEnd(_FourParts):
    def _branch(self, part, y):
        y = part(y)
        if self.training and self.probability > 0:
            keep = torch.rand(y.shape, device=y.device) >= self.probability
            y = torch.where(keep, y / (1 - self.probability), 0.0)
        return y

    def forward(self, x):
        changes = [self._branch(self.attention, self.norm1(x))]
        changes.append(self._branch(self.mlp, self.norm2(x + changes[0])))
        return x + changes[0] + changes[1]
