"""How wrong the model is: cross-entropy over all positions."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tiny_transformer.runtime.errors import ConfigError


def compute_loss(
    logits: Float[Tensor, "B T V"],
    targets: Int[Tensor, "B T"],
    *,
    reduction: str = "mean",
) -> Float[Tensor, ""]:
    """Return the cross-entropy `-log softmax(logits)[target]` in nats, over all positions.

    Args:
        logits: scores of the next token, float.
        targets: int64 ids of the tokens that came next.
        reduction: `"mean"` or `"sum"` over the `B x T` positions.

    Raises:
        ConfigError: the shapes do not belong together.
    """
    if logits.shape[:-1] != targets.shape:
        raise ConfigError(
            f"Logits of shape {tuple(logits.shape)} need targets of shape "
            f"{tuple(logits.shape[:-1])}; got {tuple(targets.shape)}."
        )
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction=reduction)


if __name__ == "__main__":
    from tiny_transformer.model.examples import show

    show(__file__)
