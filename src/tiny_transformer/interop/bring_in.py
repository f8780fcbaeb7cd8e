"""The way in: read a foreign folder, compare with the program that wrote it, and only then keep it.

Notable: in float32 two sound programs can part by more than is allowed where a model's values
are large. Then both compute in float64, which only a wrong weight or a wrong formula survives.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tiny_transformer.config import Config, ModelConfig, OptimizerConfig
from tiny_transformer.interop.base import CONFIG, MODEL_FORMAT, ExportError, ImportRefusedError
from tiny_transformer.interop.foreign_config import read_foreign_config
from tiny_transformer.interop.foreign_fields import read_json
from tiny_transformer.interop.foreign_tokenizer import read_foreign_tokenizer
from tiny_transformer.interop.foreign_weights import read_foreign_weights
from tiny_transformer.interop.huggingface import quiet_transformers
from tiny_transformer.interop.parity import Parity, check_parity, fixed_inputs
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer
from tiny_transformer.tracking.run_folder import RunFolder, refuse_taken_name
from tiny_transformer.training.imported import create_imported_run
from tiny_transformer.training.weights import load_weights

ALLOWED = 1e-4
"""The largest difference of a logit from transformers' that passes."""
LEARNING_RATE = 5e-5
"""Of the config that an imported run keeps: what trained weights bear, as transformers has it."""
_MOST_LOGITS = 1 << 26  # compared at once
_LARGEST_TABLE = 1 << 31  # elements of a table of positions


@dataclass(frozen=True)
class Foreign:
    """A model that was read from a Hugging Face folder.

    Attributes:
        folder: where it lies.
        model_type: as its `config.json` says.
        config: its architecture.
        weights: by our names, float32.
        tokenizer: its vocabulary.
        hashes: SHA-256 (hex) of each file of weights, by name.
        dtypes: how the weights were stored.
        notes: what a user should know, a sentence each.
    """

    folder: Path
    model_type: str
    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    hashes: dict[str, str]
    dtypes: tuple[str, ...]
    notes: tuple[str, ...]

    def build_model(self) -> Transformer:
        """Return the model, in evaluation mode."""
        model = Transformer(self.config)
        load_weights(model, self.weights, where=str(self.folder))
        return model.eval()

    def source(self) -> dict[str, Any]:
        """Return where the weights came from, for a run's record."""
        return {
            "folder": self.folder.resolve().name,
            "model_type": self.model_type,
            "files": self.hashes,
            "stored_as": list(self.dtypes),
        }


@dataclass(frozen=True)
class Imported:
    """A run that was made from a foreign folder.

    Attributes:
        folder: the run's.
        foreign: what was read.
        parity: how far the logits are from transformers'; None where it is not installed.
    """

    folder: RunFolder
    foreign: Foreign
    parity: Parity | None


def read_folder(folder: str | Path, context_length: int | None = None) -> Foreign:
    """Read a folder that transformers wrote: GPT-2, Llama, Mistral or Qwen3.

    Args:
        folder: with `config.json`, safetensors and a tokenizer.
        context_length: a shorter context; None takes the model's.

    Raises:
        ImportRefusedError: a file is missing or damaged, or the model cannot be carried; the
            message names the field, the tensor or the file.
        VocabularyError: the tokenizer cannot be used.
    """
    folder = Path(folder)
    _check_folder(folder)
    asked = read_foreign_config(folder, context_length)
    if asked.model.context_length * asked.model.d_model > _LARGEST_TABLE:
        raise ImportRefusedError(
            f"The context of {folder} is {asked.model.context_length:,} tokens: far too long here. "
            "Shorten it, for instance with --context-length 1024."
        )
    tokenizer = read_foreign_tokenizer(folder)
    _check_vocabulary(folder, asked.model, tokenizer)
    whole = dataclasses.replace(asked.model, context_length=asked.stored_context)
    read = read_foreign_weights(folder, asked.form, whole)
    weights = dict(read.weights)
    positions = "embeddings.position.weight"
    if positions in weights:
        weights[positions] = weights[positions][: asked.model.context_length].clone()
    return Foreign(
        folder,
        asked.model_type,
        asked.model,
        weights,
        tokenizer,
        read.hashes,
        read.dtypes,
        asked.notes,
    )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is not there"
        raise ImportRefusedError(
            f"The folder {folder} {what}. Give one that transformers' save_pretrained wrote; "
            "nothing is fetched from the network."
        )
    if (folder / "adapter_config.json").exists():
        raise ImportRefusedError(
            f"{folder} holds an adapter, which changes another model. Merge the two first: with "
            "peft, model.merge_and_unload().save_pretrained('NEW')."
        )
    if (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("format") == MODEL_FORMAT:
        raise ImportRefusedError(
            f"{folder} is an export of this package as safetensors, which load_safetensors reads. "
            "What can be brought in is --format huggingface."
        )


def _check_vocabulary(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with more tokens than the model has, or other characters than ours.

    A model may have more: many are padded with ids that spell nothing, and never generated.
    """
    has, wanted = config.vocab_size, tokenizer.vocab_size
    if wanted == has or (wanted < has and not isinstance(tokenizer, CharTokenizer)):
        return
    raise ImportRefusedError(
        f"The tokenizer of {folder} has {wanted:,} tokens, and the model {has:,}. Take the "
        "tokenizer that belongs to the model."
    )


def import_folder(
    folder: str | Path,
    *,
    runs_dir: str = "runs",
    run_name: str | None = None,
    context_length: int | None = None,
) -> Imported:
    """Make a run of a foreign folder, if it computes what transformers computes.

    Args:
        folder: see `read_folder`.
        runs_dir: where the run is made.
        run_name: its name; None makes one.
        context_length: a shorter context; None takes the model's.

    Raises:
        TinyError: the folder is refused, the logits differ, the name is taken or the run
            cannot be written; nothing is left behind.
    """
    config = Config(
        run_name=run_name, runs_dir=runs_dir, optimizer=OptimizerConfig(learning_rate=LEARNING_RATE)
    )
    refuse_taken_name(runs_dir, run_name)
    foreign = read_folder(folder, context_length)
    model = foreign.build_model()
    parity, compared = None, None
    if can_compare():
        parity = compare_with_transformers(foreign, model)
        compared = {"version": version("transformers"), **dataclasses.asdict(parity)}
    source = {**foreign.source(), "compared_with_transformers": compared}
    return Imported(create_imported_run(model, foreign.tokenizer, config, source), foreign, parity)


def can_compare() -> bool:
    """Return whether transformers is installed."""
    return importlib.util.find_spec("transformers") is not None


def compare_with_transformers(foreign: Foreign, model: Transformer) -> Parity:
    """Compare the logits with those of transformers, which reads the same folder.

    Args:
        foreign: what was read.
        model: built from it.

    Raises:
        ImportRefusedError: transformers cannot read the folder, or a logit differs.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            theirs: Any = AutoModelForCausalLM.from_pretrained(
                foreign.folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ImportRefusedError(
            f"transformers cannot read {foreign.folder}, so nothing was brought in: {first}"
        ) from None
    inputs = fixed_inputs(model.config, max(16, _MOST_LOGITS // model.config.vocab_size))

    def compare(ours: Transformer) -> Parity:
        what = f"What was read from {foreign.folder}"
        return check_parity(
            ours, lambda ids: theirs(ids).logits, allowed=ALLOWED, what=what, inputs=inputs
        )

    try:
        return compare(model)
    except ExportError:
        theirs.double()
        try:
            return compare(copy.deepcopy(model).double())
        except ExportError as error:
            raise ImportRefusedError(str(error)) from None
