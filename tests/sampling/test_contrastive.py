"""Contrastive search: against its formula written another way, with and without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.architectures import CONTEXT, VOCABULARY
from tests.model.architectures import decisive_model as build
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, DivergedError, PromptError
from tiny_transformer.sampling.contrastive import contrastive_search
from tiny_transformer.sampling.generator import generate_tokens

pytestmark = pytest.mark.requirement("generate.contrastive")

PROMPT = [4, 1, 2]


def search(model: Transformer, **changes: Any) -> list[int]:
    options: dict[str, Any] = {"max_new_tokens": 3 * CONTEXT, "k": 4, "alpha": 0.6}
    return list(contrastive_search(model, PROMPT, **{**options, **changes}))


def greedy(model: Transformer) -> list[int]:
    config = SamplingConfig(temperature=0, max_new_tokens=3 * CONTEXT)
    return [int(ids) for ids in generate_tokens(model, PROMPT, config)]


@torch.no_grad()
def read(model: Transformer, context: list[int]) -> tuple[Tensor, list[float]]:
    """Return the final norm's output at each token, and the next token's probabilities."""
    norms: list[Tensor] = []
    handle = model.final_norm.register_forward_hook(lambda *arguments: norms.append(arguments[2]))
    logits = model(torch.tensor([context]))[0, -1]
    handle.remove()
    return norms[0][0], logits.softmax(-1).tolist()


def by_hand(model: Transformer, length: int, k: int, alpha: float) -> list[int]:
    """Return what equation 5 gives, one candidate at a time, everything read again."""
    limit, context, chosen = model.config.context_length, PROMPT, []
    for _ in range(length):
        _, probabilities = read(model, context)
        likeliest = sorted(range(VOCABULARY), key=lambda token: -probabilities[token])[:k]
        best = (-float("inf"), context)
        for token in likeliest:
            longer = [*context, token]
            if len(longer) > limit:
                longer = longer[-max(1, limit // 2) :]
            hidden, _ = read(model, longer)
            cosines = torch.cosine_similarity(hidden[-1:], hidden[:-1])
            likeness = cosines.max().item() if len(cosines) else 0.0
            score = (1 - alpha) * probabilities[token] - alpha * likeness
            if score > best[0]:
                best = (score, longer)
        context = best[1]
        chosen.append(context[-1])
    return chosen


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"position": "rotary", "n_kv_heads": 2, "norm": "rms_norm"},
        {"token_window": 4, "scale_embeddings": True},
        {"position": "sinusoidal", "tie_weights": False},
    ],
    ids=str,
)
def test_it_chooses_by_the_formula_also_past_the_context(settings: dict[str, Any]) -> None:
    model = build(context_length=6, **settings)
    for k, alpha in ((4, 0.6), (3, 0.2), (6, 1.0)):
        expected = by_hand(model, 14, k, alpha)
        for use_cache in (True, False):
            options: dict[str, Any] = {"k": k, "alpha": alpha, "use_cache": use_cache}
            assert search(model, max_new_tokens=14, **options) == expected


@pytest.mark.parametrize("context", [3, 4, 5])
def test_small_contexts_follow_the_plan(context: int) -> None:
    model = build(context_length=context)
    expected = by_hand(model, 3 * context, 4, 0.6)
    for use_cache in (True, False):
        assert search(model, max_new_tokens=3 * context, use_cache=use_cache) == expected


@pytest.mark.parametrize("context", [1, 2])
def test_a_token_alone_in_its_context_is_like_nothing(context: int) -> None:
    model = build(context_length=context)
    for use_cache in (True, False):
        options: dict[str, Any] = {"max_new_tokens": 9, "k": 4, "use_cache": use_cache}
        found = list(contrastive_search(model, [4], alpha=0.6, **options))
        if context == 1:
            assert found == list(contrastive_search(model, [4], alpha=0.0, **options))
        assert len(found) == 9


@pytest.mark.parametrize("changes", [{"alpha": 0.0}, {"k": 1}, {"k": 1, "alpha": 1.0}], ids=str)
def test_without_a_penalty_or_a_choice_it_is_greedy(changes: dict[str, Any]) -> None:
    model = build()
    assert search(model, **changes) == greedy(model)
    assert search(model) != greedy(model)


def test_the_penalty_leads_out_of_a_loop() -> None:
    """A model that says what it said: greedy text repeats one token, contrastive does not."""
    model = build(n_layers=1, position="none")
    with torch.no_grad():
        for name, parameter in model.blocks.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
    assert len(set(greedy(model)[-10:])) == 1
    assert len(set(search(model, alpha=0.9)[-10:])) > 1


class PlainAttention(MultiHeadAttention):
    """An attention part that cannot cache."""

    capabilities = frozenset()

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)


def test_a_model_without_a_cache_chooses_the_same() -> None:
    plain = build(Parts(attention=PlainAttention))
    assert not plain.can_cache
    assert search(plain) == search(build())


def test_with_a_cache_each_candidate_is_read_once() -> None:
    model, shapes = build(context_length=8), []
    model.embeddings.register_forward_hook(lambda _m, inputs, _o: shapes.append(inputs[0].shape))
    search(model, max_new_tokens=8)
    # 3 tokens of the prompt and 5 more fill the context; 4 are kept and read again.
    assert shapes == [(4, 3), *[(4, 1)] * 5, (4, 4), *[(4, 1)] * 2]


def test_forbidden_tokens_are_never_chosen_also_where_few_others_are_left() -> None:
    model = build()
    allowed = {2, 3, 11}
    forbidden = [token for token in range(VOCABULARY) if token not in allowed]
    found = search(model, forbidden=forbidden, k=8, alpha=1.0)
    assert set(found) == allowed
    with pytest.raises(DivergedError):
        search(model, forbidden=range(VOCABULARY))


def test_more_candidates_than_tokens_are_all_tokens() -> None:
    model = build()
    assert search(model, k=10**6) == search(model, k=VOCABULARY)


def test_it_ends_with_the_first_end_id() -> None:
    model = build()
    whole = search(model)
    end = whole[7]
    assert search(model, end_ids=[end]) == whole[: whole.index(end) + 1]
    assert search(model, max_new_tokens=0) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k, is 0"),
        ({"alpha": -0.1}, r"alpha is -0\.1"),
        ({"alpha": 1.1}, r"alpha is 1\.1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(build(), **changes)


@pytest.mark.parametrize("length", [0, CONTEXT + 1])
def test_a_prompt_that_does_not_fit_is_refused(length: int) -> None:
    with pytest.raises(PromptError, match=f"got {length}"):
        next(contrastive_search(build(), [1] * length, max_new_tokens=1, k=2, alpha=0.5))


def test_the_model_is_left_as_it_was() -> None:
    model = build(dropout=0.5).train()
    tokens = contrastive_search(model, PROMPT, max_new_tokens=9, k=4, alpha=0.6)
    first = [next(tokens) for _ in range(3)]
    assert model.training  # also while a caller holds the iterator
    assert not any(module._forward_hooks for module in model.modules())
    assert [*first, *tokens] == search(model.eval(), max_new_tokens=9)
