"""Tiny Shakespeare: fetched once, when asked for by name, and always checked.

The text was put together by Andrej Karpathy for char-rnn (2015).
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from pathlib import Path

from tiny_transformer.data.cache import cache_folder
from tiny_transformer.data.streams import Document, unreadable
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import DataError

URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/"
    "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt"
)
N_BYTES = 1_115_394
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
COMMAND = "tiny data prepare tinyshakespeare"


def tinyshakespeare_path() -> Path:
    """Return where the text is kept once it has been fetched."""
    return cache_folder() / "downloads" / "tinyshakespeare.txt"


def tinyshakespeare_documents() -> tuple[Document, ...]:
    """Return the text that lies in the cache, checked.

    Raises:
        DataError: it has not been fetched, or is damaged; the message has the command.
    """
    path = tinyshakespeare_path()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"The corpus 'tinyshakespeare' has not been fetched yet. Fetch it with: {COMMAND}"
        ) from None
    except OSError as error:
        raise unreadable(str(path), error) from None
    _verify(data, str(path), f"Fetch it again with: {COMMAND}", SHA256)
    return (Document(str(path), path),)


def fetch_tinyshakespeare(
    from_file: str | Path | None = None,
    *,
    url: str = URL,
    sha256: str = SHA256,
    timeout: float = 30.0,
) -> Path:
    """Put the text into the cache, from `url` or from a file, and return its path.

    Args:
        from_file: a copy that is already on this machine; then nothing is fetched.
        url: where to fetch from.
        sha256: what the bytes must hash to, whichever way they come.
        timeout: seconds to wait for the server.

    Raises:
        DataError: the file or the server cannot be read, or the checksum is another.
        StorageError: the cache cannot be written.
    """
    if from_file is None:
        data = _download(url, timeout)
        remedy = f"The server may have sent an error page; try again later. {_other_way()}"
        _verify(data, url, remedy, sha256)
    else:
        try:
            data = Path(from_file).expanduser().read_bytes()
        except OSError as error:
            raise unreadable(str(from_file), error) from None
        _verify(data, str(from_file), f"An unchanged copy is at {URL}", sha256)
    path = tinyshakespeare_path()
    files.make_directory(path.parent)
    files.write_bytes(path, data)
    return path


def _download(url: str, timeout: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.read(2 * N_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url} could not be fetched: {reason}. {_other_way()}") from None


def _other_way() -> str:
    return (
        "Without a network, fetch the file on another machine and give it with: "
        f"{COMMAND} --from-file PATH"
    )


def _verify(data: bytes, label: str, remedy: str, sha256: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError(
            f"{label} is not Tiny Shakespeare: its SHA-256 is {found} ({len(data)} bytes); "
            f"expected {sha256} ({N_BYTES} bytes). {remedy}"
        )
