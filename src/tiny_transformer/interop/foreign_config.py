"""A `config.json` of transformers as a `ModelConfig`: every field is carried, or refused by name.

Notable: a field that is not known here may change the mathematics, so it is refused, unless it
is null, or on the list of those that change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_transformer.config import ModelConfig
from tiny_transformer.config.loading import validate
from tiny_transformer.interop.base import CONFIG, ImportRefusedError
from tiny_transformer.interop.foreign_families import DROPOUTS, FAMILIES, Family
from tiny_transformer.interop.foreign_fields import Fields, read_json, shown
from tiny_transformer.interop.forms import Form
from tiny_transformer.runtime.errors import ConfigError, suggest

_KNOWN_OTHERS = {
    "qwen2": "it has biases on queries, keys and values alone, and here all linear layers have "
    "them or none",
    "mixtral": "it chooses between experts",
    "gemma": "its norms scale by one plus the weight",
    "phi": "its blocks compute attention and MLP side by side",
    "gpt_neox": "its blocks compute attention and MLP side by side",
    "gpt_neo": "every other layer of it looks only at the nearest tokens",
    "opt": "its positions begin at two",
}

# Fields that do not change the logits.
_HARMLESS = {
    "model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache",
    "initializer_range", "_name_or_path", "_commit_hash", "_attn_implementation",
    "_attn_implementation_autoset", "_attn_implementation_internal", "_flash_attn_2_enabled",
    "_num_labels", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
    "unk_token_id", "cls_token_id", "mask_token_id", "decoder_start_token_id",
    "task_specific_params", "id2label", "label2id", "num_labels", "finetuning_task",
    "problem_type", "tokenizer_class", "prefix", "output_attentions", "output_hidden_states",
    "output_past", "output_scores", "return_dict", "return_dict_in_generate", "torchscript",
    "use_bfloat16", "tf_legacy_loss", "gradient_checkpointing", "remove_invalid_values",
    "chunk_size_feed_forward", "keys_to_ignore_at_inference", "is_decoder",
    "tie_encoder_decoder", "max_length", "min_length", "do_sample", "early_stopping",
    "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
    "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
    "exponential_decay_length_penalty", "transformers.js_config", "is_llama_config",
    "unsloth_version", "unsloth_fixed",
}  # fmt: skip
# Fields that are carried only with one of these values.
_FIXED: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
}
# Fields that cannot be carried with any value, and why.
_REFUSED = {
    "quantization_config": "the weights are quantised, and carried are floating-point numbers; "
    "take the model that it was made from",
    "compression_config": "the weights are compressed; take the model that it was made from",
    "auto_map": "the model comes with Python code of its own, which is never run here",
}


@dataclass(frozen=True)
class ForeignConfig:
    """What a `config.json` asks for.

    Attributes:
        model_type: as it says.
        form: the architecture.
        model: in our settings.
        stored_context: positions that the file's own model has, at least those of `model`.
        notes: what a user should know, a sentence each.
    """

    model_type: str
    form: Form
    model: ModelConfig
    stored_context: int
    notes: tuple[str, ...] = ()


def read_foreign_config(folder: Path, context_length: int | None = None) -> ForeignConfig:
    """Read the `config.json` of a Hugging Face folder.

    Args:
        folder: where it lies.
        context_length: a shorter context; None takes the model's.

    Raises:
        ImportRefusedError: it is missing or damaged, the model type is not carried, or a field
            asks for what cannot be; the message names the field and its value.
    """
    path = folder / CONFIG
    record = read_json(path)
    family = _family(path, record)
    record = _without_aliases(path, record, family)
    fields = Fields(path, record, family.defaults, context_length)
    _refuse_fixed(fields, family)
    settings = {**family.settings(fields), "tie_weights": fields.flag("tie_word_embeddings")}
    _refuse_unknown(path, record, family)
    longest = fields.integer(family.context)
    try:
        model = validate(ModelConfig, settings, where=str(path))
    except ConfigError as error:
        raise ImportRefusedError(f"{path} asks for a model that there cannot be. {error}") from None
    return ForeignConfig(
        record["model_type"], family.form, model, longest, tuple(_notes(fields, model))
    )


def _family(path: Path, record: Mapping[str, Any]) -> Family:
    kind = record.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    if kind is None:
        raise ImportRefusedError(
            f"{path} has no model_type, so it is not known what the weights are for. Those that "
            f"are carried: {', '.join(FAMILIES)}."
        )
    why = _KNOWN_OTHERS.get(str(kind), "")
    near = suggest(str(kind), FAMILIES) if not why else ""
    near = "" if near.startswith("Valid") else f" {near}"
    raise ImportRefusedError(
        f"{path}: the model type {kind!r} cannot be carried{f': {why}' if why else ''}.{near} "
        f"Those that are: {', '.join(FAMILIES)}."
    )


def _without_aliases(path: Path, record: dict[str, Any], family: Family) -> dict[str, Any]:
    renamed = dict(record)
    for alias, name in family.aliases.items():
        if alias not in renamed:
            continue
        value = renamed.pop(alias)
        if renamed.setdefault(name, value) != value:
            raise ImportRefusedError(
                f"{path}: {alias} is {shown(value)} and {name}, which means the same, is "
                f"{shown(renamed[name])}."
            )
    return renamed


def _refuse_fixed(fields: Fields, family: Family) -> None:
    for name, reason in _REFUSED.items():
        if fields.record.get(name) is not None:
            fields.refuse(name, reason)
    for name, allowed in {**_FIXED, **family.fixed}.items():
        value = fields.record.get(name)
        if value is not None and not any(value is v or value == v for v in allowed):
            fields.refuse(name, f"it must be {' or '.join(map(shown, allowed))}")


def _refuse_unknown(path: Path, record: Mapping[str, Any], family: Family) -> None:
    known = {*_HARMLESS, *_REFUSED, *_FIXED, *family.defaults, *family.fixed, *family.harmless}
    unknown = [name for name in record if name not in known and record[name] is not None]
    if not unknown:
        return
    named = "; ".join(f"{name} is {shown(record[name])}" for name in unknown[:4])
    more = f"; and {len(unknown) - 4} more" if len(unknown) > 4 else ""
    raise ImportRefusedError(
        f"{path}: {named}{more}. This release does not know what that changes in the model, and "
        f"carries it only without. Where you know that it changes nothing, take it out of a copy "
        f"of {CONFIG}."
    )


def _notes(fields: Fields, model: ModelConfig) -> Iterable[str]:
    if model.position == "learned":
        given = {name: fields.number(name) for name in DROPOUTS}
        if len(set(given.values())) > 1:
            listed = ", ".join(f"{name} {value:g}" for name, value in given.items())
            yield (
                f"The model was trained with more than one dropout ({listed}); fine-tuning takes "
                f"one, {model.dropout:g}. --model.dropout sets another."
            )
