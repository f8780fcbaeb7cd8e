"""Texts of byte pairs: whole characters, stop texts across tokens, and where they end."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.text import foreign_tokenizers as foreign

from tiny_transformer.config import ModelConfig, SamplingConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import PromptError
from tiny_transformer.sampling.beam import beam_search
from tiny_transformer.sampling.sampler import (
    continue_prompts,
    encode_prompt,
    forbidden_ids,
    sample_text,
    stream_text,
    text_of,
)
from tiny_transformer.text.bpe import BpeTokenizer

OURS = BpeTokenizer.train([foreign.TEXT], 300)
GPT2 = BpeTokenizer.from_json(foreign.gpt2().to_str())
LLAMA2 = BpeTokenizer.from_json(foreign.llama2().to_str())
CONFIG = SamplingConfig(prompt="the 中", max_new_tokens=40, seed=3)


def build(vocab_size: int) -> Transformer:
    return Transformer(
        ModelConfig(n_layers=1, d_model=8, n_heads=2, context_length=16, vocab_size=vocab_size),
        seed=1,
    ).eval()


def always(model: Transformer, token: int) -> Transformer:
    """Make a model that finds `token` likely whatever it has read: its embeddings are alike."""
    with torch.no_grad():
        model.embeddings.get_parameter("token.weight")[:] = 1.0
        for name, parameter in model.named_parameters():
            if name.startswith("blocks"):
                parameter.zero_()
        model.final_norm.get_parameter("weight").zero_()
        model.final_norm.get_parameter("bias").fill_(1.0)
        if model.config.tie_weights:
            model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
        model.lm_head.weight[token] = 5.0
    return model


@pytest.mark.requirement("tokenizers.generate")
@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_the_text_and_the_text_is_that_of_the_ids(seed: int) -> None:
    """Tokens of an untrained model are bytes in any order; the half of a character is U+FFFD."""
    config = dataclasses.replace(CONFIG, seed=seed)
    model = build(300)
    (found,) = continue_prompts(model, OURS, [config.prompt], config)
    assert found.text == OURS.decode(found.ids) and len(found.ids) == 40
    assert "".join(stream_text(model, OURS, config)) == found.text
    assert sample_text(model, OURS, config) == [found.text]
    assert "".join(text_of(iter(found.ids), OURS, ())) == found.text


@pytest.mark.requirement("tokenizers.generate")
@given(st.text(st.sampled_from("the king中😀é ."), max_size=40), st.data())
def test_a_stop_text_is_found_across_tokens(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, max(0, len(text) - 1)))
    stop = text[cut : cut + data.draw(st.integers(1, 4))] or "x"
    ids = OURS.encode(text).tolist()
    assert "".join(text_of(iter(ids), OURS, (stop,))) == text.split(stop)[0]


@pytest.mark.requirement("tokenizers.generate")
def test_ids_that_spell_nothing_are_never_generated() -> None:
    """Special tokens, but for those that end a text, and what a model has beyond its tokenizer."""
    assert forbidden_ids(build(300), OURS) == ()
    assert forbidden_ids(build(303), OURS) == (300, 301, 302)
    assert forbidden_ids(build(347), GPT2) == (1, 345, 346)
    assert forbidden_ids(build(347), GPT2, ()) == (0, 1, 345, 346)
    for token in (300, 302):
        (text,) = sample_text(always(build(303), token), OURS, CONFIG)
        assert len(text) >= 1
    (found,) = continue_prompts(always(build(347), 346), GPT2, ["a"], CONFIG)
    assert max(found.ids) < 345 and 1 not in found.ids


@pytest.mark.requirement("tokenizers.generate")
def test_an_end_token_ends_a_text_and_is_not_written() -> None:
    model = always(build(345), 0)
    (found,) = continue_prompts(model, GPT2, ["a"], dataclasses.replace(CONFIG, temperature=0.0))
    assert (found.text, found.ids, found.finish_reason) == ("", (0,), "stop")
    assert list(stream_text(model, GPT2, dataclasses.replace(CONFIG, temperature=0.0))) == []
    best = beam_search(model, [5], max_new_tokens=5, num_beams=2, end_ids=GPT2.end_ids)[0]
    assert "".join(text_of(iter(best.ids), GPT2, ())) == ""
    assert "".join(text_of(iter([70, 71, 0, 72]), GPT2, ())) == GPT2.decode([70, 71])


def test_a_prompt_that_reads_like_a_special_token_is_text() -> None:
    ids = encode_prompt(foreign.END, GPT2, 100)
    assert 0 not in ids and GPT2.decode(ids) == foreign.END


def test_a_long_prompt_is_told_in_tokens() -> None:
    with pytest.raises(PromptError, match=r"has \d+ tokens; the model sees 4 at once"):
        encode_prompt("中文中文", OURS, 4)
    assert len(encode_prompt("中文中文", OURS, 4, crop=True)) == 4
    with pytest.raises(PromptError, match=r"outside the model's vocabulary: '\\ud800'"):
        encode_prompt("a\ud800", OURS, 10)
    assert OURS.decode(encode_prompt("a\ud800", OURS, 10, errors="replace")) == "a\ufffd"


def test_a_continuation_keeps_its_first_space() -> None:
    """Also with a tokenizer that drops the space at the beginning of a text."""
    word = next(i for i in range(LLAMA2.vocab_size) if LLAMA2.token_bytes(i) == b" the")
    model = always(build(LLAMA2.vocab_size), word)
    config = SamplingConfig(prompt="a", max_new_tokens=2, temperature=0.0)
    assert sample_text(model, LLAMA2, config) == [" the the"]
    assert json.loads(LLAMA2.to_json())["model"]["byte_fallback"] is True
