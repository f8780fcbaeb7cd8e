"""Speculative decoding: the target's own text, whatever the draft model proposes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.model.architectures import (
    CONTEXT,
    every_architecture,
    largest_difference,
    tiny_config,
    tiny_model,
    token_ids,
)
from torch import Tensor

from tiny_transformer.config import ModelConfig, SamplingConfig
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, PromptError
from tiny_transformer.sampling import speculative
from tiny_transformer.sampling.generator import generate_tokens
from tiny_transformer.sampling.speculative import Statistics, accept, residual, speculative_tokens
from tiny_transformer.sampling.strategies import next_token_probabilities

pytestmark = pytest.mark.requirement("generate.speculative")

PROMPT = [2, 1, 2]


def build(seed: int = 3, parts: Parts | None = None, **settings: Any) -> Transformer:
    """Return a float64 model whose choices differ from token to token."""
    model = Transformer(tiny_config(**settings), parts, seed=seed).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


@torch.no_grad()
def near(model: Transformer) -> Transformer:
    """Return a model that often agrees with this one, but not always."""
    other, noise = Transformer(model.config).double(), torch.Generator().manual_seed(1)
    other.load_state_dict(model.state_dict())
    for parameter in other.parameters():
        draws = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
        parameter.add_(0.15 * parameter.std() * draws)
    return other


def options(**changes: Any) -> SamplingConfig:
    return SamplingConfig(**{"max_new_tokens": 3 * CONTEXT, **changes})


def plain(model: Transformer, config: SamplingConfig, **others: Any) -> list[int]:
    return [int(ids) for ids in generate_tokens(model, PROMPT, config, **others)]


# The rule

WEIGHTS = st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.0, 5.0]), min_size=4, max_size=4).filter(sum)


@given(p=WEIGHTS, q=WEIGHTS)
def test_acceptance_and_residual_add_up_to_the_targets_distribution(
    p: list[float], q: list[float]
) -> None:
    target = torch.tensor(p, dtype=torch.float64) / math.fsum(p)
    draft = torch.tensor(q, dtype=torch.float64) / math.fsum(q)
    taken = draft * (target / draft.clamp(min=1e-300)).clamp(max=1)
    left = 1 - taken.sum()
    if left > 1e-12:
        rest = residual(target, draft)
        assert rest.sum().item() == pytest.approx(1, abs=1e-12)
        assert largest_difference(taken + left * rest, target) < 1e-12
    else:
        assert largest_difference(residual(target, target), target) == 0


@given(p=st.floats(0, 1), q=st.floats(0.001, 1), uniform=st.floats(0, 1, exclude_max=True))
def test_a_proposal_is_taken_with_probability_p_over_q(p: float, q: float, uniform: float) -> None:
    if abs(uniform - p / q) > 1e-9:
        assert accept(p, q, uniform) == (uniform < p / q)
    assert not accept(0.0, q, uniform)
    assert accept(q, q, uniform)


# Greedy: token for token


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"position": "rotary"},
        {"token_window": 4},
        {"norm": "rms_norm", "n_kv_heads": 2},
    ],
    ids=str,
)
def test_greedy_tokens_are_the_targets_own_also_past_both_contexts(
    settings: dict[str, Any],
) -> None:
    target = build(**settings)
    config = options(temperature=0)
    expected = plain(target, config)
    assert len(set(expected)) > 2
    drafts = {
        "itself": target,
        "near": near(target),
        "other": build(seed=8, n_layers=1, context_length=7, position="rotary"),
        "windowed": build(seed=5, n_layers=1, context_length=40, token_window=3),
    }
    for (name, draft), n_draft in zip(itertools.cycle(drafts.items()), range(1, 7)):
        statistics = Statistics()
        found = list(
            speculative_tokens(
                target, draft, PROMPT, config, n_draft=n_draft, statistics=statistics
            )
        )
        assert found == expected, (name, n_draft)
        assert name != "near" or 0 < statistics.accepted < statistics.proposed


@pytest.mark.parametrize("n_draft", [1, 2, 3, 4, 5, 6])
def test_greedy_tokens_do_not_depend_on_how_many_are_proposed(n_draft: int) -> None:
    target = build(token_window=4, position="rotary")
    draft, config = near(target), options(temperature=0)
    for use_cache in (True, False):
        found = speculative_tokens(
            target, draft, PROMPT, config, n_draft=n_draft, use_cache=use_cache
        )
        assert list(found) == plain(target, config)


@pytest.mark.parametrize("context", [1, 2, 3, 5])
@pytest.mark.parametrize("of_draft", [1, 2, 4, 9])
def test_greedy_tokens_are_the_targets_own_in_small_contexts(context: int, of_draft: int) -> None:
    target = build(context_length=context)
    draft = build(context_length=of_draft, seed=3)
    prompt = PROMPT[:context]
    for length in (0, 1, 2, context, 4 * context + 3):
        config = options(temperature=0, max_new_tokens=length)
        expected = [int(ids) for ids in generate_tokens(target, prompt, config)]
        assert list(speculative_tokens(target, draft, prompt, config)) == expected


def test_greedy_tokens_with_penalties_are_the_targets_own() -> None:
    target = build()
    config = options(
        temperature=0, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3
    )
    expected = plain(target, config)
    assert expected != plain(target, options(temperature=0))
    for draft in (target, near(target)):
        statistics = Statistics()
        found = speculative_tokens(target, draft, PROMPT, config, statistics=statistics)
        assert list(found) == expected
        assert statistics.accepted > 0


class PlainAttention(MultiHeadAttention):
    """An attention part that cannot cache."""

    capabilities = frozenset()

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)


def test_either_model_may_be_without_a_cache() -> None:
    with_cache, without = build(), build(parts=Parts(attention=PlainAttention))
    assert with_cache.can_cache and not without.can_cache
    config = options(temperature=0)
    expected = plain(with_cache, config)
    for target, draft in itertools.permutations((with_cache, without)):
        assert list(speculative_tokens(target, draft, PROMPT, config)) == expected


@every_architecture
def test_a_cache_cut_back_goes_on_as_if_what_was_cut_had_never_been(config: ModelConfig) -> None:
    model, ids = tiny_model(config, dtype=torch.float64), token_ids()
    cache = KVCache(config, 2, dtype=torch.float64)
    with torch.no_grad():
        expected = model(ids)
        for kept in (7, 5, 1, 0):
            cache.clear()
            model(ids[:, :7], cache)
            if kept < 7:
                model(token_ids(seed=11)[:, :6], cache)
            cache.truncate(kept)
            assert cache.length == kept
            assert largest_difference(model(ids[:, kept:], cache), expected[:, kept:]) < 1e-11
    for length in (-1, CONTEXT + 1):
        with pytest.raises(ValueError, match=str(length)):
            cache.truncate(length)


# Sampling: the target's distribution

VOCABULARY = 3  # tokens of the next models: 9 pairs, 8 degrees of freedom
LIMIT = 42.7  # the statistic exceeds it once in a million right runs


class Table(Transformer):
    """A model that looks at the last token alone, and fast: its logits are a row of a table."""

    def __init__(self, seed: int) -> None:
        super().__init__(tiny_config(vocab_size=VOCABULARY, n_layers=1, d_model=4))
        draws = torch.Generator().manual_seed(seed)
        self.table = 1.5 * torch.randn(VOCABULARY, VOCABULARY, generator=draws, dtype=torch.float64)

    def forward(self, ids: Tensor, cache: object = None, *, last_only: bool = False) -> Tensor:
        return self.table[ids[:, -1:] if last_only else ids]


TARGET, DRAFT = Table(1), Table(2)


def first_pairs(config: SamplingConfig) -> Tensor:
    """Return the exact probability of each pair of first tokens, from the target alone."""
    bare = SamplingConfig(temperature=config.temperature, top_p=config.top_p)
    first = next_token_probabilities(TARGET.table[PROMPT[-1:]], bare)  # (1, V)
    # Row i: the token i was generated, and is penalized.
    penalty = config.presence_penalty * torch.eye(VOCABULARY, dtype=torch.float64)
    second = next_token_probabilities(TARGET.table - penalty, bare)  # (V, V)
    return (first.T * second).flatten()


def statistic(settings: dict[str, Any], n_draft: int, n: int = 600) -> float:
    """Return Pearson's statistic of the first two tokens over n seeds."""
    counts = torch.zeros(VOCABULARY**2)
    for seed in range(n):
        config = SamplingConfig(max_new_tokens=n_draft + 2, seed=seed, **settings)
        tokens = speculative_tokens(TARGET, DRAFT, PROMPT, config, n_draft=n_draft, use_cache=False)
        first, second = itertools.islice(tokens, 2)
        counts[VOCABULARY * first + second] += 1
    expected = n * first_pairs(SamplingConfig(**settings))
    possible = expected > 0
    if counts[~possible].any():
        return math.inf
    return float(((counts - expected)[possible] ** 2 / expected[possible]).sum())


