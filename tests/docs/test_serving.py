"""`docs/serving.md`: its example runs, and its tables have every field, flag and default."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import openai
import pytest
from tests.serving.helpers import running

from tiny_transformer.cli.main import COMMANDS
from tiny_transformer.cli.serve import Serve
from tiny_transformer.config import SamplingConfig
from tiny_transformer.serving.fields import DEFAULT_MAX_TOKENS, read_request
from tiny_transformer.serving.settings import Settings

pytestmark = pytest.mark.requirement("docs.serving")

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table whose first heading is given."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]*\n((?:\|.*\n)+)", PAGE, re.M)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def test_the_example_runs_to_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    with running(model_id="y8-1337") as server:
        program = example.replace("http://127.0.0.1:8000", server.url)
        with pytest.raises(openai.BadRequestError) as refused:
            exec(program, {})
    assert f"openai.BadRequestError: {refused.value}" in PAGE
    out = capsys.readouterr().out
    assert re.search(r"^120 length$", out, re.M)
    assert re.search(r"^\[None(, -\d+\.\d+){4}\]$", out, re.M)


def test_the_table_of_fields_is_that_of_the_server() -> None:
    shown = {name for row in rows("field") for name in re.findall(r"`([\w.]+)`", row[0])}
    shown = {name.partition(".")[0] for name in shown}
    for name in shown:  # null is taken for every known field
        read_request({"prompt": "a", **({name: None} if name != "prompt" else {})}, SETTINGS, 99)
    everything = "model prompt max_tokens temperature top_p top_k min_p repetition_penalty stop n"
    more = "presence_penalty frequency_penalty logit_bias seed best_of logprobs echo stream user"
    assert shown == {*everything.split(), *more.split(), "stream_options"}


SETTINGS = Settings("a", "b")


def test_the_defaults_of_fields_are_those_of_the_server() -> None:
    defaults = {row[0].strip("`"): row[1] for row in rows("field")}
    request = read_request({"prompt": "a"}, SETTINGS, 99)
    assert defaults["max_tokens"] == str(DEFAULT_MAX_TOKENS)
    assert defaults["temperature"] == f"{request.sampling.temperature:g}"
    assert defaults["repetition_penalty"] == f"{SamplingConfig().repetition_penalty:g}"
    assert defaults["n"] == str(request.n)


def test_the_limits_are_those_of_the_server() -> None:
    for flag, default, _ in rows("flag"):
        number = re.findall(r"\d+", default)[0]
        if flag:
            name = flag.strip("`-").replace("-", "_")
            assert float(number) == getattr(SETTINGS, name), flag
            assert getattr(Serve, name) == getattr(SETTINGS, name)
    assert SETTINGS.max_body == 1 << 20 and "1 MiB of a body" in PAGE
    assert SETTINGS.max_body_seconds == 30 and "30 seconds for a body" in PAGE


def test_every_flag_that_it_names_exists() -> None:
    named = set(re.findall(r"`(?:tiny serve[^`]*?)?--([a-z][a-z-]*)", PAGE))
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(Serve)}
    others = {"num-samples", "tokens"}  # of tiny generate, and of the benchmark
    assert len(named) >= 10
    assert named - others <= fields
    assert "serve" in COMMANDS
