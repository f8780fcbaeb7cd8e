"""Whatever comes, the answer is JSON in OpenAI's form that says what to do, and never a 500."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving.helpers import CONTEXT, DEADLINE, Server, build, running
from tests.serving.test_completions import PROMPT, ask

from tiny_transformer.serving.settings import Settings

CASES: list[tuple[dict[str, Any], str | None, str]] = [
    ({"temprature": 1}, "temprature", r"not a field.*Did you mean 'temperature'"),
    ({"suffix": "end"}, "suffix", "not served.*only continues"),
    ({"messages": []}, "messages", "base model"),
    ({"prompt": None}, "prompt", "no 'prompt'"),
    ({"prompt": ""}, "prompt", r"empty.*\\n"),
    ({"prompt": []}, "prompt", "not empty"),
    ({"prompt": ["a", ""]}, "prompt", "empty"),
    ({"prompt": 5}, "prompt", "is 5; it must be a string, an array of strings"),
    ({"prompt": ["a", 1]}, "prompt", "an array of strings"),
    ({"prompt": [1, 99]}, "prompt", "ids are 0 to 98"),
    ({"prompt": [True]}, "prompt", "ids are 0 to 98"),
    ({"prompt": [[1], []]}, "prompt", "not empty"),
    ({"prompt": {"a": 1}}, "prompt", "is an object"),
    ({"prompt": "caf\u00e9"}, "prompt", r"U\+00E9.*--errors replace"),
    ({"prompt": "\ud800"}, "prompt", r"U\+D800"),
    ({"prompt": "a" * 25}, "prompt", "context is 24 tokens, and the prompt has 25.*--crop-prompt"),
    ({"prompt": [5] * 25}, "prompt", "the prompt has 25"),
    ({"max_tokens": 65}, "max_tokens", "between 0 and 64 on this server"),
    ({"max_tokens": -1}, "max_tokens", "between 0 and 64"),
    ({"max_tokens": 1.5}, "max_tokens", "is 1.5; it must be an integer"),
    ({"max_tokens": True}, "max_tokens", "is true; it must be an integer"),
    ({"temperature": -1}, "temperature", "is -1; it must be a number of at least 0"),
    ({"temperature": "warm"}, "temperature", "is 'warm'; it must be a number"),
    ({"temperature": 10**400}, "temperature", "it must be a number"),
    ({"top_p": 0}, "top_p", "'top_p' is 0.0; it must be above 0"),
    ({"top_p": 1.1}, "top_p", "between 0 and 1"),
    ({"top_k": 0}, "top_k", "at least 1"),
    ({"min_p": 2}, "min_p", "between 0 and 1"),
    ({"presence_penalty": 1e308}, "presence_penalty", "between -100 and 100"),
    ({"repetition_penalty": 0}, "repetition_penalty", "between 0.01 and 100"),
    ({"stop": ""}, "stop", "none of them empty"),
    ({"stop": list("abcde")}, "stop", "up to 4"),
    ({"stop": [1]}, "stop", "a string, or an array"),
    ({"seed": -1}, "seed", "between 0 and 9223372036854775807"),
    ({"n": 0}, "n", "between 1 and 4 on this server"),
    ({"n": 3, "prompt": ["a", "b"]}, "n", "asks for 6 texts.*up to 4 at once"),
    ({"n": 2, "best_of": 1}, "best_of", "must be at least n"),
    ({"best_of": 2, "stream": True}, "best_of", "cannot be streamed"),
    ({"logprobs": 6}, "logprobs", "between 0 and 5"),
    ({"logprobs": True}, "logprobs", "an integer"),
    ({"echo": 1}, "echo", "true or false"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "'stream': true only"),
    ({"stream": True, "stream_options": []}, "stream_options", "an object"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options", "an object"),
    ({"logit_bias": {"99": 1}}, "logit_bias", "token ids below 99"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "token ids below 99"),
    ({"logit_bias": {"5": "1"}}, "logit_bias", "numbers between -100 and 100"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "numbers between -100 and 100"),
    ({"logit_bias": [1]}, "logit_bias", "an object"),
    ({"model": 3}, "model", "a string"),
    ({"user": "x" * 100, "seed": "y" * 100}, "seed", r"'y{40,}\.\.\. \(a string\)"),
]


@pytest.fixture(scope="module")
def server() -> Any:
    with running(max_tokens=64, max_batch=4, max_body=4096) as found:
        yield found


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error in an answer, whose form is OpenAI's."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] and error["message"][-1] not in " :"
    return error


@pytest.mark.requirement("serving.errors")
@pytest.mark.parametrize(("body", "param", "message"), CASES, ids=lambda value: str(value)[:50])
def test_a_wrong_field_is_named_with_what_it_may_be(
    server: Server, body: dict[str, Any], param: str | None, message: str
) -> None:
    import re

    error = error_of(
        server.http.post(
            "/v1/completions",
            content=json.dumps({"prompt": "a", **body}),
            headers={"Content-Type": "application/json"},
        ),
        400,
    )
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert re.search(message, error["message"])


@pytest.mark.requirement("serving.errors")
def test_the_client_raises_its_own_errors_with_our_message(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context is 24 tokens") as refused:
        ask(client, "a" * (CONTEXT + 1))
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "prompt"
    with pytest.raises(openai.BadRequestError, match="Did you mean 'top_k'"):
        ask(client, extra_body={"topk": 3})
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4' here") as missing:
        client.completions.create(model="gpt-4", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="'n' is 17"):
        ask(client, n=17, stream=True)


@pytest.mark.requirement("serving.errors")
def test_what_a_base_model_cannot_do_is_refused_with_what_it_can(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"base model.*client\.completions\.create"):
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.NotFoundError, match="no embeddings"):
        client.embeddings.create(model="small", input="a")


@pytest.mark.requirement("serving.errors")
@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "application/json", 400, "invalid_json"),
        (b"{", "application/json", 400, "invalid_json"),
        (b"{}x", "application/json", 400, "invalid_json"),
        (b"[]", "application/json", 400, None),
        (b"null", "application/json", 400, None),
        (b"\xff\xfe{}", "application/json", 400, "invalid_json"),
        (b'{"prompt": "a", "seed": NaN}', "application/json", 400, "invalid_json"),
        (b'{"prompt": "a", "temperature": 1e999}', "application/json", 400, None),
        (b'{"prompt": "a", "seed": ' + b"9" * 4400 + b"}", "application/json", 413, None),
        (b"[" * 4000, "application/json", 400, "invalid_json"),
        (b'{"prompt": "' + b"a" * 5000 + b'"}', "application/json", 413, "request_too_large"),
        (b'{"prompt": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"prompt": "a"}', "", 415, "unsupported_media_type"),
        (b'{"prompt": "a"}', "application/jsonp", 415, "unsupported_media_type"),
    ],
    ids=str,
)
def test_a_body_that_is_no_request_is_refused(
    server: Server, content: bytes, kind: str, status: int, code: str | None
) -> None:
    answer = server.http.post("/v1/completions", content=content, headers={"Content-Type": kind})
    error = error_of(answer, status)
    assert code is None or error["code"] == code


@pytest.mark.requirement("serving.errors")
def test_a_number_of_very_many_digits_is_no_fault_of_the_server() -> None:
    from tiny_transformer.serving.errors import ApiError
    from tiny_transformer.serving.wire import parse_object

    with pytest.raises(ApiError, match="not JSON"):
        parse_object(b'{"seed": ' + b"9" * 10_000 + b"}")
    with pytest.raises(ApiError, match="nested too deeply"):
        parse_object(b'{"a":' * 200_000)


@pytest.mark.requirement("serving.body-limit")
def test_a_body_without_a_length_is_read_no_further_than_the_limit(server: Server) -> None:
    sent = 0

    def pieces() -> Any:
        nonlocal sent
        for _ in range(10_000):
            sent += 1
            yield b" " * 1024

    try:
        answer = server.http.post(
            "/v1/completions",
            content=pieces(),
            headers={"Content-Type": "application/json"},
        )
    except httpx.TransportError:  # the server may close before all is sent
        pass
    else:
        error_of(answer, 413)
    assert sent < 10_000


@pytest.mark.requirement("serving.body-limit")
def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with running(max_body_seconds=0.05) as server:
        where = urlsplit(server.url)
        with socket.create_connection((where.hostname, where.port), DEADLINE) as line:
            line.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
            )
            assert line.recv(1 << 16).startswith(b"HTTP/1.1 408 ")


@pytest.mark.requirement("serving.errors")
@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/", 404, "There is no / here"),
        ("POST", "/completions", 404, "Did you mean '/v1/completions'"),
        ("GET", "/v1/models/", 404, "no model ''"),
        ("GET", "/v1/completion", 404, "Did you mean '/v1/completions'"),
        ("POST", "/v1/completions/", 404, "Did you mean '/v1/completions'"),
        ("GET", "/v1/completions", 405, "does not take GET; use POST"),
        ("DELETE", "/v1/models", 405, "use .*GET"),
        ("GET", "/v1/%ff%00", 404, "There is no"),
        ("GET", "/v1/engines", 404, "There is no"),
    ],
)
def test_a_path_or_method_that_is_not_served_is_told(
    server: Server, method: str, path: str, status: int, message: str
) -> None:
    import re

    error = error_of(server.http.request(method, path), status)
    assert re.search(message, error["message"])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["a", "To be", "", "true"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "5", "a"]), inner)
    ),
    max_leaves=5,
)
GOOD = {
    "prompt": "ab",
    "max_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.5,
    "n": 2,
    "echo": True,
    "stop": ["e"],
    "seed": 1,
    "logprobs": 2,
    "stream": True,
    "logit_bias": {"5": 3.5},
    "repetition_penalty": 2.0,
}
FIELDS = [*GOOD, "model", "top_k", "min_p", "presence_penalty", "frequency_penalty", "best_of"]


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    """Nearly right requests: some fields good, some with anything for a value."""
    kept = draw(st.sets(st.sampled_from(list(GOOD))))
    changed = draw(st.dictionaries(st.sampled_from([*FIELDS, "user", "x"]), JSON, max_size=2))
    return {"prompt": "ab", "max_tokens": 3, **{name: GOOD[name] for name in kept}, **changed}


@pytest.mark.requirement("serving.never-500")
@settings(max_examples=150)
@given(body=bodies() | JSON)
def test_whatever_json_comes_the_answer_is_an_answer_or_the_clients_mistake(
    server: Server, body: Any
) -> None:
    answer = server.http.post(
        "/v1/completions",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500, answer.text
        error_of(answer, answer.status_code)
    elif answer.headers["content-type"] == "application/json":
        assert answer.json()["object"] == "text_completion"
        assert all(one["finish_reason"] for one in answer.json()["choices"])
    else:
        assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.requirement("serving.errors")
def test_a_model_whose_weights_are_no_numbers_is_the_servers_fault_and_told() -> None:
    model = build()
    with torch.no_grad():
        model.final_norm.get_parameter("weight").fill_(torch.nan)
    with running(model) as server:
        error = error_of(server.post({"prompt": "a", "stream": True}), 500)
        assert error["type"] == "server_error"
        assert "weights are unusable" in error["message"]
        with pytest.raises(openai.InternalServerError, match="unusable"):
            ask(server.client())
        server.wait_until_idle()


@pytest.mark.requirement("serving.errors")
def test_an_unforeseen_fault_is_told_without_its_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = build()

    def fail(*_: object) -> None:
        raise RuntimeError("the secret of the server")

    model.register_forward_pre_hook(fail)
    with running(model) as server:
        error = error_of(server.post({"prompt": "a"}), 500)
        assert "secret" not in error["message"] and error["code"] == "internal_error"
        server.wait_until_idle()
    assert "the secret of the server" in capfd.readouterr().err


@pytest.mark.requirement("serving.prompt-options")
def test_long_prompts_and_unknown_characters_are_taken_where_the_server_says_so() -> None:
    with running(errors="replace", crop_prompt=True) as server:
        client = server.client()
        long = "".join(chr(97 + i % 26) for i in range(CONTEXT + 9))
        cropped = ask(client, long, echo=True)
        assert cropped.choices[0].text == ask(client, long[-CONTEXT:], echo=True).choices[0].text
        assert cropped.usage.prompt_tokens == CONTEXT
        assert ask(client, "caf\u00e9", echo=True).choices[0].text.startswith("caf\ufffd")
        ask(client, [5] * (CONTEXT + 1))
        with pytest.raises(openai.BadRequestError, match="empty"):
            ask(client, "")


def test_the_prompt_of_these_tests_fits() -> None:
    assert len(PROMPT) + 16 <= CONTEXT
    assert Settings("a", "b").max_waiting > 0
