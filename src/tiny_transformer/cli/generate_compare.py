"""`tiny generate --compare`: strategies side by side."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tiny_transformer.config import SamplingConfig
from tiny_transformer.evaluation.diversity import (
    distinct_n,
    repetition_rate,
    self_bleu,
    word_entropy,
)
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.sampling.beam import beam_search
from tiny_transformer.sampling.contrastive import contrastive_search
from tiny_transformer.sampling.sampler import (
    continue_prompts,
    encode_prompt,
    forbidden_ids,
    text_of,
)
from tiny_transformer.text.tokenizer import Tokenizer

_FEWEST_SAMPLES = 4  # of a strategy that draws

SAMPLED: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {},
    "temperature 0.7": {"temperature": 0.7},
    "top-k 10": {"top_k": 10},
    "top-p 0.9": {"top_p": 0.9},
    "min-p 0.1": {"min_p": 0.1},
    "temperature 0.7, frequency 0.05": {"temperature": 0.7, "frequency_penalty": 0.05},
}
BEAMS, CONTRASTIVE = "beam search, 4 beams", "contrastive, k 4, alpha 0.3"


@dataclass(frozen=True)
class Compared:
    """What a strategy wrote, and how fast."""

    name: str
    texts: list[str]
    tokens_per_second: float


def compare(
    model: Transformer,
    tokenizer: Tokenizer,
    config: SamplingConfig,
    *,
    n_samples: int,
    errors: str,
    crop: bool,
) -> int:
    """Print a table of strategies, and the first text of each.

    Args:
        model: a trained model.
        tokenizer: its tokenizer.
        config: prompt, length and seed; where it differs from the default strategy it is
            the first in the table, as "as given".
        n_samples: texts of each strategy that draws, at least 4.
        errors: as `encode_prompt` takes it.
        crop: as `encode_prompt` takes it.
    """
    prompt = encode_prompt(
        config.prompt, tokenizer, model.config.context_length, errors=errors, crop=crop
    )
    shared = {
        "max_new_tokens": config.max_new_tokens,
        "forbidden": forbidden_ids(model, tokenizer),
        "end_ids": tokenizer.end_ids,
    }
    plain = SamplingConfig(
        prompt=config.prompt,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        stop=config.stop,
    )
    rows = []
    if config != plain:
        rows.append(_sampled("as given", model, tokenizer, config, n_samples, errors, crop))
    for name, settings in SAMPLED.items():
        chosen = dataclasses.replace(plain, **settings)
        rows.append(_sampled(name, model, tokenizer, chosen, n_samples, errors, crop))
    rows.append(
        _searched(
            BEAMS, tokenizer, lambda: beam_search(model, prompt, num_beams=4, **shared)[0].ids
        )
    )
    rows.append(
        _searched(
            CONTRASTIVE,
            tokenizer,
            lambda: tuple(contrastive_search(model, prompt, k=4, alpha=0.3, **shared)),
        )
    )
    console = Console(
        width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False
    )
    console.print(_table(rows))
    for row in rows:
        console.rule(row.name, align="left")
        console.print(config.prompt + row.texts[0])
    return 0


def _sampled(
    name: str,
    model: Transformer,
    tokenizer: Tokenizer,
    config: SamplingConfig,
    n_samples: int,
    errors: str,
    crop: bool,
) -> Compared:
    n = 1 if config.temperature == 0 else max(n_samples, _FEWEST_SAMPLES)
    began = time.perf_counter()
    found = continue_prompts(
        model, tokenizer, [config.prompt] * n, config, errors=errors, crop=crop
    )
    n_tokens = sum(len(continuation.ids) for continuation in found)
    seconds = time.perf_counter() - began
    return Compared(name, [continuation.text for continuation in found], n_tokens / seconds)


def _searched(name: str, tokenizer: Tokenizer, search: Callable[[], tuple[int, ...]]) -> Compared:
    began = time.perf_counter()
    ids = search()
    seconds = time.perf_counter() - began
    return Compared(name, ["".join(text_of(iter(ids), tokenizer, ()))], len(ids) / seconds)


def _table(rows: list[Compared]) -> Table:
    table = Table(
        *("strategy", "texts", "distinct-1", "distinct-2", "self-BLEU", "repetition", "entropy"),
        "tokens/s",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption="distinct-n: share of n-grams of words that differ. self-BLEU: how alike the texts "
        "are. repetition: 4-grams that occurred before in their text. entropy: of the words, bits.",
        caption_justify="left",
    )
    for row in rows:
        numbers = (
            *(distinct_n(row.texts, 1), distinct_n(row.texts, 2), self_bleu(row.texts)),
            *(repetition_rate(row.texts), word_entropy(row.texts)),
        )
        shown = ["-" if math.isnan(number) else f"{number:.2f}" for number in numbers]
        table.add_row(row.name, str(len(row.texts)), *shown, f"{row.tokens_per_second:,.0f}")
    return table
