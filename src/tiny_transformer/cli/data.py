"""`tiny data`: list, prepare and describe corpora.

`describe` always draws its distribution as bars in the terminal; `--plot FILE` writes the
picture as well.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tiny_transformer.config import Config, DataConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tiny_transformer.data import PreparedCorpus
    from tiny_transformer.text import Tokenizer

_MOST_ROWS = 30
_MOST_DRAWN = 100  # bars in a picture
_BAR = 40


@dataclass(frozen=True)
class ListCorpora:
    """List the corpora that have a name."""


@dataclass(frozen=True)
class _Reading:
    corpus: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME-OR-PATH")]
    """A corpus name, or the path of a text file or a folder of them."""
    errors: Annotated[Literal["strict", "replace"], tyro.conf.arg(aliases=("--data.errors",))] = (
        "strict"
    )
    """What to do with bytes that are not UTF-8: refuse them, or read them as unknown."""
    transliterate: Annotated[bool, tyro.conf.arg(aliases=("--data.transliterate",))] = False
    """Spell accents, curly quotes and dashes in ASCII."""
    tokenizer: Annotated[str, tyro.conf.arg(aliases=("--data.tokenizer",))] = "characters"
    """characters, bpe, or the path of a vocab.json or tokenizer.json."""
    vocab_size: Annotated[int, tyro.conf.arg(aliases=("--model.vocab-size",))] = 1024
    """Tokens of a byte-pair encoding that is trained (bpe)."""
    val_fraction: Annotated[float, tyro.conf.arg(aliases=("--data.val-fraction",))] = 0.05
    """Part kept for validation, on which no byte-pair encoding is trained."""
    split_seed: Annotated[int | None, tyro.conf.arg(aliases=("--data.split-seed",))] = None
    """none puts the validation part at the end; a number puts it at a seeded place."""

    @property
    def config(self) -> DataConfig:
        return DataConfig(
            corpus=self.corpus,
            tokenizer=self.tokenizer,
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
            errors=self.errors,
            transliterate=self.transliterate,
        )


@dataclass(frozen=True)
class PrepareCorpus(_Reading):
    """Encode a corpus into the cache, fetching tinyshakespeare if that is its name."""

    from_file: str | None = None
    """A copy of tinyshakespeare on this machine, instead of the network."""


@dataclass(frozen=True)
class DescribeCorpus(_Reading):
    """Count what is in a corpus: characters, vocabulary, unknowns, split and windows."""

    plot: str | None = None
    """Also draw the distribution to this file (.png, .pdf or .svg)."""


def main(argv: Sequence[str]) -> int:
    """Run `tiny data` with the words after it; return the exit status."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"list": ListCorpora, "prepare": PrepareCorpus, "describe": DescribeCorpus},
        args=list(argv),
        prog="tiny data",
        description="List, prepare and describe corpora.",
    )
    if isinstance(command, PrepareCorpus):
        _prepare(command)
    elif isinstance(command, DescribeCorpus):
        _describe(command)
    else:
        _list()
    return 0


def _console() -> Console:
    from rich.console import Console

    # Where there is no terminal, lines must not be cut to 80 columns.
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def _list() -> None:
    from tiny_transformer.data.cache import cache_folder
    from tiny_transformer.data.corpora import NAMED
    from tiny_transformer.data.prepared import is_prepared
    from tiny_transformer.text import CharTokenizer

    table = _table("name", "what", "size", "prepared")
    for name, corpus in NAMED.items():
        prepared = is_prepared(DataConfig(corpus=name), CharTokenizer())
        table.add_row(name, corpus.what, corpus.size, "yes" if prepared else "no")
    table.add_row("a path", "a UTF-8 text file, or a folder of them", "any", "")
    console = _console()
    console.print(table)
    console.print(f"Prepared corpora are kept in {cache_folder()}", soft_wrap=True)


def _prepare(command: PrepareCorpus) -> None:
    from tiny_transformer.data import tinyshakespeare
    from tiny_transformer.runtime.errors import ConfigError, DataError

    if command.corpus == "tinyshakespeare":
        if command.from_file is not None:
            tinyshakespeare.fetch_tinyshakespeare(command.from_file)
        else:
            try:
                tinyshakespeare.tinyshakespeare_documents()
            except DataError:  # missing or damaged
                tinyshakespeare.fetch_tinyshakespeare(url=tinyshakespeare.URL)
    elif command.from_file is not None:
        raise ConfigError(
            f"--from-file gives a copy of tinyshakespeare, but the corpus is {command.corpus!r}. "
            "Name the file itself as the corpus."
        )
    corpus, _ = _prepared(command)
    _console().print(
        f"{corpus.name}: {corpus.stats.n_tokens:,} tokens in {corpus.folder}", soft_wrap=True
    )


