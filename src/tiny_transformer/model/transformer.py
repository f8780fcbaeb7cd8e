"""The whole model: token ids in, logits over the next token out."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.initialization import initialize
from tiny_transformer.model.kv_cache import KVCache, check_fits
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.runtime.random_state import forked_rng


class Transformer(nn.Module):
    """A decoder-only transformer language model.

    Args:
        config: the architecture.
        parts: the classes to build from; None takes the reference for `config`.
        seed: seed of the first weights; the global generator is left as it was.

    Raises:
        ConfigError: the config asks for what the attention part cannot do.

    Source: Vaswani et al. 2017, "Attention Is All You Need"; Radford et al. 2019,
    "Language Models are Unsupervised Multitask Learners", section 2.3.
    """

    def __init__(self, config: ModelConfig, parts: Parts | None = None, *, seed: int = 0) -> None:
        super().__init__()
        parts = parts or Parts.for_config(config)
        parts.check(config)
        self.config = config
        self.can_cache = parts.can_cache()
        with forked_rng(seed, "construction"):  # a part may draw numbers while it is built
            self.embeddings = parts.embeddings(config, parts)
            self.blocks = nn.ModuleList(parts.block(config, parts) for _ in range(config.n_layers))
            self.final_norm = parts.build_norm(config)
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_weights:
            # Press and Wolf 2017, "Using the Output Embedding to Improve Language Models".
            self.lm_head.weight = self.get_parameter("embeddings.token.weight")
        initialize(self, config, seed)

    def forward(
        self, ids: Int[Tensor, "B T"], cache: KVCache | None = None, *, last_only: bool = False
    ) -> Float[Tensor, "B T_out V"]:
        """Return the logits of the token after each position.

        Args:
            ids: int64 token ids, at most `context_length` of them a row.
            cache: keys and values of the tokens before `ids`; extended by them.
            last_only: return the last position's logits alone, `(B, 1, V)`.

        Returns:
            float32 logits at every precision (float64 for a float64 model).

        Raises:
            ConfigError: `ids` is not (B, T).
            PromptError: the input is longer than the context, or empty.
        """
        x = self.residual_stream(ids, cache)
        if last_only:
            x = x[:, -1:]
        logits = self.lm_head(self.final_norm(x))  # (B, T, V)
        return logits if logits.dtype.itemsize >= 4 else logits.float()

    def residual_stream(
        self, ids: Int[Tensor, "B T"], cache: KVCache | None = None
    ) -> Float[Tensor, "B T C"]:
        """Return what the last block leaves, before the final norm; see `forward`."""
        if ids.ndim != 2:
            raise ConfigError(
                f"The model takes token ids of shape (B, T); got shape {tuple(ids.shape)}."
            )
        past = 0 if cache is None else cache.length
        length = ids.shape[1]
        check_fits(past, length, self.config.context_length)
        x = self.embed(ids, cache)  # (B, T, C)
        for index, block in enumerate(self.blocks):
            x = block(x) if cache is None else block(x, cache=cache.layer(index))
        if cache is not None:
            cache.advance(ids)
        return x

    def embed(self, ids: Int[Tensor, "B T"], cache: KVCache | None) -> Float[Tensor, "B T C"]:
        """Return the first vectors of `ids`, which come after those in the cache."""
        past = 0 if cache is None else cache.length
        if cache is None or self.config.token_window == 1:
            return self.embeddings(ids, past)
        return self.embeddings(ids, past, cache.ids)

    def n_parameters(self, *, embeddings: bool = True) -> int:
        """Return the number of parameters, shared ones once.

        Args:
            embeddings: False leaves out the position table and an untied token table, as
                is usual when models are compared.
        """
        total = sum(p.numel() for p in self.parameters())
        if embeddings:
            return total
        left_out = [p for n, p in self.embeddings.named_parameters() if n.endswith("weight")]
        if self.config.tie_weights:
            left_out = [p for p in left_out if p is not self.lm_head.weight]
        return total - sum(p.numel() for p in left_out)


if __name__ == "__main__":
    from tiny_transformer.model.examples import show

    show(__file__)
