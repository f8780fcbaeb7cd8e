"""The folder is one of transformers' own: its models, its tokenizer, its generate."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.interop.helpers import GPT2, LLAMA, QWEN3, exportable
from tests.model.architectures import CONTEXT, largest_difference, token_ids
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_transformer.config import SamplingConfig
from tiny_transformer.interop import huggingface
from tiny_transformer.interop.base import ExportError
from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.huggingface_tokenizer import check_tokenizer, tokenizer_files
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.text.normalize import ALLOWED
from tiny_transformer.text.tokenizer import CharTokenizer

pytestmark = pytest.mark.requirement("export.huggingface")
OURS = CharTokenizer()
ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    "gpt2": (GPT2, "GPT2LMHeadModel"),
    "gpt2-gelu": ({"activation": "gelu"}, "GPT2LMHeadModel"),
    "gpt2-relu": ({"activation": "relu", "norm_eps": 1e-3}, "GPT2LMHeadModel"),
    "gpt2-relu2-explicit": ({"activation": "relu2", "backend": "explicit"}, "GPT2LMHeadModel"),
    "gpt2-untied": (GPT2 | {"tie_weights": False}, "GPT2LMHeadModel"),
    "llama": (LLAMA, "LlamaForCausalLM"),
    "llama-tied": (LLAMA | {"tie_weights": True, "rotary_base": 500.0}, "LlamaForCausalLM"),
    "llama-biases": (LLAMA | {"bias": True, "n_kv_heads": 1}, "LlamaForCausalLM"),
    "qwen3": (QWEN3, "Qwen3ForCausalLM"),
    "qwen3-untied": (QWEN3 | {"tie_weights": False, "n_kv_heads": 4}, "Qwen3ForCausalLM"),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("export") / "out"
    export_model(exportable(context_length=400), OURS, "huggingface", folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_model_loads_as_what_it_is_with_the_same_logits(name: str, tmp_path: Path) -> None:
    choices, architecture = ARCHITECTURES[name]
    model = exportable(**choices)
    parity = export_model(model, OURS, "huggingface", tmp_path / "out")
    assert parity.largest_difference < 1e-5
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ == architecture
    assert theirs.dtype == torch.float32
    tied = theirs.get_input_embeddings().weight is theirs.get_output_embeddings().weight
    assert tied == theirs.config.tie_word_embeddings == model.config.tie_weights
    ids = token_ids(batch=3, seed=8)
    with torch.no_grad():
        assert largest_difference(theirs(ids).logits, model(ids)) < 1e-5
    assert sum(p.numel() for p in theirs.parameters()) == model.n_parameters()


@pytest.mark.parametrize("choices", [GPT2, LLAMA, QWEN3], ids=["gpt2", "llama", "qwen3"])
def test_generate_writes_the_text_that_we_write(choices: dict[str, Any], tmp_path: Path) -> None:
    """Special tokens would win here if they were not forbidden in both."""
    model = exportable(**choices)
    weight = model.embeddings.get_parameter("token.weight")
    with torch.no_grad():
        model.lm_head.weight[:2] = 0.0
        model.lm_head.weight[0] += weight.mean(dim=0).sign()
    export_model(model, OURS, "huggingface", tmp_path / "out")
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = "A\tb\n"
    inputs = tokenizer(prompt, return_tensors="pt")
    ids = theirs.generate(**inputs, max_new_tokens=CONTEXT - len(prompt), do_sample=False)
    config = SamplingConfig(prompt=prompt, max_new_tokens=CONTEXT - len(prompt), temperature=0.0)
    assert tokenizer.decode(ids[0]) == prompt + sample_text(model, OURS, config)[0]


def test_every_allowed_character_has_our_id(tokenizer: Any) -> None:
    assert tokenizer.vocab_size == len(tokenizer) == 99
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)
    for character in ALLOWED:
        assert tokenizer(character)["input_ids"] == OURS.encode(character).tolist()
    assert tokenizer(ALLOWED)["input_ids"] == list(range(2, 99))
    assert tokenizer.decode(range(2, 99)) == ALLOWED


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text(string.printable + "<>PADUNK"))
@example("<PAD>a<UNK>")
@example("a\r\n\r\rb \u00e9\u2014\U0001f600 \x00\x7f  ")
@example("")
def test_any_text_has_our_ids(tokenizer: Any, text: str) -> None:
    assert tokenizer(text)["input_ids"] == OURS.encode(text).tolist()


def test_batches_are_padded_as_ours(tokenizer: Any) -> None:
    texts = ["ab", "", "abcd"]
    assert tokenizer(texts, padding=True)["input_ids"] == OURS.encode_batch(texts).tolist()


def test_a_tokenizer_with_another_id_is_refused(tokenizer: Any) -> None:
    check_tokenizer(tokenizer, OURS)

    def swapped(text: str, **options: bool) -> dict[str, list[int]]:
        ids: list[int] = tokenizer(text, **options)["input_ids"]
        others = {70: 71, 71: 70}
        return {"input_ids": [others.get(index, index) for index in ids]}

    with pytest.raises(ExportError, match=r"tokenizer.json was not kept: it reads 'b' as \[71\]"):
        check_tokenizer(swapped, OURS)


def test_an_export_with_a_foreign_tokenizer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(tokenizer: CharTokenizer, context_length: int) -> dict[str, str]:
        written = tokenizer_files(tokenizer, context_length)
        record = json.loads(written["tokenizer.json"])
        record["model"]["vocab"] |= {"b": 71, "c": 70}
        return written | {"tokenizer.json": json.dumps(record)}

    monkeypatch.setattr(huggingface, "tokenizer_files", swapped)
    with pytest.raises(ExportError, match=r"tokenizer.json was not kept: it reads 'b' as \[71\]"):
        export_model(exportable(), OURS, "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_transformers_does_not_find_is_refused(tmp_path: Path) -> None:
    """It would be filled in at random, which tied or zero weights could hide."""
    export_model(exportable(), OURS, "huggingface", tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    stored = safetensors.torch.load_file(file)
    stored["transformer.stranger"] = stored.pop("transformer.h.1.mlp.c_proj.bias")
    safetensors.torch.save_file(stored, file, {"format": "pt"})
    with pytest.raises(ExportError, match=r"c_proj.bias|stranger"):
        huggingface.FORMAT.read(tmp_path / "out")


def test_the_files_are_those_of_transformers(tmp_path: Path) -> None:
    export_model(exportable(dropout=0.25), OURS, "huggingface", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "export.json",
    }  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["resid_pdrop"] == 0.25 and config["n_positions"] == CONTEXT
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == [0, 1]
