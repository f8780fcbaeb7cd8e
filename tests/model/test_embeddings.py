"""Token and position embeddings, and their sum."""

from __future__ import annotations

import pytest
import torch
from tests.model.architectures import (
    POSITIONS,
    largest_difference,
    scramble,
    tiny_config,
    token_ids,
)

from tiny_transformer.model.embeddings import Embeddings, TokenEmbedding
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.positional import PositionalEmbedding
from tiny_transformer.runtime.random_state import forked_rng


@pytest.mark.requirement("model.embedding-scale")
@pytest.mark.parametrize(("scaled", "factor"), [(False, 1.0), (True, 32**0.5)])
def test_each_id_gets_its_row_scaled_if_the_config_says_so(scaled: bool, factor: float) -> None:
    embedding = TokenEmbedding(tiny_config(scale_embeddings=scaled))
    scramble(embedding)
    ids = token_ids()
    vectors = embedding(ids)
    for b, t in ((0, 0), (1, 7), (1, 15)):
        expected = embedding.weight[ids[b, t]] * factor
        assert largest_difference(vectors[b, t], expected) < 1e-6


@pytest.mark.requirement("model.positions")
@pytest.mark.parametrize("position", POSITIONS)
def test_positions_are_added_where_they_are_vectors(position: str) -> None:
    config = tiny_config(position=position)
    embeddings = Embeddings(config, Parts.for_config(config))
    scramble(embeddings)
    ids, added = token_ids(length=5), position in ("learned", "sinusoidal")
    expected = embeddings.token(ids)
    if added:
        assert isinstance(embeddings.position, PositionalEmbedding)
        expected = expected + embeddings.position.weight[6:11]
    assert (embeddings.position is not None) is added
    assert torch.equal(embeddings(ids, offset=6), expected)


def test_embedding_dropout_acts_in_training_only() -> None:
    config = tiny_config(dropout=0.5)
    embeddings = Embeddings(config, Parts.for_config(config))
    scramble(embeddings)
    ids = token_ids()
    clean = embeddings.eval()(ids)
    with forked_rng(1):
        noisy = embeddings.train()(ids)
    kept = noisy != 0
    assert 0.4 < kept.float().mean().item() < 0.6
    assert largest_difference(noisy[kept], 2 * clean[kept]) < 1e-5


@pytest.mark.requirement("model.token-window")
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("n_before", [0, 1, 2, 5])
def test_a_window_adds_a_vector_for_each_earlier_token(n_before: int, scaled: bool) -> None:
    config = tiny_config(token_window=4, position="none", scale_embeddings=scaled)
    embeddings = Embeddings(config, Parts.for_config(config))
    scramble(embeddings)
    ids = token_ids(length=n_before + 6)
    given = embeddings(ids[:, n_before:], n_before, ids[:, :n_before] if n_before else None)
    assert embeddings.earlier is not None
    tables = [embeddings.get_parameter("token.weight"), *embeddings.earlier]
    for b in range(len(ids)):
        for t in range(6):
            seen = reversed(ids[b, : n_before + t + 1].tolist())
            rows = [table[i] for table, i in zip(tables, seen, strict=False)]
            expected = torch.stack(rows).sum(dim=0)
            factor = 32**0.5 if scaled else 1.0
            assert largest_difference(given[b, t], expected * factor) < 1e-5


@pytest.mark.requirement("model.token-window")
def test_a_window_longer_than_the_text_is_of_no_harm() -> None:
    config = tiny_config(token_window=9)
    embeddings = Embeddings(config, Parts.for_config(config))
    scramble(embeddings)
    ids = token_ids(length=7)
    assert torch.equal(embeddings(ids)[:, :3], embeddings(ids[:, :3]))
