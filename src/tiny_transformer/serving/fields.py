"""From the JSON of a request to its settings: every field by name, and what it may be.

Notable: null stands for the default, as OpenAI's clients send it; a field that is not known is
refused, because a misspelt one would silently do nothing. Source of the names: OpenAI's API
reference, "Create completion"; `top_k`, `min_p` and `repetition_penalty` are this package's own.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tiny_transformer.config import SamplingConfig
from tiny_transformer.runtime.errors import ConfigError, suggest
from tiny_transformer.serving.errors import ApiError
from tiny_transformer.serving.settings import Settings
from tiny_transformer.serving.wire import json_type

DEFAULT_MAX_TOKENS = 16
MAX_LOGPROBS, MAX_STOP_TEXTS = 5, 4
_MAX_SEED = 2**63 - 1

Prompt = str | list[int]
Read = Callable[[Any], Any]


@dataclass(frozen=True)
class CompletionRequest:
    """What a client asks for.

    Attributes:
        model: the model's name; None takes the one there is.
        prompts: texts or ids, at least one.
        sampling: strategy, length, stop texts and seed.
        n: texts of each prompt.
        best_of: texts that are written for each prompt, of which the n likeliest are returned.
        logprobs: how many of the likeliest tokens to list; None lists no log-probabilities.
        echo: whether the prompt comes before the text.
        stream: whether to send the text as it is written.
        include_usage: whether a stream ends with what was counted.
        logit_bias: is added to the logits of these ids.
    """

    model: str | None
    prompts: tuple[Prompt, ...]
    sampling: SamplingConfig
    n: int
    best_of: int
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool
    logit_bias: Mapping[int, float]


class _Wrong(Exception):  # noqa: N818 - becomes an ApiError that names the field
    """What a value must be."""


def read_request(body: Mapping[str, Any], settings: Settings, vocab_size: int) -> CompletionRequest:
    """Return what a request's body asks for.

    Args:
        body: the JSON object.
        settings: the server's limits.
        vocab_size: ids are below it.

    Raises:
        ApiError: a field is unknown, is refused, or has a value that it cannot have; `param`
            names it.
    """
    readers = _readers(settings, vocab_size)
    for name, value in body.items():
        if name not in readers:
            if name in _REFUSED:
                if value is None:
                    continue
                raise ApiError(f"{name!r} is not served. {_REFUSED[name]}", param=name)
            raise ApiError(
                f"{name!r} is not a field of a completion. {suggest(name, readers)}",
                param=name,
                code="unknown_parameter",
            )
    read: dict[str, Any] = {}
    for name, reader in readers.items():
        given = body.get(name)
        if given is not None:
            try:
                read[name] = reader(given)
            except _Wrong as wrong:
                raise ApiError(
                    f"{name!r} is {_show(given)}; it must be {wrong}.", param=name
                ) from None
    if "prompt" not in read:
        raise ApiError("The request has no 'prompt'; give the text to continue.", param="prompt")
    return _combine(read, settings)


def _combine(read: dict[str, Any], settings: Settings) -> CompletionRequest:
    n, prompts = read.get("n", 1), read["prompt"]
    best_of, stream = read.get("best_of", n), read.get("stream", False)
    options = read.get("stream_options", {})
    if best_of < n:
        raise ApiError(
            f"'best_of' is {best_of} and 'n' is {n}; it must be at least n.", param="best_of"
        )
    if best_of > n and stream:
        raise ApiError(
            "'best_of' cannot be streamed: which text is best is known at the end. Leave one out.",
            param="best_of",
        )
    if options and not stream:
        raise ApiError("'stream_options' goes with 'stream': true only.", param="stream_options")
    if len(prompts) * best_of > settings.max_batch:
        raise ApiError(
            f"The request asks for {len(prompts) * best_of} texts ({len(prompts)} prompts, "
            f"{best_of} each); this server writes up to {settings.max_batch} at once "
            "(--max-batch).",
            param="n" if best_of == n else "best_of",
        )
    same = ("temperature", "top_p", "top_k", "min_p", "stop", "seed", "repetition_penalty")
    chosen = {
        "max_new_tokens": read.get("max_tokens", DEFAULT_MAX_TOKENS),
        "seed": secrets.randbits(53),  # a number that JavaScript can hold
        **{
            name: read[name]
            for name in (*same, "presence_penalty", "frequency_penalty")
            if name in read
        },
    }
    try:
        sampling = SamplingConfig(**chosen)
    except ConfigError as error:
        name, _, rest = str(error).removeprefix("sampling.").partition(" ")
        raise ApiError(f"{name!r} {rest}", param=name) from None
    return CompletionRequest(
        model=read.get("model"),
        prompts=tuple(prompts),
        sampling=sampling,
        n=n,
        best_of=best_of,
        logprobs=read.get("logprobs"),
        echo=read.get("echo", False),
        stream=stream,
        include_usage=options.get("include_usage", False),
        logit_bias=read.get("logit_bias", {}),
    )


_REFUSED = {
    "suffix": "This model only continues a text; it cannot write what stands before another.",
    "messages": "This is a base model: give 'prompt', the text to continue.",
    "input": "Give 'prompt', the text to continue.",
    "max_completion_tokens": "Give 'max_tokens'.",
    "max_new_tokens": "Give 'max_tokens'.",
    "top_logprobs": "Give 'logprobs', the number of tokens to list.",
    "tools": "This is a base model: it calls no tools.",
    "response_format": "This is a base model: it writes text of any form.",
}


def _readers(settings: Settings, vocab_size: int) -> dict[str, Read]:
    """Return for each field what reads its value."""
    return {
        "model": _text,
        "prompt": _prompts(vocab_size),
        "max_tokens": _integer(0, settings.max_tokens, "--max-tokens"),
        "temperature": _number(0, math.inf),
        "top_p": _number(0, 1),
        "top_k": _integer(1, None),
        "min_p": _number(0, 1),
        # Beyond these nothing changes any more, and far beyond numbers overflow.
        "repetition_penalty": _number(0.01, 100),
        "presence_penalty": _number(-100, 100),
        "frequency_penalty": _number(-100, 100),
        "logit_bias": _logit_bias(vocab_size),
        "stop": _stop,
        "seed": _integer(0, _MAX_SEED),
        "n": _integer(1, settings.max_batch, "--max-batch"),
        "best_of": _integer(1, settings.max_batch, "--max-batch"),
        "logprobs": _integer(0, MAX_LOGPROBS),
        "echo": _boolean,
        "stream": _boolean,
        "stream_options": _stream_options,
        "user": _text,
    }


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong("a string")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return value


def _integer(least: int, most: int | None, flag: str = "") -> Read:
    limit = f"at least {least}" if most is None else f"between {least} and {most}"
    server = f" on this server ({flag})" if flag else ""

    def read(value: Any) -> int:
        if not _is_integer(value) or value < least or (most is not None and value > most):
            raise _Wrong(f"an integer {limit}{server}")
        return value

    return read


def _number(least: float, most: float) -> Read:
    limit = f"of at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Wrong(f"a number {limit}")
        if not (least <= value <= most and abs(value) < 1e300):
            raise _Wrong(f"a number {limit}")
        return float(value)

    return read


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if (
        not isinstance(texts, list)
        or len(texts) > MAX_STOP_TEXTS
        or not all(isinstance(text, str) and text for text in texts)
    ):
        raise _Wrong(f"a string, or an array of up to {MAX_STOP_TEXTS}, none of them empty")
    return tuple(texts)


def _stream_options(value: Any) -> dict[str, bool]:
    if not isinstance(value, dict):
        raise _Wrong("an object with 'include_usage'")
    # The client's own default is sent along; it says nothing that this server could do.
    for name, setting in value.items():
        if name not in ("include_usage", "include_obfuscation") or not isinstance(
            setting, bool | None
        ):
            raise _Wrong("an object with 'include_usage', which is true or false")
    return {name: bool(setting) for name, setting in value.items()}


def _logit_bias(vocab_size: int) -> Read:
    must = _Wrong(
        f"an object of token ids below {vocab_size}, each a string, with numbers between -100 and "
        '100, such as {"41": -100}'
    )

    def read(value: Any) -> dict[int, float]:
        if not isinstance(value, dict):
            raise must
        found: dict[int, float] = {}
        for name, amount in value.items():
            if not re.fullmatch(r"[0-9]{1,9}", name) or int(name) >= vocab_size:
                raise must
            if isinstance(amount, bool) or not isinstance(amount, int | float):
                raise must
            if not -100 <= amount <= 100:
                raise must
            found[int(name)] = float(amount)
        return found

    return read


def _prompts(vocab_size: int) -> Read:
    must = (
        "a string, an array of strings, an array of token ids, or an array of such arrays, not "
        f"empty; ids are 0 to {vocab_size - 1}"
    )

    def is_ids(value: Any) -> bool:
        return (
            isinstance(value, list)
            and bool(value)
            and all(_is_integer(i) and 0 <= i < vocab_size for i in value)
        )

    def read(value: Any) -> list[Prompt]:
        if isinstance(value, str) or is_ids(value):
            return [value]
        if not isinstance(value, list) or not value:
            raise _Wrong(must)
        if all(isinstance(text, str) for text in value) or all(is_ids(ids) for ids in value):
            return value
        raise _Wrong(must)

    return read


def _show(value: Any) -> str:
    """Return a value as a message names it: short, and its type where that says more."""
    if isinstance(value, list | dict):
        return json_type(value)
    shown = repr(value) if not isinstance(value, bool) else str(value).lower()
    return shown if len(shown) <= 60 else f"{shown[:50]}... ({json_type(value)})"