@pytest.mark.parametrize(
    ("n_draft", "settings"),
    [
        (1, {}),
        (3, {}),
        (2, {"temperature": 0.6, "top_p": 0.9}),
        (3, {"temperature": 2.0, "presence_penalty": 1.5}),
    ],
    ids=str,
)
def test_sampled_tokens_have_the_targets_distribution(
    n_draft: int, settings: dict[str, Any]
) -> None:
    assert statistic(settings, n_draft) < LIMIT


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("accept", lambda _p, _q, _uniform: True),
        ("accept", lambda p, q, _uniform: p >= q),
        ("residual", lambda p, _q: p),
        ("residual", lambda _p, q: q),
    ],
    ids=["accepts all", "accepts only what is likelier", "draws p again", "draws q again"],
)
def test_a_wrong_rule_is_noticed(name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculative, name, wrong)
    assert statistic({}, 2) > LIMIT


def test_a_proposal_is_accepted_as_often_as_the_models_overlap() -> None:
    """Leviathan et al. 2023, theorem 3.5: the sum of min(p, q)."""
    statistics, n = Statistics(), 500
    for seed in range(n):
        config = SamplingConfig(max_new_tokens=2, seed=seed)
        tokens = speculative_tokens(TARGET, DRAFT, PROMPT, config, n_draft=1, statistics=statistics)
        next(tokens)
    with torch.no_grad():
        p, q = (model(torch.tensor([[1, 2]]))[0, -1].softmax(-1) for model in (TARGET, DRAFT))
    overlap = torch.minimum(p, q).sum().item()
    assert 0.1 < overlap < 0.9
    assert statistics.proposed == n
    deviation = math.sqrt(overlap * (1 - overlap) / n)
    assert abs(statistics.acceptance_rate - overlap) < 4 * deviation


