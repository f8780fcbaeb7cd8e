"""Forward hooks that ship: what activations tell about a model that learns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tiny_transformer.config.checks import check
from tiny_transformer.hooks.base import ForwardHook, Probe, Site
from tiny_transformer.model.loss import compute_loss


@dataclass
class ActivationStats(ForwardHook):
    """Mean and standard deviation of each output, over batch, time and channels."""

    sites = ("embeddings", "attention", "mlp", "block")

    def observe(self, site: Site, output: Tensor, probe: Probe) -> dict[str, float]:
        """Return `mean` and `std` (population form)."""
        values = output.float()
        return {"mean": values.mean().item(), "std": values.std(correction=0).item()}


@dataclass
class AttentionEntropy(ForwardHook):
    """Entropy of each head's attention in nats, as a share of the largest possible.

    0: each query looks at one key; 1: at all earlier keys alike. The first query, which has
    one key to look at, is left out. Entropy near 0 comes before instability: Zhai et al.
    2023, "Stabilizing Transformer Training by Preventing Attention Entropy Collapse".
    """

    sites = ("attention_weights",)

    def observe(self, site: Site, output: Tensor, probe: Probe) -> dict[str, float]:
        """Return the mean of the layer, and each head's."""
        weights = output[:, :, 1:].float()  # (B, H, T - 1, T)
        if weights.shape[2] == 0:
            return {}
        entropy = torch.special.entr(weights).sum(dim=-1)  # (B, H, T - 1)
        largest = torch.arange(2, output.shape[2] + 1, device=output.device).log()
        heads = (entropy / largest).mean(dim=(0, 2)).tolist()
        mean = math.fsum(heads) / len(heads)
        return {"mean": mean} | {f"head_{h}": value for h, value in enumerate(heads)}


@dataclass
class DeadUnits(ForwardHook):
    """Share of the MLP's inner units whose size stays within `threshold` on the whole batch."""

    threshold: float = 1e-3
    sites = ("mlp_hidden",)

    def __post_init__(self) -> None:
        check(
            self.threshold >= 0,
            f"hooks.dead_units.threshold is {self.threshold}; it must be at least 0.",
        )

    def observe(self, site: Site, output: Tensor, probe: Probe) -> dict[str, float]:
        """Return the share of units that never fire, between 0 and 1."""
        largest = output.abs().flatten(0, -2).amax(dim=0)  # (F,)
        return {"share": (largest <= self.threshold).float().mean().item()}


@dataclass
class LogitLens(ForwardHook):
    """Loss, if the model stopped after a layer: its output through final norm and head.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """

    sites = ("embeddings", "block")

    def observe(self, site: Site, output: Tensor, probe: Probe) -> dict[str, float]:
        """Return the mean cross-entropy in nats, and the share of right first guesses."""
        logits = probe.unembed(output)  # (B, T, V)
        loss = compute_loss(logits, probe.targets)
        right = (logits.argmax(dim=-1) == probe.targets).float().mean()
        return {"loss": loss.item(), "accuracy": right.item()}
