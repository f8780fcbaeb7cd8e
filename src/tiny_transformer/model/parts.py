"""The replaceable components of a transformer, in one typed record."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.embeddings import Embeddings, TokenEmbedding
from tiny_transformer.model.layer_norm import LayerNorm, RMSNorm
from tiny_transformer.model.mlp import MLP
from tiny_transformer.model.positional import PositionalEmbedding
from tiny_transformer.model.transformer_block import TransformerBlock
from tiny_transformer.runtime.errors import ConfigError, suggest

# What a part must declare in `capabilities` before a config may use it.
_NEEDED = {
    "rotary": ("attention", lambda config: config.position == "rotary"),
    "grouped_heads": ("attention", lambda config: config.kv_heads != config.n_heads),
    "qk_norm": ("attention", lambda config: config.qk_norm),
    "token_window": ("embeddings", lambda config: config.token_window > 1),
}


@dataclass(frozen=True)
class Parts:
    """The classes that a `Transformer` is built from; replace any of them.

    A replacement takes the same constructor arguments, maps the same shapes, and names
    its parameters alike, so that weights load across. An attention class that can do
    more than map `(B, T, C) -> (B, T, C)` lists what in a set `capabilities`:
    `kv_cache`, `grouped_heads`, `rotary`, `qk_norm`, `weights`; an embeddings class may
    list `token_window`.

    Attributes:
        norm: `norm(dim, eps=..., bias=...)`.
        attention: `attention(config)`.
        mlp: `mlp(config)`.
        token_embedding: `token_embedding(config)`.
        positional_embedding: `positional_embedding(config)`.
        embeddings: `embeddings(config, parts)`, which builds the two above.
        block: `block(config, parts)`, which builds norms, attention and MLP.
    """

    norm: Callable[..., nn.Module] = LayerNorm
    attention: Callable[..., nn.Module] = MultiHeadAttention
    mlp: Callable[..., nn.Module] = MLP
    token_embedding: Callable[..., nn.Module] = TokenEmbedding
    positional_embedding: Callable[..., nn.Module] = PositionalEmbedding
    embeddings: Callable[..., nn.Module] = Embeddings
    block: Callable[..., nn.Module] = TransformerBlock

    @classmethod
    def for_config(cls, config: ModelConfig, **replacements: Callable[..., nn.Module]) -> Parts:
        """Return the reference parts for `config`, with `replacements` put in.

        Raises:
            ConfigError: a replacement's name is not a part.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in replacements:
            if name not in names:
                raise ConfigError(f"{name!r} is not a part of the model. {suggest(name, names)}")
        norm = RMSNorm if config.norm == "rms_norm" else LayerNorm
        return cls(**{"norm": norm, **replacements})

    def build_norm(self, config: ModelConfig) -> nn.Module:
        """Return a norm over `d_model`; only the reference classes have two backends."""
        build = self.norm
        if build in (LayerNorm, RMSNorm):
            build = functools.partial(build, explicit=config.backend == "explicit")
        return build(config.d_model, eps=config.norm_eps, bias=config.bias)

    def attention_can(self, capability: str) -> bool:
        """Return whether the attention part declares `capability`."""
        return capability in getattr(self.attention, "capabilities", ())

    def can_cache(self) -> bool:
        """Return whether past keys and values can be kept: attention and block take a cache."""
        forward = getattr(self.block, "forward", None)  # None for a function that builds one
        takes = forward is None or "cache" in inspect.signature(forward).parameters
        return takes and self.attention_can("kv_cache")

    def check(self, config: ModelConfig) -> None:
        """Raise `ConfigError` where `config` asks for what a part does not declare."""
        for capability, (field, needed) in _NEEDED.items():
            part = getattr(self, field)
            if needed(config) and capability not in getattr(part, "capabilities", ()):
                name = getattr(part, "__name__", repr(part))
                raise ConfigError(
                    f"The config asks for {capability}, but the {field} part {name} does not "
                    f"list {capability!r} in its `capabilities`. Change the config, or add it."
                )