def test_sampled_tokens_are_the_same_with_and_without_a_cache() -> None:
    for settings in ({}, {"token_window": 4, "position": "rotary"}):
        target = build(**settings)
        draft, config = near(target), options(top_p=0.95)
        cached, uncached = (
            list(speculative_tokens(target, draft, PROMPT, config, use_cache=use_cache))
            for use_cache in (True, False)
        )
        assert cached == uncached


def test_only_what_top_k_keeps_is_generated_whatever_is_proposed() -> None:
    target, draft = build(), build(seed=8)
    config = options(top_k=1, temperature=0.7)
    assert list(speculative_tokens(target, draft, PROMPT, config)) == plain(target, config)


# Statistics


@pytest.mark.parametrize("n_draft", [1, 3, 4])
def test_a_draft_that_is_the_target_has_everything_accepted(n_draft: int) -> None:
    model, statistics = build(), Statistics()
    length = 10  # within the context: every pass but the last proposes as many as it may
    config = options(max_new_tokens=length)
    tokens = speculative_tokens(
        model, model, PROMPT, config, n_draft=n_draft, statistics=statistics
    )
    assert len(list(tokens)) == length
    assert statistics.accepted == statistics.proposed > 0
    assert statistics.acceptance_rate == 1
    assert statistics.passes == math.ceil(length / (n_draft + 1))
    past = Statistics()
    list(speculative_tokens(model, model, PROMPT, options(), n_draft=n_draft, statistics=past))
    assert past.acceptance_rate == 1


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("length", [1, 7, 3 * CONTEXT])
def test_the_statistics_are_what_happened(length: int, use_cache: bool) -> None:
    target, statistics = build(), Statistics()
    draft = near(target)
    read = {"target": 0, "draft": 0}
    target.final_norm.register_forward_hook(lambda *_: read.update(target=read["target"] + 1))
    draft.final_norm.register_forward_hook(lambda *_: read.update(draft=read["draft"] + 1))
    tokens = speculative_tokens(
        target,
        draft,
        PROMPT,
        options(max_new_tokens=length),
        n_draft=3,
        use_cache=use_cache,
        statistics=statistics,
    )
    assert len(list(tokens)) == length
    assert read == {"target": statistics.passes, "draft": statistics.proposed}
    assert statistics.accepted + statistics.passes == length
    assert statistics.accepted <= statistics.proposed <= 3 * statistics.passes
    if length == 1:
        assert statistics == Statistics(proposed=0, accepted=0, passes=1)
        assert statistics.acceptance_rate == 0


