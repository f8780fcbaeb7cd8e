"""Text to batches: corpora, prepared token files, windows, and the order of the data.

The way of the data: `resolve_corpus` finds the text, `prepare` turns it into a
memory-mapped token file once, `split_corpus` keeps a part for validation,
`WindowDataset` cuts windows and `DataLoader` draws batches of them.
"""

from tiny_transformer.data.corpora import Corpus, corpus_names, resolve_corpus
from tiny_transformer.data.dataloader import DataLoader
from tiny_transformer.data.dataset import Split, WindowDataset, split_corpus
from tiny_transformer.data.prepared import CorpusStats, PreparedCorpus, prepare

__all__ = [
    "Corpus",
    "CorpusStats",
    "DataLoader",
    "PreparedCorpus",
    "Split",
    "WindowDataset",
    "corpus_names",
    "prepare",
    "resolve_corpus",
    "split_corpus",
]
