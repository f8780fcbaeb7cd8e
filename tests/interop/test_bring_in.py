"""What transformers saved computes the same here: its logits, and its greedy text."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.interop.foreign import (
    CONTEXT,
    KINDS,
    byte_pairs,
    edit_config,
    edit_weights,
    foreign_folder,
    foreign_model,
)
from tests.interop.helpers import GPT2, LLAMA, QWEN3, exportable
from tests.model.architectures import largest_difference
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.interop import bring_in, weight_names
from tiny_transformer.interop.base import ImportRefusedError
from tiny_transformer.interop.bring_in import compare_with_transformers, import_folder, read_folder
from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.foreign_families import FAMILIES
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.training.checkpoint import open_checkpoint
from tiny_transformer.training.weights import weights_hash

pytestmark = pytest.mark.requirement("import.parity")


def ids_for(model: Transformer, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    shape = (3, model.config.context_length)
    return torch.randint(model.config.vocab_size, shape, generator=draws)


@torch.no_grad()
def difference(folder: Path, theirs: Any, **options: Any) -> float:
    """Return the largest difference of a logit over the whole context."""
    ours = read_folder(folder, **options).build_model()
    ids = ids_for(ours)
    return largest_difference(theirs(ids).logits, ours(ids))


HEADS = st.sampled_from([(4, 4), (4, 2), (4, 1), (2, 2), (1, 1), (8, 4)])
COMMON = {"seed": st.integers(0, 99), "layers": st.integers(1, 3), "tie": st.booleans()}
EPS = st.sampled_from([1e-6, 1e-5, 1e-2])


@settings(max_examples=25)
@given(
    heads=st.sampled_from([1, 2, 4, 8]),
    inner=st.sampled_from([None, 24, 96]),
    activation=st.sampled_from(["gelu_new", "gelu", "relu", "gelu_pytorch_tanh"]),
    eps=EPS,
    reordered=st.booleans(),
    **COMMON,
)
def test_any_gpt2_has_the_same_logits(
    heads: int,
    inner: int | None,
    activation: str,
    eps: float,
    reordered: bool,
    seed: int,
    layers: int,
    tie: bool,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        theirs = foreign_folder(
            Path(place), "gpt2", seed=seed, n_layer=layers, n_head=heads, n_inner=inner,
            activation_function=activation, layer_norm_epsilon=eps, tie_word_embeddings=tie,
            reorder_and_upcast_attn=reordered,
        )  # fmt: skip
        assert difference(Path(place), theirs) < 1e-4


@settings(max_examples=40)
@given(
    kind=st.sampled_from(["llama", "mistral", "qwen3"]),
    heads=HEADS,
    inner=st.sampled_from([24, 64]),
    theta=st.sampled_from([100.0, 10_000.0, 500_000.0]),
    biases=st.booleans(),
    eps=EPS,
    **COMMON,
)
def test_any_llama_has_the_same_logits(
    kind: str,
    heads: tuple[int, int],
    inner: int,
    theta: float,
    biases: bool,
    eps: float,
    seed: int,
    layers: int,
    tie: bool,
) -> None:
    also: Any = {"attention_bias": biases, "mlp_bias": biases} if kind == "llama" else {}
    with tempfile.TemporaryDirectory() as place:
        theirs = foreign_folder(
            Path(place), kind, seed=seed, num_hidden_layers=layers, num_attention_heads=heads[0],
            num_key_value_heads=heads[1], head_dim=32 // heads[0], intermediate_size=inner,
            rope_parameters={"rope_type": "default", "rope_theta": theta}, rms_norm_eps=eps,
            tie_word_embeddings=tie, **also,
        )  # fmt: skip
        assert difference(Path(place), theirs) < 1e-4


@pytest.mark.parametrize("kind", list(KINDS))
def test_greedy_text_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    """Through our cache and theirs, in float64, where no two tokens are near a tie."""
    theirs = foreign_folder(tmp_path, kind).double()
    foreign = read_folder(tmp_path)
    ours, prompt = foreign.build_model().double(), "A\tb\n"
    ids = torch.tensor([foreign.tokenizer.encode(prompt).tolist()])
    made = theirs.generate(
        ids, max_new_tokens=CONTEXT - ids.shape[1], do_sample=False, suppress_tokens=[0, 1],
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    config = SamplingConfig(prompt=prompt, max_new_tokens=CONTEXT - ids.shape[1], temperature=0.0)
    for cached in (True, False):
        text = sample_text(ours, foreign.tokenizer, config, use_cache=cached)[0]
        assert foreign.tokenizer.decode(made[0]) == prompt + text


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_become_float32(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = foreign_model(kind).to(dtype)
    foreign_folder(tmp_path, kind)
    theirs.save_pretrained(tmp_path)
    foreign = read_folder(tmp_path)
    assert all(weight.dtype == torch.float32 for weight in foreign.weights.values())
    assert difference(tmp_path, _loaded(tmp_path)) < 1e-4


@pytest.mark.parametrize("kind", list(KINDS))
def test_shards_are_put_together(kind: str, tmp_path: Path) -> None:
    theirs = foreign_folder(tmp_path, kind, shard="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert difference(tmp_path, theirs) < 1e-4
    assert set(read_folder(tmp_path).hashes) == {p.name for p in tmp_path.glob("model-*")}


@pytest.mark.parametrize("kind", list(KINDS))
def test_names_without_their_beginning_and_old_constants(kind: str, tmp_path: Path) -> None:
    """GPT-2 on the Hub has neither `transformer.` nor an output, and masks as tensors."""
    theirs = foreign_folder(tmp_path, kind)
    prefix = "transformer." if kind == "gpt2" else "model."

    def strip(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix(prefix)] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, CONTEXT, CONTEXT)
        tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    edit_weights(tmp_path, strip)
    assert difference(tmp_path, theirs) < 1e-4


def test_a_tied_output_may_be_stored_as_well(tmp_path: Path) -> None:
    theirs = foreign_folder(tmp_path, "gpt2")
    edit_weights(
        tmp_path, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()})
    )
    assert difference(tmp_path, theirs) < 1e-4


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_shorter_context(kind: str, tmp_path: Path) -> None:
    theirs = foreign_folder(tmp_path, kind)
    assert read_folder(tmp_path, 5).config.context_length == 5
    assert difference(tmp_path, theirs, context_length=5) < 1e-4


def test_a_window_as_long_as_the_context_changes_nothing(tmp_path: Path) -> None:
    theirs = foreign_folder(tmp_path, "mistral", sliding_window=6)
    assert difference(tmp_path, theirs, context_length=6) < 1e-4
    with pytest.raises(ImportRefusedError, match=r"sliding_window is 6.*--context-length 6"):
        read_folder(tmp_path)


def test_old_and_new_places_of_the_rotary_base(tmp_path: Path) -> None:
    theirs = foreign_folder(
        tmp_path, "llama", rope_parameters={"rope_type": "default", "rope_theta": 77.0}
    )
    edit_config(tmp_path, rope_parameters=..., rope_theta=77.0, rope_scaling=None, pretraining_tp=2)
    assert read_folder(tmp_path).config.rotary_base == 77.0
    assert difference(tmp_path, theirs) < 1e-4
    edit_config(tmp_path, rope_theta=..., rope_scaling={"type": "default", "rope_theta": 77.0})
    assert read_folder(tmp_path).config.rotary_base == 77.0


@pytest.mark.parametrize("kind", list(KINDS))
def test_fields_that_are_left_out_have_the_values_of_transformers(kind: str) -> None:
    from transformers import AutoConfig

    theirs = AutoConfig.for_model(kind).to_dict()
    ours = dict(FAMILIES[kind].defaults)
    for name in ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"):
        ours.pop(name, None)
    if kind != "qwen3":  # it derives the two that are left as None
        ours.pop("use_sliding_window", None)
    derived = {"num_key_value_heads", "head_dim", "sliding_window", "layer_types"}
    for name in ours.keys() & theirs.keys():
        assert ours[name] == theirs[name] or (name in derived and ours[name] is None) or (
            name == "sliding_window" and theirs[name] is None
        ), name  # fmt: skip
    unknown = ours.keys() - theirs.keys() - {"attention_bias", "mlp_bias", "head_dim"}
    assert not unknown


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_field_that_transformers_writes_is_known(kind: str, tmp_path: Path) -> None:
    """Also those that it leaves out of the file where they have their usual value."""
    model = foreign_folder(tmp_path, kind)
    edit_config(tmp_path, **{k: v for k, v in model.config.to_dict().items() if v is not None})
    read_folder(tmp_path)


BROKEN_TABLES = {
    "gpt2-keys-before-queries": ("gpt2", {"attention.q_proj": ..., "attention.v_proj": ...}, {}),
    "gpt2-norms-swapped": ("gpt2", {}, {"norm1": "ln_2", "norm2": "ln_1"}),
    "llama-norms-swapped": (
        "llama", {}, {"norm1": "post_attention_layernorm", "norm2": "input_layernorm"},
    ),
    "llama-keys-for-queries": (
        "llama", {},
        {"q_proj": "x_proj", "k_proj": "q_proj", "x_proj": "k_proj"},
    ),
    "llama-values-for-keys": (
        "llama", {}, {"v_proj": "x_proj", "k_proj": "v_proj", "x_proj": "k_proj"},
    ),
    "llama-gate-for-up": (
        "llama", {}, {"up_proj": "x_proj", "gate_proj": "up_proj", "x_proj": "gate_proj"},
    ),
    "qwen3-head-norms-swapped": (
        "qwen3", {}, {"q_norm": "x_norm", "k_norm": "q_norm", "x_norm": "k_norm"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "last", "changed"), BROKEN_TABLES.values(), ids=BROKEN_TABLES)
def test_a_wrong_entry_of_a_table_does_not_pass(
    kind: str,
    last: dict[str, Any],
    changed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    equal: Any = {} if kind == "gpt2" else {"num_key_value_heads": 4}
    foreign_folder(tmp_path / "in", kind, **equal)
    form = FAMILIES[kind].form.name
    table = dict(weight_names.TABLES[form])
    for part in last:  # put at the end of the table
        table[part] = table.pop(part)
    monkeypatch.setitem(weight_names.TABLES, form, table | changed)
    with pytest.raises(ImportRefusedError, match="was not kept: its logits are not the model's"):
        import_folder(tmp_path / "in", runs_dir=str(tmp_path / "runs"))
    assert not list(tmp_path.glob("runs/**/*"))


def test_a_forgotten_transpose_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The square matrix of attention's output has the same shape either way."""
    foreign_folder(tmp_path / "in", "gpt2")
    monkeypatch.setattr(
        weight_names, "_TRANSPOSED", ("c_attn.weight", "c_fc.weight", "mlp.c_proj.weight")
    )
    with pytest.raises(ImportRefusedError, match="its logits are not the model's"):
        import_folder(tmp_path / "in", runs_dir=str(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {"activation": "gelu"}),
        ("gpt2", {"norm_eps": 1e-3}),
        ("gpt2", {"n_heads": 2}),
        ("llama", {"rotary_base": 9000.0}),
        ("llama", {"norm_eps": 1e-3}),
        ("qwen3", {"rotary_base": 9000.0}),
    ],
)
def test_a_wrong_setting_does_not_pass(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    foreign_folder(tmp_path, kind)
    foreign = read_folder(tmp_path)
    config = dataclasses.replace(foreign.config, **changes)
    wrong = dataclasses.replace(foreign, config=config)
    assert compare_with_transformers(foreign, foreign.build_model()).largest_difference < 1e-5
    model = wrong.build_model()
    with pytest.raises(ImportRefusedError, match="first part at position"):
        compare_with_transformers(wrong, model)


def test_rounding_of_large_values_is_no_difference(tmp_path: Path) -> None:
    """Logits of ten thousand cannot agree to 1e-4 in float32; in float64 they do."""
    foreign_folder(tmp_path / "in", "gpt2", tie_word_embeddings=False)
    edit_weights(tmp_path / "in", lambda t: t["lm_head.weight"].mul_(1e4))
    theirs_32 = difference(tmp_path / "in", _loaded(tmp_path / "in"))
    assert theirs_32 > 1e-4
    made = import_folder(tmp_path / "in", runs_dir=str(tmp_path / "runs"))
    assert made.parity is not None and made.parity.largest_difference < 1e-6


def _loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.requirement("import.round-trip")
@pytest.mark.parametrize(
    "choices",
    [GPT2, GPT2 | {"tie_weights": False, "norm_eps": 1e-3}, LLAMA, LLAMA | {"bias": True}, QWEN3],
    ids=["gpt2", "gpt2-untied", "llama", "llama-biases", "qwen3"],
)
def test_an_export_comes_back_bit_for_bit(choices: dict[str, Any], tmp_path: Path) -> None:
    model = exportable(**choices, dropout=0.25)
    export_model(model, CharTokenizer(), "huggingface", tmp_path / "out")
    made = import_folder(tmp_path / "out", runs_dir=str(tmp_path / "runs"), run_name="back")
    checkpoint = open_checkpoint("back", tmp_path / "runs")[1]
    back = checkpoint.build_model()
    assert weights_hash(back) == weights_hash(model)
    assert back.config == dataclasses.replace(
        model.config, n_kv_heads=back.config.n_kv_heads, backend="fused"
    )
    assert back.config.kv_heads == model.config.kv_heads
    assert checkpoint.tokenizer == made.foreign.tokenizer == CharTokenizer()
    ids = ids_for(model)
    with torch.no_grad():
        assert largest_difference(back(ids), model(ids)) < 1e-5


@pytest.mark.requirement("import.tokenizer")
def test_byte_pairs_come_with_the_model(tmp_path: Path) -> None:
    text = "the cat sat on the mat, the cat that sat\n" * 20
    theirs = byte_pairs(text, 280)
    foreign_folder(tmp_path, "gpt2", vocab_size=300)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    theirs.save(str(tmp_path / "tokenizer.json"))
    foreign = read_folder(tmp_path)
    assert isinstance(foreign.tokenizer, BpeTokenizer)
    assert foreign.tokenizer.encode("the cats").tolist() == theirs.encode("the cats").ids
    assert foreign.config.vocab_size == 300 > foreign.tokenizer.vocab_size


@pytest.mark.requirement("import.tokenizer")
def test_the_two_older_files_of_gpt2_are_read(tmp_path: Path) -> None:
    text = "the cat sat on the mat, the cat that sat\n" * 20
    theirs = byte_pairs(text, 280)
    size = theirs.get_vocab_size()
    foreign_folder(tmp_path, "gpt2", vocab_size=size)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    spec = json.loads(theirs.to_str())
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]))
    lines = [" ".join(pair) for pair in spec["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
    tokenizer = read_folder(tmp_path).tokenizer
    for text in ("the cat sat  on\n\tthe mat!", "caf\u00e9 \U0001f600", ""):
        assert tokenizer.encode(text).tolist() == theirs.encode(text).ids
    end = spec["model"]["vocab"]["<|endoftext|>"]
    assert tokenizer.end_ids == (end,)


def test_what_is_not_compared_is_said_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_folder(tmp_path / "in", "llama")
    monkeypatch.setattr(bring_in, "can_compare", lambda: False)
    made = import_folder(tmp_path / "in", runs_dir=str(tmp_path / "runs"), run_name="mine")
    assert made.parity is None
    source = open_checkpoint("mine", tmp_path / "runs")[1].metadata["imported"]
    assert source["compared_with_transformers"] is None