def test_with_a_cache_no_accepted_token_is_read_twice() -> None:
    target, lengths = build(context_length=64), []
    target.embeddings.register_forward_hook(lambda _m, ids, _o: lengths.append(ids[0].shape[1]))
    draft, statistics = near(target), Statistics()
    config = options(max_new_tokens=40)
    list(speculative_tokens(target, draft, PROMPT, config, statistics=statistics))
    # The prompt, all proposals, and once each pass's own token but the last.
    assert sum(lengths) == len(PROMPT) + statistics.proposed + statistics.passes - 1
    assert 0 < statistics.accepted < statistics.proposed


# Reproducibility and limits


def test_the_draws_are_a_function_of_the_seed() -> None:
    target = build()
    draft = near(target)
    texts = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        texts[seed] = list(speculative_tokens(target, draft, PROMPT, options(seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)
        assert list(speculative_tokens(target, draft, PROMPT, options(seed=seed))) == texts[seed]
    assert texts[1] != texts[2]


def test_forbidden_tokens_are_never_generated() -> None:
    target = build()
    config = options(temperature=0)
    forbidden = sorted(set(plain(target, config)))[:3]
    expected = plain(target, config, forbidden=forbidden)
    tokens = speculative_tokens(target, near(target), PROMPT, config, forbidden=forbidden)
    assert list(tokens) == expected
    assert not set(expected) & set(forbidden)


def test_both_models_are_left_as_they_were() -> None:
    target = build(dropout=0.5).train()
    draft = near(target).train()
    tokens = speculative_tokens(target, draft, PROMPT, options())
    first = next(tokens)
    assert target.training and draft.training  # also while a caller holds the iterator
    expected = list(speculative_tokens(target.eval(), draft.eval(), PROMPT, options()))
    assert [first, *tokens] == expected


def test_models_of_different_vocabularies_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"29 tokens.*31.*one tokenizer") as refused:
        next(speculative_tokens(build(vocab_size=31), build(), PROMPT, options()))
    assert refused.value.exit_status == 2


def test_fewer_than_one_proposal_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_draft is 0"):
        next(speculative_tokens(build(), build(), PROMPT, options(), n_draft=0))


@pytest.mark.parametrize("length", [0, CONTEXT + 1])
def test_a_prompt_that_does_not_fit_the_target_is_refused(length: int) -> None:
    with pytest.raises(PromptError, match=f"got {length}"):
        next(speculative_tokens(build(), build(), [1] * length, options()))
