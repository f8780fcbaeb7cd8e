"""The official client gets what the sampler writes: texts, streams, log-probabilities, counts."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch
from tests.serving.helpers import TOKENIZER, Server, events

from tiny_transformer.config import SamplingConfig
from tiny_transformer.sampling.sampler import Continuation, continue_prompts, sample_text

PROMPT = "To be,"


def ask(client: openai.OpenAI, prompt: Any = PROMPT, **options: Any) -> Any:
    return client.completions.create(model="small", prompt=prompt, **{"seed": 5, **options})


def expected(server: Server, prompts: list[str], **options: Any) -> list[Continuation]:
    config = SamplingConfig(**{"max_new_tokens": 16, "seed": 5, **options})
    return continue_prompts(server.model, TOKENIZER, prompts, config, log_probabilities=True)


def log_softmax(server: Server, text: str) -> torch.Tensor:
    """Return the log-probabilities after each character, from one pass of the whole model."""
    ids = torch.tensor(TOKENIZER.encode(text).tolist())[None]
    with torch.no_grad():
        return server.model(ids)[0].double().log_softmax(-1)


# What is written


@pytest.mark.requirement("serving.same-text")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0},
        {"temperature": 0.7, "top_p": 0.9},
        {"presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"extra_body": {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.3}},
        {"stop": "e"},
        {"stop": ["e", "th", " "]},
        {"max_tokens": 70},  # past the context, which slides
        {"max_tokens": 1},
    ],
    ids=str,
)
def test_a_text_is_what_the_sampler_writes_for_the_seed(
    server: Server, client: openai.OpenAI, options: dict[str, Any]
) -> None:
    plain = {**options, **options.get("extra_body", {})}
    plain.pop("extra_body", None)
    plain["max_new_tokens"] = plain.pop("max_tokens", 16)
    stop = plain.get("stop", ())
    plain["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    answer = ask(client, **options)
    (same,) = expected(server, [PROMPT], **plain)
    assert answer.choices[0].text == same.text
    assert answer.choices[0].finish_reason == same.finish_reason
    assert answer.usage.completion_tokens == len(same.ids)
    assert answer.choices[0].logprobs is None


@pytest.mark.requirement("serving.same-text")
def test_n_texts_are_the_samples_of_the_command(server: Server, client: openai.OpenAI) -> None:
    answer = ask(client, n=3)
    config = SamplingConfig(prompt=PROMPT, max_new_tokens=16, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.text for choice in answer.choices]
    assert texts == sample_text(server.model, TOKENIZER, config, n_samples=3)
    assert len(set(texts)) == 3


@pytest.mark.requirement("serving.same-text")
def test_several_prompts_of_unequal_length_are_answered_in_order(
    server: Server, client: openai.OpenAI
) -> None:
    prompts = ["a", "To be, or not", "\n"]
    answer = ask(client, prompts, n=2)
    same = expected(server, [prompt for prompt in prompts for _ in range(2)])
    assert [choice.text for choice in answer.choices] == [one.text for one in same]
    assert answer.usage.prompt_tokens == 1 + 13 + 1
    assert answer.usage.completion_tokens == 6 * 16


@pytest.mark.requirement("serving.same-text")
def test_prompts_may_be_ids(client: openai.OpenAI) -> None:
    ids = [TOKENIZER.encode(text).tolist() for text in (PROMPT, "ab")]
    as_text = ask(client, [PROMPT, "ab"])
    assert [c.text for c in ask(client, ids).choices] == [c.text for c in as_text.choices]
    assert ask(client, ids[0]).choices[0].text == ask(client, PROMPT).choices[0].text


@pytest.mark.requirement("serving.seed")
def test_a_seed_gives_the_same_text_again_and_none_a_new_one_that_is_told(
    client: openai.OpenAI,
) -> None:
    assert ask(client).choices[0].text == ask(client).choices[0].text
    free = [ask(client, seed=None) for _ in range(4)]
    assert len({answer.choices[0].text for answer in free}) > 1
    again = ask(client, seed=free[0].seed)
    assert again.choices[0].text == free[0].choices[0].text


@pytest.mark.requirement("serving.seed")
def test_what_runs_beside_a_request_does_not_change_its_text(
    server: Server, client: openai.OpenAI
) -> None:
    alone = [ask(client, seed=seed, max_tokens=60).choices[0].text for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        both = list(
            threads.map(lambda s: ask(client, seed=s % 4, max_tokens=60).choices[0].text, range(12))
        )
    assert both == alone * 3


@pytest.mark.requirement("serving.best-of")
def test_best_of_returns_the_likeliest_by_the_mean_of_their_tokens(
    server: Server, client: openai.OpenAI
) -> None:
    answer = ask(client, ["a", "b"], best_of=4, n=2, stop="e", echo=True)
    same = expected(server, ["a"] * 4 + ["b"] * 4, stop=("e",))
    wanted = []
    for prompt, own in (("a", same[:4]), ("b", same[4:])):
        own.sort(key=lambda one: -sum(one.log_probabilities) / len(one.log_probabilities))
        wanted += [prompt + one.text for one in own[:2]]
    assert [choice.text for choice in answer.choices] == wanted
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.completion_tokens == sum(len(one.ids) for one in same)
    assert ask(client, best_of=2, max_tokens=0, echo=True).choices[0].text == PROMPT


@pytest.mark.requirement("serving.logit-bias")
def test_a_bias_makes_tokens_certain_or_impossible(client: openai.OpenAI) -> None:
    ids = {text: str(TOKENIZER.encode(text)[0]) for text in ("q", "e", "t")}
    assert ask(client, logit_bias={ids["q"]: 100}).choices[0].text == "q" * 16
    unlike = ask(client, max_tokens=200, logit_bias={ids["e"]: -100, ids["t"]: -100})
    assert not {"e", "t"} & set(unlike.choices[0].text)
    plain = ask(client, logprobs=1).choices[0].logprobs.token_logprobs[0]
    biased = ask(client, logprobs=1, logit_bias={"2": 0.0}).choices[0].logprobs.token_logprobs[0]
    assert plain == biased


# Echo, stop, log-probabilities


@pytest.mark.requirement("serving.echo")
def test_echo_puts_the_prompt_before_each_text(client: openai.OpenAI) -> None:
    plain = ask(client, ["ab", "c"], n=2)
    echoed = ask(client, ["ab", "c"], n=2, echo=True)
    wanted = [p + c.text for p, c in zip(["ab", "ab", "c", "c"], plain.choices, strict=True)]
    assert [choice.text for choice in echoed.choices] == wanted
    assert echoed.usage == plain.usage


@pytest.mark.requirement("serving.logprobs")
@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"temperature": 2, "top_p": 0.5}])
def test_log_probabilities_are_those_of_the_models_own_softmax(
    server: Server, client: openai.OpenAI, options: dict[str, Any]
) -> None:
    choice = ask(client, logprobs=3, **options).choices[0]
    found = choice.logprobs
    rows = log_softmax(server, PROMPT + choice.text)[len(PROMPT) - 1 : -1]
    assert "".join(found.tokens) == choice.text
    assert found.text_offset == list(range(16))
    for place, (character, row) in enumerate(zip(choice.text, rows, strict=True)):
        own = row[TOKENIZER.encode(character)[0]].item()
        assert found.token_logprobs[place] == pytest.approx(own, abs=1e-5)
        row[list(TOKENIZER.special_ids)] = -torch.inf
        best = row.topk(3)
        wanted = {
            TOKENIZER.decode([i]): p
            for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        }
        assert found.top_logprobs[place] == pytest.approx({**wanted, character: own}, abs=1e-5)


@pytest.mark.requirement("serving.logprobs")
def test_a_prompt_is_scored_without_writing_anything(server: Server, client: openai.OpenAI) -> None:
    answer = ask(client, ["To be, or", "ab"], max_tokens=0, echo=True, logprobs=0)
    assert answer.usage.completion_tokens == 0
    for choice, prompt in zip(answer.choices, ["To be, or", "ab"], strict=True):
        rows = log_softmax(server, prompt)
        own = [rows[i, j].item() for i, j in enumerate(TOKENIZER.encode(prompt)[1:].tolist())]
        assert choice.text == "".join(choice.logprobs.tokens) == prompt
        assert choice.finish_reason == "length"
        assert choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(own, abs=1e-5)
        listed = choice.logprobs.top_logprobs
        assert [listed[0], *(list(one) for one in listed[1:])] == [None, *map(list, prompt[1:])]
        assert choice.logprobs.text_offset == list(range(len(prompt)))


@pytest.mark.requirement("serving.stop")
def test_a_stop_text_of_many_tokens_ends_the_text_before_it(client: openai.OpenAI) -> None:
    whole = ask(client, max_tokens=60).choices[0].text
    stop = whole[20:25]
    answer = ask(client, max_tokens=60, stop=["\x7f never", stop], logprobs=0)
    before = whole[: whole.index(stop)]
    assert answer.choices[0].text == before
    assert answer.choices[0].finish_reason == "stop"
    assert "".join(answer.choices[0].logprobs.tokens) == before
    assert answer.usage.completion_tokens == len(before) + len(stop)


# Streams

STREAMED: list[dict[str, Any]] = [
    {},
    {"max_tokens": 0},
    {"max_tokens": 0, "echo": True, "logprobs": 2},
    {"n": 3, "stop": ["e", " t"]},
    {"logprobs": 2},
    {"echo": True, "logprobs": 2, "stop": "the"},
    {"logprobs": 0, "stop": ["zq", "e", "aba"], "max_tokens": 60, "n": 2},
    {"prompt": ["a", "bcd"], "echo": True, "n": 2},
    {"logprobs": 0, "stop": "aab", "logit_bias": {"69": 100}},  # aaa: two wait, one is certain
]


@pytest.mark.requirement("serving.streaming")
@pytest.mark.parametrize("options", STREAMED, ids=str)
def test_a_stream_says_what_the_whole_answer_says(
    client: openai.OpenAI, options: dict[str, Any]
) -> None:
    whole = ask(client, **options)
    texts = {choice.index: "" for choice in whole.choices}
    reasons: dict[int, str] = {}
    columns: dict[int, dict[str, list[Any]]] = {choice.index: {} for choice in whole.choices}
    ids = set()
    usage = None
    for chunk in ask(client, stream=True, stream_options={"include_usage": True}, **options):
        ids.add(chunk.id)
        assert usage is None  # what was counted comes last
        usage = chunk.usage
        for choice in chunk.choices:
            assert choice.index not in reasons
            if choice.logprobs is not None:
                for name, column in choice.logprobs.model_dump().items():
                    columns[choice.index].setdefault(name, []).extend(column)
                for token, offset in zip(
                    choice.logprobs.tokens, choice.logprobs.text_offset, strict=True
                ):
                    text = texts[choice.index] + choice.text
                    assert text.startswith(token, offset)  # a token comes with its text
            texts[choice.index] += choice.text
            if choice.finish_reason is not None:
                reasons[choice.index] = choice.finish_reason
    assert len(ids) == 1
    assert usage == whole.usage
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        assert reasons[choice.index] == choice.finish_reason
        wanted = {} if choice.logprobs is None else choice.logprobs.model_dump()
        assert columns[choice.index] == wanted


@pytest.mark.requirement("serving.streaming")
def test_a_stream_is_events_in_the_form_of_openai(server: Server) -> None:
    answer = server.post({"prompt": "a", "max_tokens": 3, "stream": True, "seed": 1})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert len(chunks) == 3
    for chunk in chunks:
        assert chunk["object"] == "text_completion"
        assert chunk["model"] == "small"
        assert chunk["system_fingerprint"] == "small-step-00000006"
        assert "usage" not in chunk
        (choice,) = chunk["choices"]
        assert choice.keys() == {"index", "text", "logprobs", "finish_reason"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]


@pytest.mark.requirement("serving.streaming")
def test_the_asynchronous_client_reads_a_stream_too(server: Server, client: openai.OpenAI) -> None:

    async def read() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as other:
            stream = await other.completions.create(
                model="small", prompt=PROMPT, seed=5, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(read()) == ask(client).choices[0].text


# Around it


@pytest.mark.requirement("serving.client")
def test_an_answer_has_every_field_of_openais(client: openai.OpenAI) -> None:
    answer = ask(client, user="someone", logit_bias=None, suffix=None)
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.model == "small"
    assert answer.system_fingerprint == "small-step-00000006"
    assert answer.created > 1_700_000_000
    assert answer.usage.model_dump(exclude_none=True) == {
        **{"prompt_tokens": 6, "completion_tokens": 16, "total_tokens": 22}
    }


@pytest.mark.requirement("serving.client")
def test_the_client_lists_the_model(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("small", "model", "tiny-transformer")
    assert client.models.retrieve("small") == model
    with pytest.raises(openai.NotFoundError, match=r"no model 'smal' here. Did you mean 'small'"):
        client.models.retrieve("smal")


@pytest.mark.requirement("serving.client")
def test_health_is_told_without_the_client(server: Server) -> None:

    answer = server.http.get("/health")
    assert answer.json() == {"status": "ok", "computing": 0, "waiting": 0}
