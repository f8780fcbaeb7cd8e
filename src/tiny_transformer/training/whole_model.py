"""A model that somebody wrote whole, where the package expects the reference's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.initialization import initialize
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import forked_rng
from tiny_transformer.training.written_parts import WrittenParts

if TYPE_CHECKING:
    from tiny_transformer.model.kv_cache import KVCache


def build_model(config: ModelConfig, parts: Parts | None = None, *, seed: int = 0) -> Transformer:
    """Return the model of `parts`: a user's whole one where they have it, else the reference.

    Args:
        config: the architecture.
        parts: the classes to build from; None takes the reference for `config`.
        seed: of the first weights, which are the reference's either way.
    """
    if isinstance(parts, WrittenParts) and parts.model is not None:
        return WholeModel(config, parts, seed=seed)
    return Transformer(config, parts, seed=seed)


class WholeModel(Transformer):
    """The reference's shell around a model that a user wrote, whose forward pass runs.

    The user's modules and parameters are its own, under their names. It has no cache: a model
    that writes reads everything again.

    Args:
        config: the architecture.
        parts: has the class, `model`, which is called as the reference's is.
        seed: of the first weights, set by `initialize`.

    Attributes:
        written: the user's model.
    """

    written: nn.Module

    def __init__(self, config: ModelConfig, parts: WrittenParts, *, seed: int = 0) -> None:
        nn.Module.__init__(self)
        assert parts.model is not None
        with forked_rng(seed, "construction"):
            written = parts.model(config, parts, seed=seed)
        self.config, self.can_cache = config, False
        for name, module in written.named_children():
            self.add_module(name, module)
        for name, parameter in written.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.__dict__["written"] = written  # not a module of its own: what is in it stands above
        initialize(self, config, seed)

    def forward(
        self, ids: Int[Tensor, "B T"], cache: KVCache | None = None, *, last_only: bool = False
    ) -> Float[Tensor, "B T_out V"]:
        """Return what the user's model returns."""
        logits = self.written(ids)
        return logits[:, -1:] if last_only else logits

    def train(self, mode: bool = True) -> Any:
        """Set the mode of the user's model too."""
        self.written.train(mode)
        return super().train(mode)
