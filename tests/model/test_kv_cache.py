"""The key-value cache: whatever the pieces, the logits are those of the whole."""

from __future__ import annotations

import pytest
import torch
from tests.model.architectures import (
    CONTEXT,
    every_architecture,
    every_attention,
    largest_difference,
    tiny_config,
    tiny_model,
    token_ids,
)

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import PromptError

pytestmark = pytest.mark.requirement("generate.cache")


def in_pieces(
    model: Transformer, ids: torch.Tensor, sizes: list[int], cache: KVCache | None = None
) -> torch.Tensor:
    """Return the logits of `ids` fed in pieces of `sizes` through one cache."""
    dtype = model.get_parameter("embeddings.token.weight").dtype
    cache = cache or KVCache(model.config, ids.shape[0], dtype=dtype)
    with torch.no_grad():
        logits = [model(piece, cache) for piece in ids.split(sizes, dim=1)]
    assert cache.length == ids.shape[1]
    return torch.cat(logits, dim=1)


PIECES = [
    [CONTEXT],
    *[[prompt] + [1] * (CONTEXT - prompt) for prompt in (1, 7, CONTEXT - 1)],
    *[
        [size] * (CONTEXT // size) + [CONTEXT % size] * (CONTEXT % size > 0)
        for size in range(2, CONTEXT)
    ],
]


@every_architecture
def test_cached_logits_are_those_of_the_whole_for_every_size_of_piece(config: ModelConfig) -> None:
    model, ids = tiny_model(config), token_ids()
    with torch.no_grad():
        expected = model(ids)
    for sizes in PIECES:
        assert largest_difference(in_pieces(model, ids, sizes), expected) < 2e-5, sizes


@every_attention
def test_cached_logits_in_float64_choose_identical_tokens(attention: dict) -> None:
    model, ids = tiny_model(tiny_config(**attention), dtype=torch.float64), token_ids()
    with torch.no_grad():
        expected = model(ids)
    logits = in_pieces(model, ids, [5] + [1] * (CONTEXT - 5))
    assert logits.dtype == torch.float64
    assert largest_difference(logits, expected) < 1e-11
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


def test_fresh_weights_agree_to_1e_5() -> None:
    model, ids = Transformer(tiny_config(n_kv_heads=2, position="rotary")), token_ids()
    with torch.no_grad():
        assert largest_difference(in_pieces(model, ids, [3] + [1] * 13), model(ids)) < 1e-5


def test_the_cache_is_as_small_as_the_key_value_heads() -> None:
    cache = KVCache(tiny_config(n_kv_heads=2), 3, dtype=torch.float64)
    assert cache.keys.shape == cache.values.shape == (2, 3, 2, CONTEXT, 8)
    assert cache.keys.dtype == cache.values.dtype == torch.float64
    assert (cache.capacity, cache.length) == (CONTEXT, 0)


def test_a_layer_stores_new_keys_after_the_old_ones() -> None:
    cache = KVCache(tiny_config(), 1)
    cache.advance(token_ids(length=3))
    k, v = torch.ones(1, 4, 2, 8), torch.full((1, 4, 2, 8), 2.0)
    keys, values = cache.layer(1).extend(k, v)
    assert keys.shape == values.shape == (1, 4, 5, 8)
    assert torch.equal(keys[:, :, 3:], k)
    assert torch.equal(values[:, :, 3:], v)
    assert cache.keys[1, :, :, 3:5].eq(1).all()
    assert cache.keys.count_nonzero() == cache.values.count_nonzero() == k.numel()
    assert cache.length == 3  # counted once, by the model, after every layer


def test_a_cleared_cache_starts_again_as_if_new() -> None:
    model, ids = tiny_model(tiny_config()), token_ids()
    cache = KVCache(model.config, 2)
    in_pieces(model, token_ids(seed=9), [CONTEXT], cache)
    cache.clear()
    assert cache.length == 0
    assert torch.equal(in_pieces(model, ids, [4, 12], cache), in_pieces(model, ids, [4, 12]))


@pytest.mark.requirement("model.context-error")
def test_a_full_cache_refuses_another_token_and_is_left_as_it_was() -> None:
    model, cache = tiny_model(tiny_config()), KVCache(tiny_config(), 2)
    in_pieces(model, token_ids(), [CONTEXT], cache)
    keys = cache.keys.clone()
    with pytest.raises(PromptError, match="17"):
        model(token_ids(length=1), cache)
    assert cache.length == CONTEXT
    assert torch.equal(cache.keys, keys)


def test_last_only_gives_the_last_logits() -> None:
    model, ids = tiny_model(tiny_config()), token_ids()
    with torch.no_grad():
        expected = model(ids)[:, -1:]
        assert largest_difference(model(ids, last_only=True), expected) < 1e-5
        cache = KVCache(model.config, 2)
        model(ids[:, :9], cache, last_only=True)
        last = model(ids[:, 9:], cache, last_only=True)
    assert last.shape == (2, 1, 29)
    assert largest_difference(last, expected) < 2e-5
