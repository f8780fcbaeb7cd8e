"""`tiny generate --prompts FILE`: many prompts, one JSON line each."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny_transformer.config import SamplingConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import DataError
from tiny_transformer.runtime.random_state import derive_seed
from tiny_transformer.sampling.sampler import continue_prompts
from tiny_transformer.text.tokenizer import Tokenizer

_AT_ONCE = 32  # prompts side by side


def continue_file(
    path: str, model: Transformer, tokenizer: Tokenizer, config: SamplingConfig, **how: Any
) -> int:
    """Continue each line of a file; print a JSON object for each, in order.

    A line is a prompt as it stands, or a JSON object with `prompt`, and `seed` and `id` if
    wanted; empty lines are passed over. What a prompt is continued with depends on the
    seed and its place in the file, or its own seed, and not on its neighbours.

    Raises:
        DataError: the file cannot be read, or a line is an object without a prompt.
    """
    indexed = enumerate(_prompts(path))
    while chunk := list(itertools.islice(indexed, _AT_ONCE)):
        found = continue_prompts(
            model,
            tokenizer,
            [order["prompt"] for _, order in chunk],
            config,
            seeds=[
                order.get("seed", derive_seed(config.seed, "prompt", index))
                for index, order in chunk
            ],
            log_probabilities=True,
            **how,
        )
        for (index, order), continuation in zip(chunk, found, strict=True):
            line = {
                **{"index": index, "prompt": order["prompt"], "text": continuation.text},
                "finish_reason": continuation.finish_reason,
                "tokens": len(continuation.ids),
                "log_probability": math.fsum(continuation.log_probabilities),
            }
            print(json.dumps({"id": order["id"], **line} if "id" in order else line))
    return 0


def _prompts(path: str) -> Iterator[dict[str, Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The prompts cannot be read from {path}: {error}.") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        order: Any = {"prompt": line}
        if line.lstrip().startswith("{"):
            try:
                order = json.loads(line)
            except ValueError as error:
                raise DataError(f"Line {number} of {path} is not JSON: {error}.") from None
            if not isinstance(order.get("prompt"), str):
                raise DataError(f'Line {number} of {path} has no text "prompt".')
            if type(order.get("seed", 0)) is not int or order.get("seed", 0) < 0:
                raise DataError(f'Line {number} of {path}: "seed" must be a whole number from 0.')
        yield order
