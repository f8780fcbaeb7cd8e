"""Hugging Face's GPT-2 in the size of our config: the model that ours is measured beside."""

from __future__ import annotations

from typing import Any

from tiny_transformer.config import ModelConfig


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
