"""A damaged foreign folder, and a choice that cannot be carried, are refused by name."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interop.foreign import CONTEXT, byte_pairs, edit_config, edit_weights, foreign_folder

from tiny_transformer.interop.base import ImportRefusedError
from tiny_transformer.interop.bring_in import import_folder, read_folder
from tiny_transformer.interop.foreign_fields import LARGEST_JSON
from tiny_transformer.runtime.errors import RunError, TinyError, VocabularyError

pytestmark = pytest.mark.requirement("import.refused")

# model type, fields, what the message says
CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {"model_type": "gtp2"}, r"'gtp2' cannot be carried. Did you mean 'gpt2'\?"),
    ("gpt2", {"model_type": "rwkv"}, "'rwkv' cannot be carried. Those that are: gpt2, llama"),
    ("gpt2", {"model_type": ...}, "has no model_type"),
    ("llama", {"model_type": "qwen2"}, "'qwen2' cannot be carried: it has biases on queries"),
    ("llama", {"model_type": ["llama"]}, r"\['llama'\] cannot be carried"),
    ("gpt2", {"activation_function": "gelu_10"}, "activation_function is 'gelu_10': carried are"),
    ("gpt2", {"activation_function": ["gelu"]}, r"activation_function is \['gelu'\]"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False: it must be True"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True: it must be False"),
    ("gpt2", {"is_encoder_decoder": True}, "is_encoder_decoder is True"),
    ("gpt2", {"pruned_heads": {"0": [1]}}, r"pruned_heads is \{'0': \[1\]\}"),
    ("gpt2", {"layer_norm_epsilon": 0.0}, "norm_eps is 0.0; it must be above 0"),
    ("gpt2", {"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5': it must be a number"),
    ("gpt2", {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
    ("gpt2", {"n_layer": 2.5}, "n_layer is 2.5: it must be a whole number"),
    ("gpt2", {"n_layer": True}, "n_layer is True: it must be a whole number"),
    ("gpt2", {"n_layer": 10**400}, "n_layer is 1000.*it must be a whole number"),
    ("gpt2", {"n_layer": 10**9}, "asks for .* parameters, and the files have"),
    ("gpt2", {"n_head": 5}, "d_model must be a multiple of n_heads"),
    ("gpt2", {"num_hidden_layers": 3}, "num_hidden_layers is 3 and n_layer, which means the same"),
    ("gpt2", {"tie_word_embeddings": None}, "tie_word_embeddings is None"),
    ("gpt2", {"resid_pdrop": 1.0}, "dropout is 1.0"),
    ("gpt2", {"rotary_dim": 8}, "rotary_dim is 8. This release does not know what that changes"),
    ("gpt2", {"alibi": False, "a": 1, "b": 2, "c": 3, "d": 4}, "alibi is False; .*and 1 more"),
    ("gpt2", {"quantization_config": {"bits": 4}}, "quantization_config is .* quantised"),
    ("gpt2", {"auto_map": {"AutoConfig": "x.Y"}}, "Python code of its own, which is never run"),
    ("gpt2", {"tie_word_embeddings": False}, "Missing: lm_head.weight.*must be true"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu': carried is 'silu'"),
    ("llama", {"attention_bias": True}, "attention_bias is True: here attention and MLP"),
    ("llama", {"mlp_bias": True}, "mlp_bias is True: here attention and MLP"),
    ("llama", {"head_dim": 16}, "head_dim is 16: here the 4 heads share the width"),
    ("llama", {"num_key_value_heads": 3}, "n_kv_heads must divide n_heads"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved is True"),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling is .*llama3"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is .*linear"),
    ("llama", {"rope_scaling": 2.0}, "rope_scaling is 2.0: it must be null"),
    ("llama", {"rope_parameters": {"rope_type": ["default"]}}, "rope_parameters is .*not scaled"),
    ("llama", {"rope_theta": 5.0}, "rope_theta is 5.0: two are given"),
    ("llama", {"rope_theta": 1.0, "rope_parameters": ...}, "rotary_base is 1.0"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("llama", {"sliding_window": 4}, "sliding_window is 4. This release does not know"),
    ("llama", {"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0"),
    ("llama", {"tie_word_embeddings": True}, "lm_head.weight of its own"),
    ("mistral", {"sliding_window": 8}, "sliding_window is 8: here every token sees all"),
    ("mistral", {"attention_bias": True}, "attention_bias is True: it must be False"),
    ("qwen3", {"layer_types": ["sliding_attention"] * 2}, "layer_types is .*every layer attends"),
    ("qwen3", {"layer_types": 5}, "layer_types is 5"),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 4}, "sliding_window is 4: here"),
    ("qwen3", {"head_dim": ...}, "head_dim is 128: here the 4 heads share the width"),
]


@pytest.mark.parametrize(("kind", "changes", "said"), CONFIGS)
def test_a_choice_that_cannot_be_carried(
    kind: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    foreign_folder(tmp_path / "in", kind)
    read_folder(tmp_path / "in")
    edit_config(tmp_path / "in", **changes)
    with pytest.raises(ImportRefusedError, match=said):
        import_folder(tmp_path / "in", runs_dir=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _shard(folder: Path, **changes: str) -> None:
    """Turn the one file into an index with one shard."""
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    names = ["transformer.wte.weight", *changes]
    table = dict.fromkeys(names, "part.safetensors") | changes
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def _huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(folder / "ran"),)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))


def _rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: edit_weights(folder, lambda t: t.update({new: t.pop(old)}))


def _set(name: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: edit_weights(folder, lambda t: t.update({name: value(t[name])}))


def _spoil(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def spoiled(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    return spoiled


C_FC = "transformer.h.1.mlp.c_fc.weight"
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "There is no config.json"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "config.json is damaged.*JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json is damaged"),
    "not utf-8": (lambda f: (f / "config.json").write_bytes(b"\xff{}"), "not UTF-8"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights: neither"),
    "pickle": (_pickle, r"only as a pickle \(pytorch_model.bin\).*never read.*python -c"),
    "gguf": (
        lambda f: (f / "model.safetensors").rename(f / "model.gguf"),
        "weights for llama.cpp and none as safetensors",
    ),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter"),
    "our export": (
        lambda f: edit_config(f, format="tiny_transformer.model"), "export of this package",
    ),
    "truncated": (_truncate, "model.safetensors is damaged or was not wholly copied"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged"),
    "huge header": (_huge_header, "is damaged"),
    "missing": (
        lambda f: edit_weights(f, lambda t: t.pop(C_FC)), f"Missing: {C_FC}",
    ),
    "unexpected": (
        lambda f: edit_weights(f, lambda t: t.update({"score.weight": torch.zeros(2)})),
        "Not a part of such a model: .*score.weight",
    ),
    "renamed": (_rename(C_FC, "transformer.h.1.mlp.fc.weight"), "Missing: .*; Not a part of"),
    "shape": (_set(C_FC, lambda t: t.T), r"c_fc.weight has shape \(128, 32\).*\(32, 128\)"),
    "nan": (_set(C_FC, _spoil(float("nan"))), "c_fc.weight holds a value that is not a finite"),
    "infinite": (_set(C_FC, _spoil(float("inf"))), "c_fc.weight holds a value that is not"),
    "integers": (_set(C_FC, lambda t: t.to(torch.int8)), "c_fc.weight is stored as I8"),
    "index elsewhere": (
        lambda f: _shard(f, **{C_FC: "../../secret.safetensors"}), r"names '../../secret",
    ),
    "index absolute": (lambda f: _shard(f, **{C_FC: "/etc/x.safetensors"}), "names '/etc/x"),
    "index pickle": (lambda f: _shard(f, **{C_FC: "x.bin"}), "no safetensors file of this folder"),
    "index missing file": (lambda f: _shard(f, **{C_FC: "b.safetensors"}), "names b.safetensors"),
    "index empty": (
        lambda f: (_shard(f), (f / "model.safetensors.index.json").write_text("{}")),
        "it has no weight_map",
    ),
    "head of its own": (
        lambda f: edit_weights(f, lambda t: t.update({"lm_head.weight": torch.zeros(99, 32)})),
        "lm_head.weight of its own",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json.*save_pret"),
    "sentencepiece": (
        lambda f: (f / "tokenizer.json").rename(f / "tokenizer.model"), "older files.*python -c",
    ),
    "damaged tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json is damaged",
    ),
    "too large": (
        lambda f: os.truncate(f / "config.json", LARGEST_JSON + 1), "bytes: far too many",
    ),
    "merges not utf-8": (lambda f: _older(f, b"\xff a\n"), "merges.txt is damaged: it is no"),
    "merges of three": (lambda f: _older(f, b"a b c\n"), "merge 1 is 'a b c'"),
    "prefix space": (
        lambda f: (_older(f, b""), _settings(f, add_prefix_space=True)), "add_prefix_space",
    ),
}  # fmt: skip


def _older(folder: Path, merges: bytes) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"a": 0, "b": 1}')
    (folder / "merges.txt").write_bytes(merges)


def _settings(folder: Path, **settings: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(("damage", "said"), FOLDERS.values(), ids=FOLDERS)
def test_a_damaged_folder(damage: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    foreign_folder(tmp_path / "in", "gpt2")
    damage(tmp_path / "in")
    with pytest.raises(ImportRefusedError, match=said):
        import_folder(tmp_path / "in", runs_dir=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists() and not (tmp_path / "in" / "ran").exists()


def test_one_tensor_in_two_files(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "gpt2", shard="10KB")
    first, second = sorted(tmp_path.glob("model-*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    with pytest.raises(ImportRefusedError, match="stands in two files"):
        read_folder(tmp_path)


def test_links_as_in_the_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    foreign_folder(tmp_path / "blobs", "gpt2")
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert read_folder(tmp_path / "snapshot").model_type == "gpt2"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    foreign_folder(tmp_path, "gpt2")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ImportRefusedError):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("context", "said"),
    [(CONTEXT + 1, "can be shortened, not lengthened"), (0, "context_length is 0")],
)
def test_a_context_that_cannot_be(context: int, said: str, tmp_path: Path) -> None:
    foreign_folder(tmp_path, "gpt2")
    with pytest.raises(ImportRefusedError, match=said):
        read_folder(tmp_path, context)


def test_a_context_that_is_far_too_long_can_be_shortened(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "llama")
    edit_config(tmp_path, max_position_embeddings=1 << 30)
    with pytest.raises(ImportRefusedError, match="--context-length 1024"):
        read_folder(tmp_path)
    assert read_folder(tmp_path, 12).config.context_length == 12


@pytest.mark.parametrize(("place", "said"), [("nowhere", "is not there"), ("file", "is a file")])
def test_what_is_no_folder(place: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImportRefusedError, match=said):
        read_folder(tmp_path / place)


@pytest.mark.requirement("import.tokenizer")
@pytest.mark.parametrize(("kind", "size"), [("fewer", 260), ("ours, padded", 128)])
def test_a_tokenizer_that_does_not_belong(kind: str, size: int, tmp_path: Path) -> None:
    foreign_folder(tmp_path, "gpt2", vocab_size=size)
    if kind == "fewer":
        byte_pairs("abab cdcd efef ghgh " * 9, 270).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ImportRefusedError, match="Take the tokenizer that belongs to the model"):
        read_folder(tmp_path)


@pytest.mark.requirement("import.tokenizer")
def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "gpt2")
    spec = {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(VocabularyError, match="Unigram"):
        read_folder(tmp_path)


def test_a_taken_name_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(RunError, match="exists already"):
        import_folder(tmp_path / "nowhere", runs_dir=str(tmp_path / "runs"), run_name="mine")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_transformer.runtime import files

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    foreign_folder(tmp_path / "in", "gpt2")
    monkeypatch.setattr(files, "os_write", full)
    with pytest.raises(TinyError, match="The disk is full"):
        import_folder(tmp_path / "in", runs_dir=str(tmp_path / "runs"), run_name="mine")
    assert not list((tmp_path / "runs").iterdir())


def test_what_transformers_does_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def fails(*_: object, **__: object) -> None:
        raise ValueError("no such thing\nmore")

    foreign_folder(tmp_path / "in", "gpt2")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(ImportRefusedError, match=r"transformers cannot read .*: no such thing$"):
        import_folder(tmp_path / "in", runs_dir=str(tmp_path / "runs"))


def test_dropouts_that_differ_are_told(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "gpt2", resid_pdrop=0.0, attn_pdrop=0.25)
    foreign = read_folder(tmp_path)
    assert foreign.config.dropout == 0.25
    assert "attn_pdrop 0.25" in foreign.notes[0] and "--model.dropout" in foreign.notes[0]
