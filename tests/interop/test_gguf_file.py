"""llama.cpp reads the file, and writes the text that we write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tests.interop.helpers import GPT2, LLAMA, QWEN3, exportable
from tests.model.architectures import largest_difference, token_ids

from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.gguf_file import load_gguf
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.text.bpe_json import byte_letters
from tiny_transformer.text.normalize import ALLOWED
from tiny_transformer.text.tokenizer import CharTokenizer

xllamacpp = pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.requirement("export.gguf")
CONTEXT = 64
PROMPT = "The king,\tsaid: \n'yes'  {~}"
CHOICES = {
    "gpt2": GPT2,
    "gpt2-untied": GPT2 | {"tie_weights": False, "norm_eps": 1e-3},
    "llama": LLAMA,
    "llama-tied": LLAMA | {"tie_weights": True, "n_kv_heads": 4, "rotary_base": 500.0},
    "qwen3": QWEN3,
}
_GELU_TABLE = 0.01  # nats; llama.cpp looks GELU up in a table of 16 bits
_EXACT = 1e-4


def start(file: Path) -> Any:
    """Return llama.cpp with the model, all of it in float32 and on one thread.

    Its flash attention computes in 16 bits: log-probabilities are off by up to 0.014 with it.
    """
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = CONTEXT, 1, 0
    params.cpuparams.n_threads, params.warmup, params.verbosity = 1, False, 0
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(params)


def complete(server: Any, prompt: Any, n: int) -> tuple[list[int], list[dict[int, float]], int]:
    """Return the greedy ids, the likeliest ids of each step with log-probabilities, and the
    number of tokens that llama.cpp read."""
    done = server.handle_completions(
        {"prompt": prompt, "n_predict": n, "temperature": 0.0, "n_probs": 5, "cache_prompt": False}
    )
    steps = done["choices"][0]["logprobs"]["content"]
    likeliest = [{top["id"]: top["logprob"] for top in step["top_logprobs"]} for step in steps]
    return [step["id"] for step in steps], likeliest, done["usage"]["prompt_tokens"]


@torch.no_grad()
def log_probabilities(model: Transformer, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0, -1].log_softmax(dim=-1)


@pytest.mark.parametrize("name", list(CHOICES))
def test_llama_cpp_writes_our_greedy_text(name: str, tmp_path: Path) -> None:
    """Texts that part do so at a near-tie: both rate the other's choice as good as their own."""
    model, tokenizer = exportable(**CHOICES[name], context_length=CONTEXT), CharTokenizer()
    export_model(model, tokenizer, "gguf", tmp_path / "out")
    server = start(tmp_path / "out" / "model.gguf")
    seen = tokenizer.encode(PROMPT).tolist()
    theirs, likeliest, n_read = complete(server, PROMPT, CONTEXT - len(seen))
    assert n_read == len(seen)  # one token a character
    compared, allowed = 0, _GELU_TABLE if name.startswith("gpt2") else _EXACT
    for chosen, rated in zip(theirs, likeliest, strict=True):
        ours = log_probabilities(model, seen)
        for index, value in rated.items():
            assert abs(value - ours[index].item()) < allowed
        compared += 1
        best = int(ours.argmax())
        if chosen != best:
            gap = (ours[best] - ours[chosen]).item()
            shown = f"parted after {compared} tokens: {best} or {chosen}, {gap:.4f} nats apart"
            print(shown)
            assert gap < 2 * allowed, shown
            break
        seen.append(chosen)
    assert compared > 3


def test_llama_cpp_reads_every_character_as_its_own_token(tmp_path: Path) -> None:
    model, tokenizer = exportable(**GPT2, context_length=CONTEXT), CharTokenizer()
    export_model(model, tokenizer, "gguf", tmp_path / "out")
    server = start(tmp_path / "out" / "model.gguf")
    for start_at in range(0, 97, 40):
        text = ALLOWED[start_at : start_at + 40]
        as_text = complete(server, text, 1)
        as_ids = complete(server, tokenizer.encode(text).tolist(), 1)
        assert as_text[2] == as_ids[2] == len(text)
        assert as_text[:2] == as_ids[:2]


@pytest.mark.parametrize("name", list(CHOICES))
def test_the_file_alone_gives_the_model_back(name: str, tmp_path: Path) -> None:
    model = exportable(**CHOICES[name])
    export_model(model, CharTokenizer(), "gguf", tmp_path / "out")
    back = load_gguf(tmp_path / "out" / "model.gguf")
    ids = token_ids()
    with torch.no_grad():
        assert largest_difference(back(ids), model(ids)) < 1e-5


def test_the_vocabulary_is_byte_level_with_one_merge_that_never_happens(tmp_path: Path) -> None:
    export_model(exportable(**GPT2), CharTokenizer(), "gguf", tmp_path / "out", name="mine")
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")

    def said(key: str) -> Any:
        field = reader.get_field(key)
        assert field is not None, key
        return field.contents()

    tokens = said("tokenizer.ggml.tokens")
    assert tokens[:6] == ["<PAD>", "<UNK>", "\u0109", "\u010a", "\u0120", "!"]
    assert len(tokens) == len(set(tokens)) == 99
    (merge,) = said("tokenizer.ggml.merges")
    assert not set(merge.split()) & set(tokens)
    assert said("tokenizer.ggml.eos_token_id") == said("tokenizer.ggml.bos_token_id") == 0
    assert said("general.name") == "mine"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.gguf", "export.json"}


def test_byte_letters_are_those_of_gpt2() -> None:
    letters = byte_letters()
    assert len(letters) == len(set(letters.values())) == 256
    assert (letters[ord("a")], letters[ord(" ")], letters[0]) == ("a", "\u0120", "\u0100")
