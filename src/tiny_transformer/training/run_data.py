"""From a config to batches: the way of the data, in one function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tiny_transformer.config import Config, DataConfig
from tiny_transformer.data.dataloader import DataLoader
from tiny_transformer.data.dataset import Split, WindowDataset, split_corpus
from tiny_transformer.data.prepared import prepare
from tiny_transformer.runtime.errors import DataError
from tiny_transformer.text.tokenizer import CharTokenizer


@dataclass(frozen=True)
class RunData:
    """What a run trains and is evaluated on.

    Attributes:
        tokenizer: characters to ids and back.
        loader: batches of the training part.
        validation: ids of the validation part.
        fingerprint: hash of the prepared corpus.
    """

    tokenizer: CharTokenizer
    loader: DataLoader
    validation: np.ndarray
    fingerprint: str


def load_run_data(config: Config) -> RunData:
    """Prepare the corpus (or find it prepared), split it, and cut it into batches.

    Raises:
        DataError: the corpus cannot be read, or a part of it is too short.
    """
    tokenizer = CharTokenizer(transliterate=config.data.transliterate)
    corpus = prepare(config.data, tokenizer)
    split = split_corpus(corpus.tokens, config.data.val_fraction, config.data.split_seed)
    context = config.model.context_length
    _windows(split, "validation", context)
    dataset = _windows(split, "training", context, config.data.stride)
    loader = DataLoader(
        dataset,
        config.training.batch_size,
        seed=config.training.seed,
        shuffle=config.data.shuffle,
        accumulation_steps=config.training.accumulation_steps,
    )
    return RunData(tokenizer, loader, split.validation, corpus.fingerprint)


def load_validation(
    config: DataConfig, tokenizer: CharTokenizer, context_length: int
) -> np.ndarray:
    """Return the ids of the validation part of a corpus, prepared if need be.

    Raises:
        DataError: the corpus cannot be read, or its validation part is too short.
    """
    corpus = prepare(config, tokenizer)
    split = split_corpus(corpus.tokens, config.val_fraction, config.split_seed)
    _windows(split, "validation", context_length)
    return split.validation


def _windows(
    split: Split, part: str, context_length: int, stride: int | None = None
) -> WindowDataset:
    """Cut a part into windows; say which part, and how long the corpus must be, if it is short."""
    tokens = split.train if part == "training" else split.validation
    try:
        return WindowDataset(tokens, context_length, stride)
    except DataError as error:
        n_validation = len(split.validation)
        n_tokens = n_validation + sum(map(len, split.train))
        n_part = n_validation if part == "validation" else n_tokens - n_validation
        needed = math.ceil((context_length + 1) * n_tokens / max(1, n_part))
        raise DataError(
            f"The {part} part of the corpus is shorter than one window. {error} With this "
            f"split the whole corpus needs about {needed} characters, and has {n_tokens}."
        ) from None
