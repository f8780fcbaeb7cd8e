"""Other people's models in the size of our config: what ours is measured beside.

Each is built by its own package, in float32 and in evaluation mode or not as it would be used;
the optimizer step around it is the same for all (`bench.training`).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.runtime.errors import ConfigError

PROMPT = 3  # the newline
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """A model of another project.

    Attributes:
        name: as it is shown.
        trained: builds it, and a function from ids `(B, T)` to logits `(B, T, V)`.
        generator: of (config, streams, new tokens), returns a function that samples so many
            tokens after one, with a key-value cache if it has one, and returns their number.
        batches: whether it is used for many streams at once.
    """

    name: str
    trained: Callable[[ModelConfig], tuple[nn.Module, Logits]]
    generator: Callable[[ModelConfig, int, int], Callable[[], int]]
    batches: bool = True


def available_peers(nanogpt: Path | None = None) -> tuple[list[Peer], list[str]]:
    """Return the peers that are installed here, and a line on each that is not.

    Args:
        nanogpt: a checkout of nanoGPT, whose `model.py` is run.

    Raises:
        ConfigError: there is no `model.py` in that folder, or it is not nanoGPT's.
    """
    peers, missing = [], []
    for package, peer in (("transformers", GPT2), ("x_transformers", X_TRANSFORMERS)):
        if importlib.util.find_spec(package) is None:
            missing.append(
                f"{peer.name} is left out: the package {package.replace('_', '-')} is not "
                "installed (pip install 'tiny-transformer[bench]')."
            )
        else:
            peers.append(peer)
    if nanogpt is None:
        missing.append(
            "nanoGPT is left out; with --nanogpt DIR a checkout of it is measured too. Recorded "
            "elsewhere, on two cores with bfloat16: training 4,500 tokens/s, 7,400 in bfloat16; "
            "generation 75."
        )
    else:
        peers.append(_nanogpt(nanogpt))
    return peers, missing


def build_gpt2(config: ModelConfig) -> Any:
    """Return a freshly initialised `GPT2LMHeadModel` of the same architecture and size.

    Its non-linearity is set to ours: GPT-2's own (`gelu_new`) is spelled out in Python there
    and is slower, which would flatter us.
    """
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context_length,
            n_embd=config.d_model,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            n_inner=config.feed_forward_width,
            activation_function="gelu",
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    )


def _trained_gpt2(config: ModelConfig) -> tuple[nn.Module, Logits]:
    model = build_gpt2(config)
    return model, lambda ids: model(input_ids=ids, use_cache=False).logits


def _gpt2_generator(config: ModelConfig, n_streams: int, new_tokens: int) -> Callable[[], int]:
    from transformers import GenerationConfig

    model = build_gpt2(config).eval()
    prompt = torch.full((n_streams, 1), PROMPT)
    settings = GenerationConfig(
        do_sample=True,
        max_new_tokens=new_tokens,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        pad_token_id=0,
        eos_token_id=None,
    )

    def generate() -> int:
        texts = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), generation_config=settings
        )
        return texts.numel() - prompt.numel()

    return generate


def _build_x_transformer(config: ModelConfig) -> Any:
    from x_transformers import Decoder, TransformerWrapper

    return TransformerWrapper(
        num_tokens=config.vocab_size,
        max_seq_len=config.context_length,
        emb_dropout=config.dropout,
        tie_embedding=config.tie_weights,
        attn_layers=Decoder(
            dim=config.d_model,
            depth=config.n_layers,
            heads=config.n_heads,
            attn_dim_head=config.head_dim,
            attn_dropout=config.dropout,
            ff_mult=config.feed_forward_width / config.d_model,
            ff_dropout=config.dropout,
            attn_flash=True,
        ),
    )


def _trained_x_transformer(config: ModelConfig) -> tuple[nn.Module, Logits]:
    model = _build_x_transformer(config)
    return model, model


def _x_generator(config: ModelConfig, n_streams: int, new_tokens: int) -> Callable[[], int]:
    from x_transformers import AutoregressiveWrapper

    model: Any = AutoregressiveWrapper(_build_x_transformer(config)).eval()
    prompt = torch.full((n_streams, 1), PROMPT)
    return lambda: model.generate(
        prompt, seq_len=new_tokens, temperature=1.0, filter_logits_fn=_as_they_are, cache_kv=True
    ).numel()


def _as_they_are(logits: Tensor, **_: Any) -> Tensor:
    return logits


GPT2 = Peer("transformers GPT-2", _trained_gpt2, _gpt2_generator)
X_TRANSFORMERS = Peer("x-transformers", _trained_x_transformer, _x_generator)


def _nanogpt(folder: Path) -> Peer:
    module = _load_nanogpt(folder)

    def build(config: ModelConfig) -> Any:
        return module.GPT(
            module.GPTConfig(
                block_size=config.context_length,
                vocab_size=config.vocab_size,
                n_layer=config.n_layers,
                n_head=config.n_heads,
                n_embd=config.d_model,
                dropout=config.dropout,
                bias=config.bias,
            )
        )

    def trained(config: ModelConfig) -> tuple[nn.Module, Logits]:
        model = build(config)
        return model, lambda ids: model(ids, ids)[0]  # without targets: the last position alone

    def generator(config: ModelConfig, n_streams: int, new_tokens: int) -> Callable[[], int]:
        model = build(config).eval()
        prompt = torch.full((n_streams, 1), PROMPT)
        return lambda: model.generate(prompt, new_tokens).numel() - prompt.numel()

    return Peer("nanoGPT", trained, generator, batches=False)  # its sample.py writes one by one


def _load_nanogpt(folder: Path) -> ModuleType:
    path, name = folder / "model.py", "_nanogpt_model"
    if not path.is_file():
        raise ConfigError(f"--nanogpt {folder}: there is no model.py; give a checkout of nanoGPT.")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    if not hasattr(module, "GPT") or not hasattr(module, "GPTConfig"):
        raise ConfigError(f"{path} has no GPT and GPTConfig; give a checkout of nanoGPT.")
    return module
