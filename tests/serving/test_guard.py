"""Who may call: other names, web pages and wrong keys are sent away."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.helpers import Server, running
from tests.serving.test_completions import ask
from tests.serving.test_errors import error_of

from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.serving.guard import host_name
from tiny_transformer.serving.server import LOOPBACK
from tiny_transformer.serving.settings import Settings

PAGE = "http://localhost:5173"


@pytest.fixture(scope="module")
def server() -> Any:
    with running(hosts=LOOPBACK) as found:
        yield found


@pytest.mark.requirement("serving.web-pages")
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost:evil.example", 403),
        ("127.0.0.2", 403),
    ],
)
def test_a_name_that_is_not_the_servers_is_refused(server: Server, host: str, status: int) -> None:
    for path in ("/v1/models", "/health"):
        answer = server.http.get(path, headers={"Host": host})
        if status == 200:
            assert answer.status_code == 200
        else:
            assert error_of(answer, status)["code"] == "host_not_allowed"


@given(st.text("abz:[]0129.", max_size=12))
def test_any_host_header_has_a_name(host: str) -> None:
    assert host_name(host) in (host, host.rpartition(":")[0])


@pytest.mark.requirement("serving.web-pages")
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", ""])
def test_a_web_page_may_not_use_the_model(server: Server, origin: str) -> None:
    error = error_of(server.post({"prompt": "a"}, headers={"Origin": origin}), 403)
    assert error["code"] == "origin_not_allowed"
    assert "--allow-origin" in error["message"]
    preflight = server.http.options("/v1/completions", headers={"Origin": origin})
    assert preflight.status_code == 403
    # What a browser sends without asking first has a type that is not read.
    plain = {"Content-Type": "text/plain"}
    answer = server.http.post("/v1/completions", content=b'{"prompt":"a"}', headers=plain)
    assert answer.status_code == 415
    assert "access-control-allow-origin" not in server.http.get("/health").headers


@pytest.mark.requirement("serving.web-pages")
@pytest.mark.parametrize("allowed", [PAGE, "*"])
def test_a_page_that_is_allowed_may(allowed: str) -> None:
    with running(hosts=LOOPBACK, allow_origins=(allowed,), api_key="k") as server:
        asks = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
        }
        preflight = server.http.options("/v1/completions", headers=asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] in (PAGE, "*")
        headers = {"Origin": PAGE, "Authorization": "Bearer k"}
        answer = server.post({"prompt": "a"}, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] in (PAGE, "*")
        wrong = server.post({"prompt": "a"}, headers={"Origin": PAGE})
        assert wrong.status_code == 401  # and the page can read why
        assert wrong.headers["access-control-allow-origin"] in (PAGE, "*")
        other = server.post({"prompt": "a"}, headers={**headers, "Origin": "http://evil.example"})
        assert other.status_code == (403 if allowed == PAGE else 200)


@pytest.mark.requirement("serving.key")
def test_with_a_key_only_who_knows_it_is_served() -> None:
    with running(api_key="open-sesame") as server:
        assert ask(server.client(api_key="open-sesame")).choices[0].text
        for wrong in ("open-sesam", "open-sesame2", "OPEN-SESAME", "none"):
            with pytest.raises(openai.AuthenticationError, match="missing or wrong") as refused:
                ask(server.client(api_key=wrong))
            assert refused.value.code == "invalid_api_key"
        for headers in (
            {},
            {"Authorization": "Basic open-sesame"},
            {"Authorization": "open-sesame"},
            {"Authorization": "Bearer"},
            {"Authorization": b"Bearer \xff\xfe"},
        ):
            for path in ("/v1/models", "/v1/completions", "/nowhere"):
                answer = server.http.get(path, headers=headers)  # pyright: ignore
                assert error_of(answer, 401)["type"] == "authentication_error"
                assert "open-sesame" not in answer.text
        assert server.http.get("/health").status_code == 200
        same = {"Authorization": "bearer open-sesame"}
        assert server.http.get("/v1/models", headers=same).status_code == 200
    assert "open-sesame" not in repr(Settings("a", "b", api_key="open-sesame"))


@pytest.mark.requirement("serving.settings")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_concurrent": 0}, "--max-concurrent is 0; it must be at least 1"),
        ({"max_waiting": -1}, "--max-waiting is -1"),
        ({"max_tokens": 0}, "--max-tokens is 0"),
        ({"max_batch": 0}, "--max-batch is 0"),
        ({"timeout": 0}, "--timeout is 0"),
        ({"timeout": float("nan")}, "--timeout is nan"),
        ({"timeout": float("inf")}, "--timeout is inf"),
        ({"api_key": ""}, "API key is empty"),
        ({"api_key": "a b"}, "API key is empty or has characters"),
        ({"api_key": "sch\u00fcssel"}, "API key is empty or has characters"),
        ({"allow_origins": ("example.org",)}, "is no origin"),
        ({"allow_origins": ("https://example.org/",)}, "is no origin"),
        ({"allow_origins": ("ftp://example.org",)}, "is no origin"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_their_flag(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**{"model_id": "a", "fingerprint": "b", **changes})