def _prepared(command: _Reading) -> tuple[PreparedCorpus, Tokenizer]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from tiny_transformer.data import prepare
    from tiny_transformer.data.tokenizers import tokenizer_of

    tokenizer = tokenizer_of(command.config, command.vocab_size)
    errors = Console(stderr=True)
    columns = ("encoding", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return prepare(command.config, tokenizer, progress=progress), tokenizer


def _describe(command: DescribeCorpus) -> None:
    corpus, tokenizer = _prepared(command)
    stats, console = corpus.stats, _console()
    known = {token: n for token, n in enumerate(stats.counts) if n}
    n_known = len(known.keys() - set(tokenizer.special_ids))
    unknown = sum(stats.unknown.values()) + stats.unknown_rest

    table = _table("what", "how much")
    rows: list[tuple[str, str]] = [
        ("corpus", corpus.name),
        ("bytes", f"{stats.n_bytes:,}"),
        ("characters", f"{stats.n_chars:,}"),
        ("lines", f"{stats.n_lines:,}"),
        ("tokens", _tokens(corpus, tokenizer)),
        (
            "vocabulary in use",
            f"{n_known} of {tokenizer.vocab_size - len(tokenizer.special_ids)} {tokenizer.unit}s",
        ),
        ("unknown", f"{unknown:,} ({unknown / stats.n_tokens:.4%} of the tokens)"),
        *_split_rows(corpus, command.config, tokenizer),
        ("source SHA-256", corpus.source_sha256),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    labelled = {_label(tokenizer, token): n for token, n in known.items()}
    _print_distribution(console, tokenizer.unit, labelled, stats.n_tokens)
    if unknown:
        _print_unknown(console, corpus)
    if command.plot is not None:
        from tiny_transformer.viz.plots import plot_character_distribution

        if len(labelled) > _MOST_DRAWN:
            ranked = sorted(labelled.items(), key=lambda item: -item[1])
            labelled = dict(ranked[:_MOST_DRAWN])
        path = plot_character_distribution(labelled, command.plot)
        console.print(f"The plot is in {path}", soft_wrap=True)


def _tokens(corpus: PreparedCorpus, tokenizer: Tokenizer) -> str:
    stats = corpus.stats
    said = f"{stats.n_tokens:,} ({corpus.tokens.dtype.name})"
    if tokenizer.unit == "character":
        return said
    n_bytes = sum(n * int(tokenizer.byte_lengths[token]) for token, n in enumerate(stats.counts))
    return f"{said}, {n_bytes / stats.n_tokens:.2f} bytes a token"


def _split_rows(
    corpus: PreparedCorpus, data: DataConfig, tokenizer: Tokenizer
) -> list[tuple[str, str]]:
    """Return the split, and the windows that the default config would make of it."""
    from tiny_transformer.data import WindowDataset
    from tiny_transformer.data.tokenizers import split_for
    from tiny_transformer.runtime.errors import DataError

    config = Config()
    length, batch = config.model.context_length, config.training.batch_size
    split = split_for(corpus.tokens, data, tokenizer)
    rows: list[tuple[str, str]] = []
    parts = {"training": split.train, "validation": (split.validation,)}
    for name, pieces in parts.items():
        try:
            windows = len(WindowDataset(pieces, length))
        except DataError:
            windows = 0
        text = f"{sum(map(len, pieces)):,} tokens, {windows:,} windows of {length}"
        if name == "training":
            text += f", {windows // batch:,} batches of {batch} an epoch"
        rows.append((f"{name} part", text))
    return rows


def _label(tokenizer: Tokenizer, token: int) -> str:
    """Return a character as it is, and a longer token in quotes."""
    label = tokenizer.label(token)
    if tokenizer.unit != "character":
        return label
    text = tokenizer.decode([token])
    unnamed = token in tokenizer.special_ids
    names = {"\n": "\\n", "\t": "\\t", " ": "space"}
    return label.strip("'") if unnamed else names.get(text, text)


def _print_distribution(console: Console, unit: str, counts: dict[str, int], total: int) -> None:
    table = _table(unit, "count", "share", "")
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    for label, n in ranked[:_MOST_ROWS]:
        bar = "#" * max(1, round(_BAR * n / ranked[0][1]))
        table.add_row(label, f"{n:,}", f"{n / total:.2%}", bar)
    rest = sum(n for _, n in ranked[_MOST_ROWS:])
    if rest:
        others = f"{len(ranked) - _MOST_ROWS} others"
        table.add_row(others, f"{rest:,}", f"{rest / total:.2%}", "")
    console.print(table)


def _print_unknown(console: Console, corpus: PreparedCorpus) -> None:
    table = _table("unknown", "code point", "name", "count")
    listed = list(corpus.stats.unknown.items())
    for character, n in listed[:_MOST_ROWS]:
        shown = character if character.isprintable() else ""
        name = unicodedata.name(character, "no name")
        table.add_row(shown, f"U+{ord(character):04X}", name, f"{n:,}")
    rest = sum(n for _, n in listed[_MOST_ROWS:]) + corpus.stats.unknown_rest
    if rest:
        table.add_row("", "", "others", f"{rest:,}")
    console.print(table)
    console.print(
        "Unknown characters become <UNK>; --transliterate spells accents, quotes and dashes "
        "in ASCII.",
        soft_wrap=True,
    )
