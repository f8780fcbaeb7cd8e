"""Byte pairs leave with the model, and mean the same to those who read the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.interop.helpers import GPT2, LLAMA, exportable
from tests.text import foreign_tokenizers as foreign
from tests.training.helpers import tiny_config, trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_transformer.config import SamplingConfig
from tiny_transformer.interop import huggingface
from tiny_transformer.interop.base import ExportError
from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.gguf_vocabulary import pre_tokenizer_name
from tiny_transformer.interop.huggingface_tokenizer import tokenizer_files
from tiny_transformer.interop.safetensors_folder import load_safetensors
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.load import load_tokenizer
from tiny_transformer.text.tokenizer import Tokenizer

OURS = BpeTokenizer.train([foreign.TEXT], 300)
FOREIGN = BpeTokenizer.from_json(foreign.gpt2().to_str())
PROMPT = "the king"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("export") / "out"
    export_model(exportable(vocab_size=300), OURS, "huggingface", folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.requirement("tokenizers.export-huggingface")
@settings(max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example(foreign.TEXT)
@example("<|endoftext|> a\r\n\n  b")
def test_transformers_reads_and_writes_any_text_as_we_do(theirs: Any, text: str) -> None:
    ids = OURS.encode(text).tolist()
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text


@pytest.mark.requirement("tokenizers.export-huggingface")
@pytest.mark.parametrize("tokenizer", [OURS, FOREIGN], ids=["ours", "foreign"])
def test_generate_of_transformers_writes_our_text(tokenizer: BpeTokenizer, tmp_path: Path) -> None:
    """The model has more ids than the tokenizer; special ones and those are not generated."""
    model = exportable(**LLAMA, vocab_size=tokenizer.vocab_size + 3, context_length=32)
    export_model(model, tokenizer, "huggingface", tmp_path / "out")
    read: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    other: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = other.generate(**read(PROMPT, return_tensors="pt"), max_new_tokens=12, do_sample=False)
    config = SamplingConfig(prompt=PROMPT, max_new_tokens=12, temperature=0.0)
    expected = sample_text(model, tokenizer, config)[0]
    assert read.decode(ids[0], skip_special_tokens=True) == PROMPT + expected
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert ends.get("eos_token_id") == (list(tokenizer.end_ids) or None)


@pytest.mark.requirement("tokenizers.export-huggingface")
def test_a_tokenizer_that_reads_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(tokenizer: Tokenizer, context_length: int) -> dict[str, str]:
        written = tokenizer_files(tokenizer, context_length)
        record = json.loads(written["tokenizer.json"])
        merges = record["model"]["merges"]
        merges.remove(next(pair for pair in merges if "".join(pair) == "Ġthe"))
        return written | {"tokenizer.json": json.dumps(record)}

    monkeypatch.setattr(huggingface, "tokenizer_files", swapped)
    with pytest.raises(ExportError, match=r"tokenizer.json was not kept: it reads ' the"):
        export_model(exportable(vocab_size=300), OURS, "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_safetensors_keep_the_tokenizer(tmp_path: Path) -> None:
    export_model(exportable(vocab_size=300), OURS, "safetensors", tmp_path / "out")
    assert load_tokenizer(tmp_path / "out") == OURS
    assert load_safetensors(tmp_path / "out").config.vocab_size == 300


@pytest.mark.parametrize(
    ("made", "name"),
    [(foreign.gpt2, "gpt-2"), (foreign.llama3, "llama-bpe"), (foreign.smollm, "smollm")],
)
def test_llama_cpp_knows_the_rules_of_some_by_name(made: Any, name: str) -> None:
    assert pre_tokenizer_name(BpeTokenizer.from_json(made().to_str())) == name


@pytest.mark.parametrize("made", [foreign.prefixed, foreign.unsplit, foreign.llama2])
def test_gguf_refuses_rules_that_llama_cpp_has_no_name_for(made: Any, tmp_path: Path) -> None:
    tokenizer = BpeTokenizer.from_json(made().to_str())
    model = exportable(**GPT2, vocab_size=tokenizer.vocab_size)
    with pytest.raises(ExportError, match=r"GGUF cannot carry this tokenizer.*huggingface"):
        export_model(model, tokenizer, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.requirement("tokenizers.export-gguf")
def test_the_gguf_file_has_tokens_merges_and_an_end_that_no_text_has(tmp_path: Path) -> None:
    for tokenizer, end in ((OURS, OURS.spec["model"]["vocab"]["ÿ"]), (FOREIGN, 0)):
        out = tmp_path / str(end)
        size = tokenizer.vocab_size + 2
        export_model(exportable(**GPT2, vocab_size=size), tokenizer, "gguf", out)
        reader = gguf.GGUFReader(out / "model.gguf")

        def said(key: str, reader: Any = reader) -> Any:
            return reader.get_field(f"tokenizer.ggml.{key}").contents()

        tokens, kinds = said("tokens"), said("token_type")
        assert len(tokens) == len(set(tokens)) == len(kinds) == size
        assert kinds[-2:] == [5, 5] and kinds[end] == 3
        assert (said("eos_token_id"), said("bos_token_id"), said("pre")) == (end, end, "gpt-2")
        merges = ["".join(merge.split(" ")) for merge in said("merges")]
        assert len(merges) == len(tokenizer.spec["model"]["merges"]) and set(merges) <= set(tokens)


@pytest.mark.requirement("tokenizers.export-gguf")
@pytest.mark.parametrize("tokenizer", [OURS, FOREIGN], ids=["ours", "foreign"])
def test_llama_cpp_reads_a_text_as_our_ids(tokenizer: BpeTokenizer, tmp_path: Path) -> None:
    """As many tokens, after which the same come with the same probabilities."""
    pytest.importorskip("xllamacpp")
    from tests.interop.test_gguf_file import complete, start

    model = exportable(**LLAMA, vocab_size=tokenizer.vocab_size, context_length=64)
    export_model(model, tokenizer, "gguf", tmp_path / "out")
    server = start(tmp_path / "out" / "model.gguf")
    for text in ("the king and don't", "  two\n\nthe é中😀 1234", foreign.TEXT[:40]):
        ids = tokenizer.encode(text).tolist()
        as_text, as_ids = complete(server, text, 3), complete(server, ids, 3)
        assert as_text[2] == as_ids[2] == len(ids)
        assert as_text[:2] == as_ids[:2]


@pytest.mark.requirement("tokenizers.export-gguf")
def test_llama_cpp_writes_our_greedy_text(tmp_path: Path) -> None:
    """Of a model that was trained on ASCII: llama.cpp leaves half characters out of its report."""
    pytest.importorskip("xllamacpp")
    from tests.interop.test_gguf_file import complete, log_probabilities, start

    settings = {f"model__{name}": value for name, value in LLAMA.items()}
    run = trainer(
        tiny_config(
            tmp_path,
            **settings,
            data__tokenizer="bpe",
            **{"model__vocab_size": 300, "model__d_model": 32, "model__n_heads": 4},
            **{"model__context_length": 64, "training__max_steps": 60},
        )
    )
    run.train()
    model, tokenizer = run.model.eval(), run.data.tokenizer
    export_model(model, tokenizer, "gguf", tmp_path / "out")
    server = start(tmp_path / "out" / "model.gguf")
    seen = tokenizer.encode("1 2 3 4").tolist()
    written, likeliest, _ = complete(server, "1 2 3 4", 24)
    assert len(written) == 24
    for chosen, rated in zip(written, likeliest, strict=True):
        ours = log_probabilities(model, seen)
        assert all(abs(value - ours[index].item()) < 1e-4 for index, value in rated.items())
        assert ours.max() - ours[chosen] < 2e-4  # ours, or a near-tie
        seen.append(chosen)
    config = SamplingConfig(prompt="1 2 3 4", max_new_tokens=24, temperature=0.0)
    assert "1 2 3 4" + sample_text(model, tokenizer, config)[0] == tokenizer.decode(seen)
