"""Parts: any component can be replaced, and what a replacement cannot do is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.model.architectures import largest_difference, tiny_config, tiny_model, token_ids
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.embeddings import Embeddings
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.runtime.random_state import forked_rng

pytestmark = pytest.mark.requirement("model.parts")

FIELDS = [field.name for field in dataclasses.fields(Parts)]
# How often a two-layer model builds each part.
BUILT = {
    "norm": 5,
    "attention": 2,
    "mlp": 2,
    "token_embedding": 1,
    "positional_embedding": 1,
    "embeddings": 1,
    "block": 2,
}


def replacement(name: str, config: ModelConfig) -> type[nn.Module]:
    """Return a subclass of the reference part, with the same parameters, that counts calls."""
    reference: Any = getattr(Parts.for_config(config), name)

    class Mine(reference):
        built = 0
        calls = 0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            type(self).built += 1

        def forward(self, *arguments: Any, **options: Any) -> Tensor:
            type(self).calls += 1
            return super().forward(*arguments, **options)

    return Mine


def test_there_are_at_most_seven_parts() -> None:
    assert list(BUILT) == FIELDS
    assert len(FIELDS) <= 7


@pytest.mark.parametrize("config", [tiny_config(), tiny_config(norm="rms_norm")])
@pytest.mark.parametrize("name", FIELDS)
def test_a_replacement_is_used_and_is_the_only_one_used(name: str, config: ModelConfig) -> None:
    reference: Any = getattr(Parts.for_config(config), name)
    mine: Any = replacement(name, config)
    model = Transformer(config, Parts.for_config(config, **{name: mine}))
    instances = [module for module in model.modules() if isinstance(module, reference)]
    assert len(instances) == mine.built == BUILT[name]
    assert all(type(module) is mine for module in instances)
    assert torch.equal(model(token_ids()), Transformer(config)(token_ids()))
    assert mine.calls == BUILT[name]


def test_all_parts_can_be_replaced_at_once_and_weights_load_across() -> None:
    config = tiny_config()
    mine = {name: replacement(name, config) for name in FIELDS}
    model = Transformer(config, Parts.for_config(config, **mine), seed=8)
    reference = tiny_model(config)
    assert largest_difference(model(token_ids()), reference(token_ids())) > 1e-2
    model.load_state_dict(reference.state_dict(), strict=True)
    assert torch.equal(model(token_ids()), reference(token_ids()))


@pytest.mark.parametrize(
    ("name", "answer"), [("atention", "'attention'"), ("zzz", "Valid names: attention, block")]
)
def test_a_part_that_does_not_exist_is_refused(name: str, answer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Parts.for_config(tiny_config(), **{name: nn.Identity})
    assert repr(name) in str(caught.value)
    assert answer in str(caught.value)


class PlainAttention(nn.Module):
    """What a learner writes first: no cache, no options, dropout as a module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model
        self.n_heads = config.n_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

        q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = self.dropout(scores.masked_fill(future, float("-inf")).softmax(-1))
        return self.o_proj((weights @ v).transpose(1, 2).flatten(-2))


def test_an_attention_without_capabilities_works_without_a_cache() -> None:
    config = tiny_config()
    model = Transformer(config, Parts.for_config(config, attention=PlainAttention))
    reference = Transformer(config)
    assert largest_difference(model(token_ids()), reference(token_ids())) < 1e-5
    assert model.can_cache is False
    assert reference.can_cache is True
    compute_loss(model(token_ids()), token_ids(seed=4)).backward()


@pytest.mark.parametrize(
    ("choice", "capability"),
    [
        ({"position": "rotary"}, "rotary"),
        ({"n_kv_heads": 2}, "grouped_heads"),
        ({"qk_norm": True}, "qk_norm"),
    ],
)
def test_what_an_attention_does_not_declare_is_refused_by_name(
    choice: dict[str, Any], capability: str
) -> None:
    config = tiny_config(**choice)
    with pytest.raises(ConfigError) as caught:
        Transformer(config, Parts.for_config(config, attention=PlainAttention))
    assert "PlainAttention" in str(caught.value)
    assert repr(capability) in str(caught.value)

    class Declared(MultiHeadAttention):
        capabilities = frozenset({capability})

    model = Transformer(config, Parts.for_config(config, attention=Declared))
    assert model.can_cache is False


@pytest.mark.requirement("model.token-window")
def test_an_embedding_that_knows_no_window_is_refused_by_name() -> None:
    class PlainEmbeddings(Embeddings):
        capabilities = frozenset()

    config = tiny_config(token_window=2)
    with pytest.raises(ConfigError, match=r"asks for token_window.*PlainEmbeddings"):
        Transformer(config, Parts.for_config(config, embeddings=PlainEmbeddings))
    Transformer(tiny_config(), Parts.for_config(tiny_config(), embeddings=PlainEmbeddings))


def test_kv_heads_equal_to_heads_need_no_capability() -> None:
    config = tiny_config(n_kv_heads=4)
    Transformer(config, Parts.for_config(config, attention=PlainAttention))


def test_a_part_with_its_own_dropout_is_reproducible_in_a_forked_generator() -> None:
    config = tiny_config(dropout=0.5)
    model = Transformer(config, Parts.for_config(config, attention=PlainAttention)).train()
    outputs = []
    for step in (1, 1, 2):
        torch.rand(3)  # whatever ran before
        before = torch.get_rng_state()
        with forked_rng(0, "dropout", step):
            outputs.append(model(token_ids()))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


class DrawingAttention(PlainAttention):
    """Keeps a table of random numbers that is no parameter."""

    table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("table", torch.randn(4))


def test_a_part_that_draws_while_it_is_built_depends_on_the_seed_alone() -> None:
    config = tiny_config()
    parts = Parts.for_config(config, attention=DrawingAttention)
    tables = []
    for seed in (1, 1, 2):
        torch.rand(3)
        before = torch.get_rng_state()
        model = Transformer(config, parts, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        tables.append(
            torch.stack([m.table for m in model.modules() if isinstance(m, DrawingAttention)])
        )
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
    assert not torch.equal(tables[0][0], tables[0][1])
