"""Beam search: against every sequence there is, another implementation, and itself uncached."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Collection
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from tests.model.architectures import (
    CONTEXT,
    VOCABULARY,
    every_architecture,
    largest_difference,
    scramble,
    tiny_config,
    tiny_model,
    token_ids,
)
from tests.model.architectures import decisive_model as build
from tests.model.test_transformers_parity import gpt2_state
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from tiny_transformer.config import ModelConfig, SamplingConfig
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, DivergedError, PromptError
from tiny_transformer.sampling.beam import Hypothesis, beam_search
from tiny_transformer.sampling.generator import generate_tokens

pytestmark = pytest.mark.requirement("generate.beam")

PROMPT = [4, 1, 2]


def ids_of(hypotheses: list[Hypothesis]) -> list[tuple[int, ...]]:
    return [hypothesis.ids for hypothesis in hypotheses]


@torch.no_grad()
def log_probabilities(model: Transformer, context: list[int]) -> Tensor:
    return model(torch.tensor([context]))[0, -1].log_softmax(-1)


def every_continuation(
    model: Transformer, prompt: list[int], length: int, end_ids: set[int]
) -> dict[tuple[int, ...], float]:
    """Return all sequences of `length` tokens, or up to an end id, and their log-probabilities."""
    found = {}
    going_on = {(): 0.0}
    for n in range(1, length + 1):
        longer = {
            (*ids, token): total + value
            for ids, total in going_on.items()
            for token, value in enumerate(log_probabilities(model, [*prompt, *ids]).tolist())
        }
        ended = {ids for ids in longer if n == length or ids[-1] in end_ids}
        found |= {ids: longer[ids] for ids in ended}
        going_on = {ids: total for ids, total in longer.items() if ids not in ended}
    return found


@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("end_ids", [set(), {1}, {0, 2}], ids=str)
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all(
    end_ids: set[int], length_penalty: float
) -> None:
    model, length = build(vocab_size=3), 4
    prompt = [1, 0, 2]
    everything = every_continuation(model, prompt, length, end_ids)
    scores = {ids: total / len(ids) ** length_penalty for ids, total in everything.items()}
    expected = sorted(scores, key=lambda ids: -scores[ids])[: 3 ** (length - 1)]
    found = beam_search(
        model,
        prompt,
        max_new_tokens=length,
        num_beams=3 ** (length - 1),
        length_penalty=length_penalty,
        end_ids=end_ids,
    )
    assert ids_of(found) == expected
    assert (len({len(ids) for ids in expected}) > 1) == bool(end_ids)
    for hypothesis in found:
        assert hypothesis.log_probability == pytest.approx(everything[hypothesis.ids], abs=1e-10)
        assert hypothesis.score == pytest.approx(scores[hypothesis.ids], abs=1e-10)


def test_a_wider_beam_than_there_are_sequences_finds_them_all_once() -> None:
    model = build(vocab_size=3)
    found = beam_search(model, [1], max_new_tokens=2, num_beams=20)
    assert set(ids_of(found)) == set(itertools.product(range(3), repeat=2))
    assert len(found) == 9
    assert math.fsum(math.exp(h.log_probability) for h in found) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("settings", [{}, {"position": "rotary"}, {"token_window": 4}], ids=str)
def test_one_beam_is_greedy_also_past_the_context(settings: dict[str, Any]) -> None:
    model, length = build(**settings), 3 * CONTEXT
    config = SamplingConfig(temperature=0, max_new_tokens=length)
    expected = tuple(int(ids) for ids in generate_tokens(model, PROMPT, config))
    assert len(set(expected)) > 3
    found = beam_search(model, PROMPT, max_new_tokens=length, num_beams=1)
    assert ids_of(found) == [expected]


# Another implementation


def theirs(end_ids: list[int]) -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, n_inner=48,
            bos_token_id=None, eos_token_id=end_ids or None, pad_token_id=VOCABULARY - 1,
        )
    ).eval()  # fmt: skip
    scramble(model)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(2)
    return model


@pytest.mark.parametrize("num_beams", [2, 3, 7])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("end_ids", [[], [3], [1, 5, 20]], ids=str)
def test_it_finds_what_transformers_finds(
    end_ids: list[int], length_penalty: float, num_beams: int
) -> None:
    other = theirs(end_ids)
    mine = Transformer(tiny_config(activation="gelu_tanh")).eval()
    mine.load_state_dict(gpt2_state(other.state_dict()))
    for seed in range(3):
        prompt = token_ids(1, 4, seed)
        result = other.generate(  # pyright: ignore[reportAttributeAccessIssue]
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=10, do_sample=False,
            num_beams=num_beams, num_return_sequences=num_beams, length_penalty=length_penalty,
            early_stopping="never", return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        found = beam_search(
            mine,
            prompt[0].tolist(),
            max_new_tokens=10,
            num_beams=num_beams,
            length_penalty=length_penalty,
            end_ids=end_ids,
        )
        expected = [tuple(row) for row in result.sequences[:, 4:].tolist()]
        width = len(expected[0])  # shorter ones are padded
        assert [h.ids + (VOCABULARY - 1,) * (width - len(h.ids)) for h in found] == expected
        scores = torch.tensor([h.score for h in found])
        assert largest_difference(scores, result.sequences_scores) < 1e-4


# The cache, and the context


def by_hand(
    model: Transformer,
    prompt: list[int],
    length: int,
    num_beams: int,
    length_penalty: float = 1.0,
    end_ids: Collection[int] = (),
) -> list[tuple[tuple[int, ...], float]]:
    """Return what the plan gives, to the last token: a full context keeps its newest half."""
    limit = model.config.context_length
    beams, ended = [((), 0.0, prompt)], []
    for n in range(1, length + 1):
        candidates = [
            (-(total + value), beam, token)
            for beam, (_, total, context) in enumerate(beams)
            for token, value in enumerate(log_probabilities(model, context).tolist())
        ]
        longer = []
        for rank, (negative, beam, token) in enumerate(sorted(candidates)):
            ids = (*beams[beam][0], token)
            if n == length or token in end_ids:
                if rank < num_beams:
                    ended.append((ids, -negative))
                continue
            context = [*beams[beam][2], token]
            if len(context) > limit:
                context = context[-max(1, limit // 2) :]
            longer.append((ids, -negative, context))
        beams = longer[:num_beams]
    return sorted(ended, key=lambda e: -e[1] / len(e[0]) ** length_penalty)[:num_beams]


class PlainAttention(MultiHeadAttention):
    """An attention part that cannot cache."""

    capabilities = frozenset()

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)


@pytest.mark.parametrize(
    "settings",
    [{}, {"n_kv_heads": 2, "position": "rotary"}, {"token_window": 4}, {"position": "none"}],
    ids=str,
)
def test_it_follows_the_plan_past_the_context_with_and_without_a_cache(
    settings: dict[str, Any],
) -> None:
    model, length = build(context_length=6, **settings), 15
    expected = by_hand(model, PROMPT, length, 4)
    options: dict[str, Any] = {"max_new_tokens": length, "num_beams": 4}
    for use_cache in (True, False):
        found = beam_search(model, PROMPT, use_cache=use_cache, **options)
        assert ids_of(found) == [ids for ids, _ in expected]
        totals = [h.log_probability for h in found]
        assert totals == pytest.approx([total for _, total in expected], abs=1e-9)


@pytest.mark.parametrize("context", [1, 2, 3])
def test_small_contexts_follow_the_plan(context: int) -> None:
    model = build(context_length=context)
    for length in range(1, 3 * context + 2):
        expected = [ids for ids, _ in by_hand(model, [4], length, 3)]
        for use_cache in (True, False):
            found = beam_search(model, [4], max_new_tokens=length, num_beams=3, use_cache=use_cache)
            assert ids_of(found) == expected


def test_a_model_without_a_cache_finds_the_same() -> None:
    plain = build(Parts(attention=PlainAttention))
    assert not plain.can_cache
    options: dict[str, Any] = {"max_new_tokens": 20, "num_beams": 3}
    assert ids_of(beam_search(plain, PROMPT, **options)) == ids_of(
        beam_search(build(), PROMPT, **options)
    )


@every_architecture
def test_reordered_rows_continue_what_other_rows_held(config: ModelConfig) -> None:
    model, ids = tiny_model(config, dtype=torch.float64), token_ids(3, 9)
    rows = torch.tensor([2, 0, 2])
    cache = KVCache(config, 3, dtype=torch.float64)
    with torch.no_grad():
        expected = model(torch.cat([ids[rows, :5], ids[:, 5:]], dim=1))
        model(ids[:, :5], cache)
        cache.reorder(rows)
        assert largest_difference(model(ids[:, 5:], cache), expected[:, 5:]) < 1e-11


def test_the_cache_has_as_many_rows_as_there_are_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    build_cache = KVCache.__init__

    def watched(self: KVCache, config: ModelConfig, batch_size: int, **kwargs: Any) -> None:
        sizes.append(batch_size)
        build_cache(self, config, batch_size, **kwargs)

    monkeypatch.setattr(KVCache, "__init__", watched)
    beam_search(build(), PROMPT, max_new_tokens=40, num_beams=5, end_ids=[3])
    assert sizes == [5]


# Ties, ends and limits


def test_of_equal_candidates_the_better_beam_and_the_lower_id_are_taken() -> None:
    model = build(tie_weights=False)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = beam_search(model, PROMPT, max_new_tokens=3, num_beams=4)
    assert ids_of(found) == [(0, 0, token) for token in range(4)]
    ended = beam_search(model, PROMPT, max_new_tokens=3, num_beams=4, end_ids=[1])
    # All have the same mean: the one that ended first was found first.
    assert ids_of(ended) == [(1,), (0, 1), (0, 0, 0), (0, 0, 1)]


def test_a_hypothesis_ends_at_an_end_id_and_nowhere_else() -> None:
    model = build()
    free = beam_search(model, PROMPT, max_new_tokens=12, num_beams=6)
    end_ids = {free[0].ids[6], free[1].ids[-1]}
    found = beam_search(model, PROMPT, max_new_tokens=12, num_beams=6, end_ids=end_ids)
    assert len(found) == 6
    for hypothesis in found:
        assert not set(hypothesis.ids[:-1]) & set(end_ids)
        assert hypothesis.ids[-1] in end_ids or len(hypothesis.ids) == 12
    assert len({len(hypothesis.ids) for hypothesis in found}) > 1
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)


def test_the_search_ends_when_nothing_can_overtake_what_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, passes = build(), []
    model.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    certain = list(range(VOCABULARY))[2:]  # nearly all that comes ends
    options: dict[str, Any] = {"num_beams": 2, "length_penalty": 0.0, "end_ids": certain}
    found = beam_search(model, PROMPT, max_new_tokens=40, **options)
    assert len(passes) < 10
    assert found == beam_search(model, PROMPT, max_new_tokens=60, **options)


@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 1.0, 2.0])
def test_the_search_does_not_end_while_something_can_overtake_what_has_ended(
    length_penalty: float,
) -> None:
    model = build()
    for seed in range(8):
        prompt = token_ids(1, 3, seed)[0].tolist()
        end_ids = {ids[n % 2] for n, (ids, _) in enumerate(by_hand(model, prompt, 2, 4))}
        found = beam_search(
            model,
            prompt,
            max_new_tokens=10,
            num_beams=2,
            length_penalty=length_penalty,
            end_ids=end_ids,
        )
        expected = by_hand(model, prompt, 10, 2, length_penalty, end_ids)
        assert ids_of(found) == [ids for ids, _ in expected]


def test_forbidden_tokens_are_never_part_of_a_hypothesis() -> None:
    model = build()
    free = beam_search(model, PROMPT, max_new_tokens=6, num_beams=3)
    forbidden = sorted({token for ids in ids_of(free) for token in ids})
    barred = beam_search(model, PROMPT, max_new_tokens=6, num_beams=3, forbidden=forbidden)
    assert len(barred) == 3
    assert not {token for ids in ids_of(barred) for token in ids} & set(forbidden)
    only = [token for token in range(VOCABULARY) if token != 7]
    found = beam_search(model, PROMPT, max_new_tokens=3, num_beams=4, forbidden=only)
    assert found == [Hypothesis((7, 7, 7), 0.0, 0.0)]


def test_no_new_tokens_are_one_empty_hypothesis() -> None:
    assert beam_search(build(), PROMPT, max_new_tokens=0, num_beams=3) == [Hypothesis((), 0.0, 0.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beams": 0}, "number of beams is 0"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"length_penalty": math.nan}, "length penalty is nan"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        beam_search(build(), PROMPT, **{"max_new_tokens": 3, "num_beams": 2, **changes})


@pytest.mark.parametrize("length", [0, CONTEXT + 1])
def test_a_prompt_that_does_not_fit_is_refused(length: int) -> None:
    for new in (0, 3):
        with pytest.raises(PromptError, match=f"got {length}"):
            beam_search(build(), [1] * length, max_new_tokens=new, num_beams=2)


def test_the_models_mode_is_restored_also_after_an_error() -> None:
    model = build(dropout=0.5).train()
    options: dict[str, Any] = {"max_new_tokens": 5, "num_beams": 2}
    found = beam_search(model, PROMPT, **options)
    assert model.training
    assert found == beam_search(model.eval(), PROMPT, **options)
    with pytest.raises(DivergedError, match="not finite"):
        beam_search(model.train(), PROMPT, forbidden=range(VOCABULARY), **options)
    assert model.training
