"""From a config to batches: the way of the data, in one function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tiny_transformer.config import Config, DataConfig
from tiny_transformer.data.dataloader import DataLoader
from tiny_transformer.data.dataset import Split, WindowDataset
from tiny_transformer.data.prepared import prepare
from tiny_transformer.data.tokenizers import NAMES, split_for, tokenizer_of
from tiny_transformer.runtime.errors import ConfigError, DataError
from tiny_transformer.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class RunData:
    """What a run trains and is evaluated on.

    Attributes:
        tokenizer: text to ids and back.
        loader: batches of the training part.
        validation: ids of the validation part.
        fingerprint: hash of the prepared corpus.
    """

    tokenizer: Tokenizer
    loader: DataLoader
    validation: np.ndarray
    fingerprint: str


def load_run_data(config: Config, tokenizer: Tokenizer | None = None) -> RunData:
    """Prepare the corpus (or find it prepared), split it, and cut it into batches.

    Args:
        config: every setting.
        tokenizer: the one that the run was begun with; None takes the one that the config
            names, and trains it where it asks for that.

    Raises:
        ConfigError: the model's vocabulary has not the tokenizer's size.
        DataError: the corpus cannot be read, or a part of it is too short.
        VocabularyError: the tokenizer cannot be read.
    """
    tokenizer = tokenizer or tokenizer_of(config.data, config.model.vocab_size)
    check_vocab_size(config, tokenizer)
    corpus = prepare(config.data, tokenizer)
    split = split_for(corpus.tokens, config.data, tokenizer)
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


def check_vocab_size(config: Config, tokenizer: Tokenizer) -> None:
    """Raise `ConfigError` where the model has fewer tokens than the tokenizer, or needless ones.

    A tokenizer from a file may have fewer tokens than the model, as imported models pad theirs;
    the ids beyond are never generated.
    """
    size, wanted = config.model.vocab_size, tokenizer.vocab_size
    if size == wanted or (size > wanted and config.data.tokenizer not in NAMES):
        return
    raise ConfigError(
        f"model.vocab_size is {size}; the tokenizer has {wanted} tokens. Give "
        f"--model.vocab-size {wanted}"
        + (", or --data.tokenizer bpe." if config.data.tokenizer == "characters" else ".")
    )


def load_validation(config: DataConfig, tokenizer: Tokenizer, context_length: int) -> np.ndarray:
    """Return the ids of the validation part of a corpus, prepared if need be.

    Raises:
        DataError: the corpus cannot be read, or its validation part is too short.
    """
    corpus = prepare(config, tokenizer)
    split = split_for(corpus.tokens, config, tokenizer)
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
            f"split the whole corpus needs about {needed} tokens, and has {n_tokens}."
        ) from None
