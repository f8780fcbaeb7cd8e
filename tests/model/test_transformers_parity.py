"""Same weights, same logits as Hugging Face's GPT-2, Llama and Qwen3."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from tests.model.architectures import (
    CONTEXT,
    VOCABULARY,
    largest_difference,
    scramble,
    tiny_config,
    token_ids,
)
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.transformer import Transformer

both_backends = pytest.mark.parametrize("backend", ["fused", "explicit"])


def difference(config: ModelConfig, state: dict[str, Tensor], theirs: torch.nn.Module) -> float:
    """Load `state` into a model of `config`; return how far its logits are from `theirs`."""
    mine = Transformer(config).eval()
    mine.load_state_dict(state, strict=True)
    ids = token_ids(batch=3)
    with torch.no_grad():
        expected, actual = theirs(ids).logits, mine(ids)
    assert expected.std() > 0.1  # logits of a certain size, or agreement would say little
    return largest_difference(actual, expected)


def gpt2_state(source: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {
        "embeddings.token.weight": source["transformer.wte.weight"],
        "embeddings.position.weight": source["transformer.wpe.weight"],
        "lm_head.weight": source["lm_head.weight"],
    }
    for kind in ("weight", "bias"):
        state[f"final_norm.{kind}"] = source[f"transformer.ln_f.{kind}"]
        for layer in range(2):
            theirs, mine = f"transformer.h.{layer}.", f"blocks.{layer}."

            def read(name: str, theirs: str = theirs, kind: str = kind) -> Tensor:
                tensor = source[f"{theirs}{name}.{kind}"]
                conv1d = kind == "weight" and not name.startswith("ln")
                return tensor.T if conv1d else tensor  # Conv1D keeps (in, out)

            q, k, v = read("attn.c_attn").chunk(3)
            state |= {
                f"{mine}norm1.{kind}": read("ln_1"),
                f"{mine}norm2.{kind}": read("ln_2"),
                f"{mine}attention.q_proj.{kind}": q,
                f"{mine}attention.k_proj.{kind}": k,
                f"{mine}attention.v_proj.{kind}": v,
                f"{mine}attention.o_proj.{kind}": read("attn.c_proj"),
                f"{mine}mlp.up_proj.{kind}": read("mlp.c_fc"),
                f"{mine}mlp.down_proj.{kind}": read("mlp.c_proj"),
            }
    return state


@pytest.mark.requirement("model.gpt2-parity")
@both_backends
def test_logits_are_those_of_gpt2(backend: str) -> None:
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, n_inner=48,
            bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    scramble(theirs)
    config = tiny_config(activation="gelu_tanh", backend=backend)
    assert difference(config, gpt2_state(theirs.state_dict()), theirs) < 1e-5
    wrong = tiny_config(activation="gelu", backend=backend)
    assert difference(wrong, gpt2_state(theirs.state_dict()), theirs) > 1e-5


def llama_state(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Llama's (or Qwen3's) parameters: they are laid out as ours."""
    names = [
        ("model.embed_tokens", "embeddings.token"), ("model.norm", "final_norm"),
        ("model.layers", "blocks"), ("self_attn", "attention"), ("input_layernorm", "norm1"),
        ("post_attention_layernorm", "norm2"),
    ]  # fmt: skip
    state = {}
    for name, tensor in source.items():
        for theirs, mine in names:
            name = name.replace(theirs, mine)
        state[name] = tensor
    return state


LLAMA_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}  # fmt: skip
LLAMA_LIKE = {
    "norm": "rms_norm", "position": "rotary", "activation": "swiglu", "bias": False,
    "rotary_base": 500.0,
}  # fmt: skip


@pytest.mark.requirement("model.llama-parity")
@both_backends
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_logits_are_those_of_llama(kv_heads: int, tied: bool, backend: str) -> None:
    theirs = LlamaForCausalLM(
        LlamaConfig(**LLAMA_SIZES, num_key_value_heads=kv_heads, tie_word_embeddings=tied)
    ).eval()
    scramble(theirs)
    config = tiny_config(**LLAMA_LIKE, n_kv_heads=kv_heads, tie_weights=tied, backend=backend)
    assert difference(config, llama_state(theirs.state_dict()), theirs) < 1e-5


@pytest.mark.requirement("model.llama-parity")
@pytest.mark.requirement("model.qk-norm")
@both_backends
def test_logits_are_those_of_qwen3_with_its_qk_norm(backend: str) -> None:
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            **LLAMA_SIZES, num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
            attention_bias=False,
        )
    ).eval()  # fmt: skip
    scramble(theirs)
    config = tiny_config(
        **LLAMA_LIKE, n_kv_heads=2, qk_norm=True, tie_weights=False, backend=backend
    )
    assert difference(config, llama_state(theirs.state_dict()), theirs) < 1e-5
