"""The decoder: token by token, the logits of the whole."""

from __future__ import annotations

import pytest
import torch
from tests.model.architectures import (
    CONTEXT,
    every_architecture,
    largest_difference,
    tiny_config,
    tiny_model,
    token_ids,
)
from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.decoder import Decoder
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import PromptError

pytestmark = pytest.mark.requirement("generate.cache")

MANY = 16  # enough sequences to be multiplied as columns


def decoded(model: Transformer, ids: Tensor, prompt: int = 1) -> Tensor:
    """Return the logits after `ids[:, :t]` for each t from `prompt` on, token by token."""
    decoder = Decoder(model, ids.shape[0])
    with torch.no_grad():
        logits = [decoder.start(ids[:, :prompt])]
        logits += [decoder.step(column) for column in ids[:, prompt:].T]
    assert decoder.cache.length == ids.shape[1]
    return torch.stack(logits, dim=1)


def whole(model: Transformer, ids: Tensor, prompt: int = 1) -> Tensor:
    with torch.no_grad():
        return model(ids)[:, prompt - 1 :]


@pytest.mark.parametrize("sequences", [1, 2, MANY])
@every_architecture
def test_its_logits_are_those_of_the_whole(config: ModelConfig, sequences: int) -> None:
    model = tiny_model(config)
    ids = token_ids(seed=1).repeat(MANY, 1)[:sequences]
    ids = (ids + torch.arange(sequences)[:, None]) % config.vocab_size
    assert largest_difference(decoded(model, ids, 5), whole(model, ids, 5)) < 2e-5


@pytest.mark.parametrize("sequences", [1, MANY])
@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_in_float64_it_chooses_identical_tokens(position: str, sequences: int) -> None:
    config = tiny_config(position=position, n_kv_heads=2, qk_norm=True)
    model = tiny_model(config, dtype=torch.float64)
    ids = token_ids(seed=2)[:1].repeat(sequences, 1)
    found, expected = decoded(model, ids), whole(model, ids)
    assert found.dtype == torch.float64
    assert largest_difference(found, expected) < 1e-11
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_it_starts_again_as_if_new() -> None:
    model, ids = tiny_model(tiny_config()), token_ids()
    decoder = Decoder(model, 2)
    with torch.no_grad():
        first = decoder.start(ids[:, :4])
        decoder.step(ids[:, 4])
        assert torch.equal(decoder.start(ids[:, :4]), first)


@pytest.mark.requirement("model.context-error")
def test_a_full_context_is_refused() -> None:
    model, ids = tiny_model(tiny_config()), token_ids()
    decoder = Decoder(model, 2)
    with torch.no_grad():
        decoder.start(ids)
        with pytest.raises(PromptError, match=str(CONTEXT + 1)):
            decoder.step(ids[:, 0])


class Doubled(MultiHeadAttention):
    """An attention that is not the reference's, and caches."""

    def forward(self, x: Tensor, cache: object = None) -> Tensor:
        return 2 * super().forward(x, cache)  # pyright: ignore[reportArgumentType]


def test_other_parts_are_called_as_they_are() -> None:
    parts, config = Parts(attention=Doubled), tiny_config()
    model = Transformer(config, parts).eval()
    model.load_state_dict(tiny_model(config).state_dict())
    ids = token_ids()
    assert largest_difference(decoded(model, ids), whole(model, ids)) < 2e-5
    assert largest_difference(whole(model, ids), whole(tiny_model(config), ids)) > 1e-2


class DoubledLinear(torch.nn.Linear):
    """A projection that is not the reference's, inside an attention that is."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return 2 * super().forward(input)


def test_a_module_put_inside_a_part_is_called_as_it_is() -> None:
    model, ids = tiny_model(tiny_config()), token_ids()
    before = whole(model, ids)
    attention = model.blocks[0].attention
    assert isinstance(attention, MultiHeadAttention)
    attention.v_proj.__class__ = DoubledLinear
    assert largest_difference(whole(model, ids), before) > 1e-2
    assert largest_difference(decoded(model, ids), whole(model, ids)) < 2e-5


def test_a_pytorch_hook_sees_every_token() -> None:
    model, ids, seen = tiny_model(tiny_config()), token_ids(), []
    model.blocks[1].register_forward_hook(lambda *_: seen.append(1))
    decoded(model, ids)
    assert len(seen) == CONTEXT
