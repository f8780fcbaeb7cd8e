"""Prompts to text: what is refused, how long it gets, and what it depends on."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny_transformer.config import ModelConfig, SamplingConfig
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.embeddings import Embeddings
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, PromptError
from tiny_transformer.sampling import generator
from tiny_transformer.sampling.generator import generate_tokens
from tiny_transformer.sampling.sampler import (
    encode_prompt,
    sample_text,
    stream_text,
)
from tiny_transformer.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer()
CONTEXT = 8


def build(seed: int = 3, parts: Parts | None = None, **settings: Any) -> Transformer:
    """Return a model in float64 whose logits differ enough to make all choices matter."""
    defaults: dict[str, Any] = {"n_layers": 2, "d_model": 16, "n_heads": 4, "d_ff": 16}
    config = ModelConfig(**{**defaults, "context_length": CONTEXT, **settings})
    model = Transformer(config, parts, seed=seed).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


def options(**changes: Any) -> SamplingConfig:
    return SamplingConfig(**{"prompt": "ab", "max_new_tokens": 30, **changes})


# Prompts


@pytest.mark.requirement("bad.empty-prompt")
def test_an_empty_prompt_is_refused_with_one_that_works() -> None:
    with pytest.raises(PromptError, match=r"empty.*--prompt") as refused:
        encode_prompt("", TOKENIZER, CONTEXT)
    assert refused.value.exit_status == 2
    with pytest.raises(PromptError, match="empty"):
        sample_text(build(), TOKENIZER, options(prompt=""))


@pytest.mark.requirement("bad.unknown-prompt")
def test_a_prompt_with_unknown_characters_is_refused_by_name_and_with_the_way_out() -> None:
    with pytest.raises(PromptError, match=r"U\+00E9.*--errors replace") as refused:
        encode_prompt("caf\u00e9", TOKENIZER, CONTEXT)
    assert refused.value.exit_status == 2
    for produce in (sample_text, lambda *a: list(stream_text(*a))):
        with pytest.raises(PromptError, match="00E9"):
            produce(build(), TOKENIZER, options(prompt="\u00e9"))


@pytest.mark.requirement("bad.unknown-prompt")
def test_unknown_characters_are_read_as_unknown_on_request() -> None:
    assert encode_prompt("a\u00e9", TOKENIZER, CONTEXT, errors="replace") == [
        int(TOKENIZER.encode("a")[0]),
        TOKENIZER.unk_id,
    ]
    assert len(sample_text(build(), TOKENIZER, options(prompt="\u00e9"), errors="replace")[0]) == 30
    text = "".join(stream_text(build(), TOKENIZER, options(prompt="\u00e9"), errors="replace"))
    assert len(text) == 30


@pytest.mark.requirement("bad.long-prompt")
def test_a_prompt_longer_than_the_context_is_refused_with_the_way_out() -> None:
    assert len(encode_prompt("x" * CONTEXT, TOKENIZER, CONTEXT)) == CONTEXT
    with pytest.raises(PromptError, match=r"9 characters.* 8 .*--crop-prompt") as refused:
        encode_prompt("x" * (CONTEXT + 1), TOKENIZER, CONTEXT)
    assert refused.value.exit_status == 2


@pytest.mark.requirement("bad.long-prompt")
def test_the_end_of_a_long_prompt_is_kept_on_request() -> None:
    ids = encode_prompt("0123456789", TOKENIZER, CONTEXT, crop=True)
    assert TOKENIZER.decode(ids) == "23456789"
    long, short = options(prompt="0123456789"), options(prompt="23456789")
    model = build()
    expected = sample_text(model, TOKENIZER, short)
    assert sample_text(model, TOKENIZER, long, crop=True) == expected
    assert "".join(stream_text(model, TOKENIZER, long, crop=True)) == expected[0]


def test_a_prompt_within_the_context_is_not_cropped() -> None:
    assert TOKENIZER.decode(encode_prompt("abc", TOKENIZER, CONTEXT, crop=True)) == "abc"


@pytest.mark.parametrize("length", [0, CONTEXT + 1])
def test_tokens_that_do_not_fit_are_refused(length: int) -> None:
    with pytest.raises(PromptError, match=f"{length} tokens"):
        next(generate_tokens(build(), [5] * length, options()))


@pytest.mark.parametrize("n_samples", [0, -1])
def test_fewer_than_one_sample_is_refused(n_samples: int) -> None:
    with pytest.raises(ConfigError, match=f"number of samples is {n_samples}"):
        next(generate_tokens(build(), [5], options(), n_samples=n_samples))


# How many


@pytest.mark.requirement("generate.exact-count")
@pytest.mark.parametrize("context", [1, 2, 3, CONTEXT])
@pytest.mark.parametrize("use_cache", [True, False])
def test_exactly_as_many_tokens_are_generated_as_asked_for(context: int, use_cache: bool) -> None:
    model = build(context_length=context)
    for length in (0, 1, context - 1, context, context + 1, 5 * context):
        config = options(prompt="a", max_new_tokens=length)
        texts = sample_text(model, TOKENIZER, config, n_samples=2, use_cache=use_cache)
        assert [len(text) for text in texts] == [length, length]


@pytest.mark.requirement("generate.exact-count")
def test_streaming_gives_the_same_text_one_character_at_a_time() -> None:
    model = build()
    pieces = list(stream_text(model, TOKENIZER, options()))
    assert [len(piece) for piece in pieces] == [1] * 30
    assert "".join(pieces) == sample_text(model, TOKENIZER, options())[0]


# Reproducibility


@pytest.mark.requirement("generate.reproducible")
def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    model = build()
    first = sample_text(model, TOKENIZER, options(seed=1))
    assert first == sample_text(model, TOKENIZER, options(seed=1))
    assert first != sample_text(model, TOKENIZER, options(seed=2))


@pytest.mark.requirement("generate.reproducible")
def test_a_sample_does_not_depend_on_how_many_are_generated_beside_it() -> None:
    model = build()
    texts = sample_text(model, TOKENIZER, options(), n_samples=5)
    assert len(set(texts)) == 5
    for n in range(1, 5):
        assert sample_text(model, TOKENIZER, options(), n_samples=n) == texts[:n]


@pytest.mark.requirement("generate.reproducible")
def test_how_many_draws_are_buffered_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    expected = sample_text(model, TOKENIZER, options(), n_samples=2)
    for size in (1, 7):
        monkeypatch.setattr(generator, "_DRAWS_AT_ONCE", size)
        assert sample_text(model, TOKENIZER, options(), n_samples=2) == expected
        assert sample_text(model, TOKENIZER, options(max_new_tokens=9))[0] == expected[0][:9]


@pytest.mark.requirement("generate.reproducible")
def test_the_global_generators_are_neither_read_nor_moved() -> None:
    model = build()
    texts = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = (
            torch.get_rng_state(),
            np.random.get_state(legacy=False)["state"]["key"].tolist(),
            random.getstate(),
        )
        texts.append(sample_text(model, TOKENIZER, options()))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before[1]
        assert random.getstate() == before[2]
    assert texts[0] == texts[1]


@pytest.mark.requirement("generate.reproducible")
def test_tokens_follow_the_models_distribution() -> None:
    model = build()
    prompt = encode_prompt("ab", TOKENIZER, CONTEXT)
    with torch.inference_mode():
        expected = model.eval()(torch.tensor([prompt]))[0, -1].softmax(-1)
    n = 4000
    config = options(max_new_tokens=1)
    drawn = next(generate_tokens(model, prompt, config, n_samples=n))
    frequencies = torch.bincount(drawn, minlength=99) / n
    # A frequency has a standard deviation of at most 1 / (2 sqrt(n)); six of them.
    assert (frequencies - expected).abs().max() < 3 / n**0.5


@pytest.mark.requirement("generate.options")
def test_the_options_reach_the_draws() -> None:
    model = build()
    greedy = sample_text(model, TOKENIZER, options(temperature=0), n_samples=3)
    assert len(set(greedy)) == 1
    for settings in ({"top_k": 1}, {"top_p": 1e-9}):
        assert sample_text(model, TOKENIZER, options(**settings), n_samples=3) == greedy
    assert sample_text(model, TOKENIZER, options()) != greedy[:1]


def test_the_default_is_two_hundred_characters() -> None:
    assert [len(t) for t in sample_text(build(n_layers=1), TOKENIZER)] == [200]


# The cache

ARCHITECTURES = [
    *({"position": p} for p in ("learned", "rotary", "sinusoidal", "none")),
    {"n_kv_heads": 2},
    {"n_kv_heads": 1, "position": "rotary", "qk_norm": True, "backend": "explicit"},
]


@pytest.mark.requirement("generate.cache")
@pytest.mark.parametrize("settings", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("prompt", ["a", "abcdefg", "abcdefgh"])
def test_cached_and_uncached_text_is_the_same(settings: dict[str, Any], prompt: str) -> None:
    model = build(**settings)
    config = options(prompt=prompt, max_new_tokens=3 * CONTEXT)
    cached = sample_text(model, TOKENIZER, config, n_samples=3, use_cache=True)
    assert cached == sample_text(model, TOKENIZER, config, n_samples=3, use_cache=False)


@pytest.mark.requirement("generate.cache")
@pytest.mark.parametrize("context", [1, 2, 3, 5])
def test_cached_and_uncached_text_is_the_same_in_small_contexts(context: int) -> None:
    model = build(context_length=context)
    for length in range(3 * context + 1):
        config = options(prompt="a", max_new_tokens=length)
        cached = sample_text(model, TOKENIZER, config, use_cache=True)
        assert cached == sample_text(model, TOKENIZER, config, use_cache=False)


@pytest.mark.requirement("generate.cache")
def test_generation_follows_the_plan_token_by_token() -> None:
    """Greedy text by hand: a context that is full keeps its newest half."""
    model = build().eval()
    context = encode_prompt("abcde", TOKENIZER, CONTEXT)
    expected: list[int] = []
    for _ in range(3 * CONTEXT):
        with torch.no_grad():
            logits = model(torch.tensor([context]))[0, -1].clone()
        logits[list(TOKENIZER.special_ids)] = -float("inf")
        expected.append(int(logits.argmax()))
        context.append(expected[-1])
        if len(context) > CONTEXT:
            context = context[-(CONTEXT // 2) :]
    config = options(prompt="abcde", max_new_tokens=3 * CONTEXT, temperature=0)
    assert sample_text(model, TOKENIZER, config) == [TOKENIZER.decode(expected)]


@pytest.mark.requirement("generate.cache")
def test_with_a_cache_each_token_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    forward = Embeddings.forward

    def watched(self: Embeddings, ids: Tensor, offset: int = 0) -> Tensor:
        lengths.append(ids.shape[1])
        return forward(self, ids, offset)

    monkeypatch.setattr(Embeddings, "forward", watched)
    model = build()
    sample_text(model, TOKENIZER, options(prompt="abc", max_new_tokens=8))
    assert lengths == [3, 1, 1, 1, 1, 1, 4, 1]
    lengths.clear()
    sample_text(model, TOKENIZER, options(prompt="abc", max_new_tokens=8), use_cache=False)
    assert lengths == [3, 4, 5, 6, 7, 8, 4, 5]


class PlainAttention(MultiHeadAttention):
    """An attention part that can do nothing but map (B, T, C) to (B, T, C)."""

    capabilities = frozenset()

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)


@pytest.mark.requirement("generate.cache")
def test_an_attention_part_without_a_cache_generates_the_same_text() -> None:
    reference = build()
    plain = build(parts=Parts(attention=PlainAttention))
    assert reference.can_cache
    assert not plain.can_cache
    config = options(max_new_tokens=3 * CONTEXT)
    expected = sample_text(reference, TOKENIZER, config, n_samples=2)
    assert sample_text(plain, TOKENIZER, config, n_samples=2) == expected


# Special tokens and side effects


@pytest.mark.requirement("text.special-tokens")
@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
def test_special_tokens_are_never_generated_even_if_the_model_wants_them(
    temperature: float,
) -> None:
    model = build(tie_weights=False)
    # The final norm's bias is a direction that every position has; aim both special tokens at it.
    with torch.no_grad():
        model.final_norm.get_parameter("bias").fill_(1.0)
        model.lm_head.weight[list(TOKENIZER.special_ids)] = 30.0
    config = options(max_new_tokens=40, temperature=temperature)
    prompt = encode_prompt("ab", TOKENIZER, CONTEXT)
    free = torch.stack(list(generate_tokens(model, prompt, config, n_samples=4)))
    assert set(free.flatten().tolist()) & set(TOKENIZER.special_ids)
    barred = generate_tokens(model, prompt, config, n_samples=4, forbidden=TOKENIZER.special_ids)
    assert not set(torch.stack(list(barred)).flatten().tolist()) & set(TOKENIZER.special_ids)
    texts = sample_text(model, TOKENIZER, config, n_samples=4)
    streamed = "".join(stream_text(model, TOKENIZER, config))
    assert [len(text) for text in texts] == [40] * 4
    assert "\ufffd" not in "".join([*texts, streamed])
    assert len(streamed) == 40


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_weights_and_gradients_are_as_before(training: bool) -> None:
    model = build(dropout=0.5).train(training)
    before = [parameter.clone() for parameter in model.parameters()]
    for step in itertools.islice(generate_tokens(model, [5], options()), 3):
        assert model.training == training, step  # also while a caller holds the iterator
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_dropout_is_off_while_text_is_generated() -> None:
    model = build(dropout=0.5)
    assert sample_text(model.train(), TOKENIZER, options()) == sample_text(
        model.eval(), TOKENIZER, options()
    )


def test_the_models_mode_is_restored_after_an_error() -> None:
    model = build().train()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(Exception, match="not finite"):
        sample_text(model, TOKENIZER, options())
    assert model.training
