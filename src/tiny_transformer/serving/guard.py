"""Who may call: checks of a request's head, before anything reads its body.

Notable: a browser sends requests to this machine for any page that asks it to. A page of
another site names itself in `Origin`, which is refused unless allowed. A page that has its own
name lead to this machine (DNS rebinding) calls the server by that name, which `Host` tells.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tiny_transformer.serving.errors import ApiError
from tiny_transformer.serving.wire import json_response


class Guard:
    """Refuses requests by another name than the server's, and those of web pages.

    Args:
        app: what is guarded.
        hosts: names that `Host` may give, without a port; none allows any.
        allow_origins: what `Origin` may say; `*` allows any.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] = (), allow_origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._origins = set(allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        try:
            if scope["type"] == "http":
                self._check(Headers(scope=scope))
        except ApiError as error:
            await json_response(error.body(), error.status)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        name = host_name(headers.get("host", ""))
        if self._hosts and name not in self._hosts:
            raise ApiError(
                f"This server is not called {name!r}; it answers to "
                f"{', '.join(sorted(self._hosts))}.",
                status=403,
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not self._origins & {origin, "*"}:
            raise ApiError(
                f"Web pages of {origin!r} may not use this server. Those that should are named by "
                "--allow-origin when it starts.",
                status=403,
                code="origin_not_allowed",
            )


class RequireKey:
    """Refuses requests without the key, but for `/health`.

    Args:
        app: what is guarded.
        api_key: the key.
    """

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app, self._key = app, api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # compare_digest takes as long for a key that is nearly right as for any other.
        right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._key)
        if right and scheme.lower() == "bearer":
            await self._app(scope, receive, send)
            return
        error = ApiError(
            "The API key is missing or wrong; send the header 'Authorization: Bearer KEY' with the "
            "key that the server was started with.",
            status=401,
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await json_response(error.body(), error.status, error.headers)(scope, receive, send)


def host_name(host: str) -> str:
    """Return a `Host` header without its port, in lower case; `[::1]:80` gives `[::1]`."""
    name, _, port = host.rpartition(":")
    bare = name if name and (port.isdigit() or not port) and not host.endswith("]") else host
    return bare.lower()
