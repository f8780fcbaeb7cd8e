"""What a server is told when it starts: what it serves, and its limits."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from tiny_transformer.runtime.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What a server serves, and what it allows.

    Attributes:
        model_id: the name that requests ask for.
        fingerprint: names the exact weights, as `system_fingerprint`.
        created: when the weights were saved, in seconds since 1970.
        max_concurrent: requests that are computed at once.
        max_waiting: requests that may wait for them; more are refused.
        max_tokens: most new tokens of one text.
        max_batch: most texts of one request.
        max_body: bytes of a request.
        max_body_seconds: for a request's body to arrive.
        timeout: seconds that a request may wait and compute.
        errors: what to do with characters outside the vocabulary, `"strict"` or `"replace"`.
        crop_prompt: keep the end of a prompt that is longer than the context.
        api_key: what a client has to send; None asks for nothing.
        hosts: names by which the server may be called; none allows any.
        allow_origins: web pages that may call it, as `https://host:port`; `*` is any.
    """

    model_id: str
    fingerprint: str
    created: int = 0
    max_concurrent: int = 2
    max_waiting: int = 16
    max_tokens: int = 2048
    max_batch: int = 16
    max_body: int = 1 << 20
    max_body_seconds: float = 30.0
    timeout: float = 120.0
    errors: Literal["strict", "replace"] = "strict"
    crop_prompt: bool = False
    api_key: str | None = dataclasses.field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (
            *(("max_concurrent", 1), ("max_waiting", 0), ("max_tokens", 1), ("max_batch", 1)),
            ("max_body", 1),
        ):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"--{_flag(name)} is {value}; it must be at least {least}.")
        if not 0 < self.timeout < math.inf:
            raise ConfigError(
                f"--timeout is {self.timeout}; it must be a number above 0, in seconds."
            )
        key = self.api_key
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError(
                "The API key is empty or has characters that an HTTP header cannot carry; take "
                "letters, digits and signs of ASCII without spaces."
            )
        for origin in self.allow_origins:
            scheme, _, host = origin.partition("://")
            if origin != "*" and (scheme not in ("http", "https") or not host or "/" in host):
                raise ConfigError(
                    f"--allow-origin {origin!r} is no origin; it is a scheme and a host, such as "
                    "https://example.org or http://localhost:5173, or * for every page."
                )


def _flag(name: str) -> str:
    return name.replace("_", "-")
