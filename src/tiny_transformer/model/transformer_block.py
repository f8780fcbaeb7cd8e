"""One transformer block: attention and MLP, each normalised first and added back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.dropout import Dropout
from tiny_transformer.model.kv_cache import LayerCache

if TYPE_CHECKING:
    from tiny_transformer.model.parts import Parts


class TransformerBlock(nn.Module):
    """`x + drop(attention(norm1(x)))`, then `x + drop(mlp(norm2(x)))` (Pre-LN).

    Args:
        config: the architecture.
        parts: gives the classes of the norms, the attention and the MLP.

    Shape: `(B, T, C) -> (B, T, C)`. Source: Xiong et al. 2020, "On Layer Normalization
    in the Transformer Architecture", figure 1b.
    """

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.norm1 = parts.build_norm(config)
        self.attention = parts.attention(config)
        self.norm2 = parts.build_norm(config)
        self.mlp = parts.mlp(config)
        self.dropout = Dropout(config.dropout_probability)

    def forward(
        self, x: Float[Tensor, "B T C"], cache: LayerCache | None = None
    ) -> Float[Tensor, "B T C"]:
        """Read from the residual stream twice, and add to it twice."""
        y = self.norm1(x)
        y = self.attention(y) if cache is None else self.attention(y, cache=cache)
        x = x + self.dropout(y)
        return x + self.dropout(self.mlp(self.norm2(x)))


if __name__ == "__main__":
    from tiny_transformer.model.examples import show

    show(__file__)
