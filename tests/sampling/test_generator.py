"""Many prompts side by side: each continued as if it were alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from tests.model.architectures import every_architecture, tiny_model
from tests.sampling.test_sampler import CONTEXT, TOKENIZER, build, options

from tiny_transformer.config import ModelConfig, SamplingConfig
from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.decoder import Decoder
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.errors import ConfigError, PromptError
from tiny_transformer.sampling.generator import Step, generate_steps
from tiny_transformer.sampling.sampler import (
    StoppableText,
    continue_prompts,
    sample_text,
    stream_text,
)
from tiny_transformer.text.tokenizer import CharTokenizer

PROMPTS = [[5], [9, 8, 7], [3, 4, 5, 6, 7, 8, 9, 10], [6, 5], [40, 41, 42]]


def ids_of(steps: list[Step]) -> list[list[int]]:
    return torch.stack([step.ids for step in steps], dim=1).tolist()


# Unequal lengths


@pytest.mark.requirement("generate.unequal")
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("settings", [{}, {"token_window": 4, "position": "rotary"}])
def test_a_prompt_is_continued_as_if_it_were_alone_also_past_the_context(
    use_cache: bool, settings: dict[str, Any]
) -> None:
    model, config = build(**settings), SamplingConfig(max_new_tokens=2 * CONTEXT + 3)
    seeds = [11, 12, 13, 14, 15]
    together = list(generate_steps(model, PROMPTS, config, seeds=seeds, use_cache=use_cache))
    for row, (prompt, seed) in enumerate(zip(PROMPTS, seeds, strict=True)):
        alone = list(generate_steps(model, [prompt], config, seeds=[seed]))
        assert ids_of(together)[row] == ids_of(alone)[0]
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours.logits[row], theirs.logits[0], rtol=0, atol=1e-9)


@pytest.mark.requirement("generate.unequal")
@every_architecture
def test_logits_of_unequal_sequences_are_those_of_the_whole(config: ModelConfig) -> None:
    model = tiny_model(config)
    limit = config.context_length
    sequences = [torch.arange(n) % config.vocab_size for n in (1, limit // 2, limit - 1, 2)]
    decoder = Decoder(model, len(sequences))
    next_ids = torch.tensor([1, 2, 0, 3]) % config.vocab_size
    with torch.no_grad():
        found = [decoder.start_unequal(sequences), decoder.step(next_ids)]
        longer = [torch.cat([s, n[None]]) for s, n in zip(sequences, next_ids, strict=True)]
        # The third is full: it gives way to another, and all go on.
        longer[2] = torch.tensor([4, 1]) % config.vocab_size
        decoder.replace({2: longer[2]})
        found.append(decoder.step(next_ids))
        for row, ids in enumerate(sequences):
            torch.testing.assert_close(found[0][row], model(ids[None])[0, -1], rtol=0, atol=2e-5)
        for row, ids in enumerate(longer):
            after = torch.cat([ids, next_ids[row : row + 1]])
            torch.testing.assert_close(found[2][row], model(after[None])[0, -1], rtol=0, atol=2e-5)


@pytest.mark.requirement("generate.unequal")
def test_parts_without_a_cache_take_unequal_prompts_too() -> None:
    class Plain(MultiHeadAttention):
        capabilities = frozenset[str]()

    config = ModelConfig(n_layers=1, d_model=16, n_heads=2, context_length=CONTEXT)
    parts = dataclasses.replace(Parts.for_config(config), attention=Plain)
    plain, reference = (build(parts=p, n_layers=1) for p in (parts, None))
    sampling = SamplingConfig(max_new_tokens=CONTEXT)
    expected = ids_of(list(generate_steps(reference, PROMPTS, sampling)))
    assert ids_of(list(generate_steps(plain, PROMPTS, sampling))) == expected


# Draws


@pytest.mark.requirement("generate.reproducible")
def test_a_seeds_draws_do_not_depend_on_the_row_or_its_company() -> None:
    model, config = build(), SamplingConfig(max_new_tokens=12)
    forwards = ids_of(list(generate_steps(model, PROMPTS[:2], config, seeds=[4, 9])))
    backwards = ids_of(list(generate_steps(model, PROMPTS[1::-1], config, seeds=[9, 4])))
    assert forwards == backwards[::-1]
    assert forwards != ids_of(list(generate_steps(model, PROMPTS[:2], config, seeds=[4, 10])))


def test_as_many_seeds_as_prompts_are_wanted() -> None:
    with pytest.raises(ConfigError, match="2 seeds for 1 prompts"):
        next(generate_steps(build(), [[5]], SamplingConfig(), seeds=[1, 2]))


@pytest.mark.parametrize("prompt", [[], [5] * (CONTEXT + 1)])
def test_each_prompt_must_fit(prompt: list[int]) -> None:
    with pytest.raises(PromptError, match=f"{len(prompt)} tokens"):
        next(generate_steps(build(), [[5], prompt], SamplingConfig()))


# Penalties


@pytest.mark.requirement("generate.penalties")
def test_penalties_look_at_the_prompt_and_at_what_was_generated() -> None:
    model = build()
    greedy = SamplingConfig(max_new_tokens=20, temperature=0)
    heavy = dataclasses.replace(greedy, presence_penalty=1e6)
    plain, penalized = (
        ids_of(list(generate_steps(model, [[5], [9, 8]], config))) for config in (greedy, heavy)
    )
    assert all(len(set(row)) < 20 for row in plain)
    assert all(len(set(row)) == 20 for row in penalized)  # nothing comes twice
    avoiding = dataclasses.replace(greedy, repetition_penalty=1e6, max_new_tokens=1)
    first = plain[0][0]
    assert ids_of(list(generate_steps(model, [[first, 5]], avoiding)))[0][0] not in (first, 5)


# Text


@pytest.mark.requirement("generate.log-probabilities")
def test_log_probabilities_are_the_models() -> None:
    model = build()
    (found,) = continue_prompts(
        model, TOKENIZER, ["ab"], options(max_new_tokens=6, temperature=0.5), log_probabilities=True
    )
    ids = torch.tensor([[*TOKENIZER.encode("ab").tolist(), *found.ids]])
    with torch.no_grad():
        expected = model.eval()(ids).log_softmax(-1)[0, 1:-1]
    wanted = [expected[t, i].item() for t, i in enumerate(found.ids)]
    assert list(found.log_probabilities) == pytest.approx(wanted, abs=1e-9)
    assert found.finish_reason == "length"
    assert TOKENIZER.decode(found.ids) == found.text


@pytest.mark.requirement("generate.stop")
@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_text_ends_before_its_first_stop_text(width: int) -> None:
    model = build()
    (whole,) = sample_text(model, TOKENIZER, options())
    for at in (0, 4, 11):
        stop = whole[at : at + width]
        config = options(stop=("never there", stop))
        expected = whole[: whole.index(stop)]
        assert sample_text(model, TOKENIZER, config) == [expected]
        assert "".join(stream_text(model, TOKENIZER, config)) == expected
        (found,) = continue_prompts(model, TOKENIZER, ["ab"], config)
        assert (found.text, found.finish_reason) == (expected, "stop")
        assert len(found.ids) == len(expected) + width


@pytest.mark.requirement("generate.stop")
def test_one_text_that_ends_does_not_end_the_others() -> None:
    model = build()
    texts = sample_text(model, TOKENIZER, options(), n_samples=3)
    stop = texts[1][2:5]
    found = sample_text(model, TOKENIZER, options(stop=(stop,)), n_samples=3)
    assert found == [t[: t.index(stop)] if stop in t else t for t in texts]
    assert found[1] == texts[1][: texts[1].index(stop)]


@pytest.mark.requirement("generate.stop")
def test_an_end_token_ends_a_text_and_is_not_in_it() -> None:
    model = build()
    (whole,) = continue_prompts(model, TOKENIZER, ["ab"], options())
    end = whole.ids[5]
    (found,) = continue_prompts(model, TOKENIZER, ["ab"], options(), end_ids=[end])
    first = whole.ids.index(end)
    assert found.ids == whole.ids[: first + 1]
    assert found.text == whole.text[:first]
    assert found.finish_reason == "stop"


@pytest.mark.requirement("generate.stop")
def test_what_may_begin_a_stop_text_waits() -> None:
    text = StoppableText(("\n\n", "END"))
    assert [text.add(piece) for piece in ("a", "\n", "b", "E", "N", "x")] == [
        *("a", "", "\nb", "", "", "ENx")
    ]
    assert text.add("y\n") == "y"
    assert text.end() == "\n"
    assert text.text == "a\nbENxy\n"
    stopped = StoppableText(("ab",))
    assert [stopped.add(piece) for piece in ("xa", "abz", "more")] == ["x", "a", ""]
    assert stopped.stopped
    assert (stopped.end(), stopped.text) == ("", "xa")


def test_no_prompt_is_told() -> None:
    with pytest.raises(ConfigError, match="no prompt"):
        continue_prompts(build(), CharTokenizer(), [], SamplingConfig())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("min_p", v) for v in (-0.1, 1.1, math.nan)),
        *(("repetition_penalty", v) for v in (0.0, -1.0, math.inf, math.nan)),
        *(("presence_penalty", v) for v in (math.inf, math.nan)),
        ("frequency_penalty", math.nan),
        ("stop", ("a", "")),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"sampling\.{setting}"):
        SamplingConfig(**{setting: value})
