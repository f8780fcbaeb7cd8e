"""The fields of a foreign `config.json`, each asked for by its name and kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tiny_transformer.config.loading import read_settings
from tiny_transformer.interop.base import CONFIG, ImportRefusedError
from tiny_transformer.runtime.errors import ConfigError

LARGEST_JSON = 64 << 20  # bytes
LARGEST_SIZE = 1 << 31  # of anything that is counted
LARGEST_NUMBER = 1e300


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a foreign folder; raise `ImportRefusedError` where it is none."""
    if not path.is_file():  # a link to one is: the Hub's cache is made of them
        raise ImportRefusedError(
            f"There is no {path.name} in {path.parent}. Give a folder that transformers wrote: "
            f"{CONFIG}, the weights as safetensors, and tokenizer.json."
        )
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise ImportRefusedError(f"The file {path} has {size:,} bytes: far too many.")
        return read_settings(path)
    except OSError as error:
        raise ImportRefusedError(f"The file {path} cannot be read: {error.strerror}.") from None
    except ConfigError as error:
        raise ImportRefusedError(f"{path} is damaged. {error}") from None


class Fields:
    """The fields of one `config.json`, each asked for by its name and kind.

    Args:
        path: the file, for messages.
        record: what it holds.
        defaults: values of fields that it leaves out.
        wanted_context: the context length that the user asks for; None takes the model's.
    """

    def __init__(
        self,
        path: Path,
        record: Mapping[str, Any],
        defaults: Mapping[str, Any],
        wanted_context: int | None,
    ) -> None:
        self.path, self.record, self.defaults = path, record, defaults
        self.wanted_context = wanted_context

    def get(self, name: str) -> Any:
        """Return a field as it stands there, or its default."""
        return self.record.get(name, self.defaults.get(name))

    def refuse(self, name: str, reason: str) -> NoReturn:
        """Raise `ImportRefusedError` about a field and its value."""
        raise ImportRefusedError(f"{self.path}: {name} is {shown(self.get(name))}: {reason}.")

    def integer(self, name: str) -> int:
        """Return a whole number above zero."""
        value = self.get(name)
        if type(value) is not int or not 1 <= value <= LARGEST_SIZE:
            self.refuse(name, "it must be a whole number above 0")
        return value

    def number(self, name: str) -> float:
        """Return a finite number, at least zero."""
        value = self.get(name)
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            self.refuse(name, "it must be a number, at least 0")
        return float(min(value, LARGEST_NUMBER))

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            self.refuse(name, "it must be true or false")
        return value

    def sizes(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return the sizes in `names` by our name, the context as long as the user wants it."""
        found = {ours: self.integer(theirs) for theirs, ours in names.items()}
        longest = found["context_length"]
        if self.wanted_context is not None:
            if self.wanted_context > longest:
                raise ImportRefusedError(
                    f"--context-length is {self.wanted_context}, and {self.path} has a context of "
                    f"{longest}: it can be shortened, not lengthened."
                )
            found["context_length"] = self.wanted_context
        return found


def shown(value: Any, limit: int = 120) -> str:
    """Return a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
