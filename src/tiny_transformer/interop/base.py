"""What all formats share: what is exported, what a format is, and how one is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.config.loading import config_from_dict, read_settings
from tiny_transformer.interop.forms import Form
from tiny_transformer.model.quantized import is_quantized
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import TinyError
from tiny_transformer.text.tokenizer import Tokenizer

CONFIG, VOCABULARY = "config.json", "vocab.json"
MODEL_FORMAT, MODEL_VERSION = "tiny_transformer.model", 1
INSTALL = "pip install 'tiny-transformer[export]'"

Logits = Callable[[Tensor], Tensor]
"""Maps int64 ids `(B, T)` on the CPU to float32 logits `(B, T, V)`."""


class ExportError(TinyError):
    """A model that a format cannot carry, or a file that was not worth keeping."""


class ImportRefusedError(TinyError):
    """A folder of another program that is damaged, or whose model cannot be carried."""


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        model: float32, or int8 with float32 scales, on the CPU, in evaluation mode.
        tokenizer: its vocabulary.
        name: what the files call it.
    """

    model: Transformer
    tokenizer: Tokenizer
    name: str


@dataclass(frozen=True)
class Format:
    """One way to write a model, and to read what was written.

    Attributes:
        name: as `--format` takes it.
        write: puts the files of a subject into an empty folder.
        read: reads such a folder as a stranger would, and returns for each model in it what
            computes its logits.
        packages: modules that both import, beyond what this package needs anyway.
        forms: the architectures that the format knows by name; none where it carries any.
        tolerance: the largest difference of a logit that passes.
        quantize: returns the copy with int8 weights that the format stores as they are; None
            where it carries float weights alone.
        notes: what a user should know, a sentence each.
    """

    name: str
    write: Callable[[Subject, Path], None]
    read: Callable[[Path], Mapping[str, Logits]]
    packages: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ()
    tolerance: float = 1e-4
    quantize: Callable[[Transformer], Transformer] | None = None
    notes: tuple[str, ...] = ()

    def require_packages(self) -> None:
        """Raise `ExportError` if a package is missing, with the command that installs it."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(
                f"The format {self.name} needs {' and '.join(missing)}, which this Python does not "
                f"have. Install what exports need: {INSTALL}"
            )


def write_settings(subject: Subject, folder: Path) -> None:
    """Write the architecture and the vocabulary, which a reader of bare weights needs."""
    settings = dataclasses.asdict(subject.model.config)
    record = {"format": MODEL_FORMAT, "version": MODEL_VERSION, "model": settings}
    if is_quantized(subject.model):
        record["quantization"] = "int8"
    files.write_json(folder / CONFIG, record)
    subject.tokenizer.save(folder / VOCABULARY)


def read_architecture(path: Path) -> ModelConfig:
    """Read back what `write_settings` wrote.

    Raises:
        ConfigError: the file cannot be read, or holds what no architecture has.
        ExportError: it is another program's.
    """
    record = read_settings(path)
    if record.get("format") != MODEL_FORMAT or record.get("version") != MODEL_VERSION:
        raise ExportError(
            f"{path} does not describe a model of this package: its format is "
            f"{record.get('format')!r} in version {record.get('version')!r}; expected "
            f"{MODEL_FORMAT!r} in version {MODEL_VERSION}."
        )
    return config_from_dict({"model": record.get("model", {})}, where=str(path)).model
