"""From a config to batches: the way of the data, in one function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiny_transformer.config import Config, DataConfig
from tiny_transformer.data.dataloader import DataLoader
from tiny_transformer.data.dataset import Split, WindowDataset, split_corpus
from tiny_transformer.data.prepared import prepare
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
    _check_validation(split, context)
    dataset = WindowDataset(split.train, context, config.data.stride, part="training")
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
    _check_validation(split, context_length)
    return split.validation


def _check_validation(split: Split, context_length: int) -> None:
    WindowDataset(split.validation, context_length, part="validation")  # refuses a short part
