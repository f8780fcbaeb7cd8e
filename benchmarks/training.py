"""Training: whole optimizer steps, ours and Hugging Face's GPT-2, and the machine's roofline.

Both sides make the same step on the same random batch in float32: forward, cross-entropy
over every position, backward, clipping, AdamW (fused, decay on matrices only). Both go
through the project's `Optimizer`, a thin layer over `torch.optim.AdamW`. GPT-2 computes no
key-value cache here and not its own loss, which would shift the targets once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Budget, Rate, gemm_flops, in_turns, rate_of
from benchmarks.peer import build_gpt2
from tiny_transformer.config import ModelConfig, OptimizerConfig
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import forked_rng
from tiny_transformer.training.optimizer import Optimizer

OURS, PEER, ROOFLINE = "this project", "transformers GPT-2", "float32 matrix product"
GRAD_CLIP = 1.0


def training_step(
    model: nn.Module, logits_of: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
) -> Callable[[], float]:
    """Return a function that makes one optimizer step and returns its loss.

    Args:
        model: whose parameters are trained.
        logits_of: runs the model on ids.
        x: int64 `(B, T)` ids.
        y: int64 `(B, T)` ids that come next.
    """
    optimizer = Optimizer(model.train(), OptimizerConfig())
    parameters = list(model.parameters())

    def step() -> float:
        with forked_rng("benchmark"):  # as the trainer does; GPT-2's dropout gets it too
            loss = compute_loss(logits_of(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, GRAD_CLIP).item()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def measure_training(
    config: ModelConfig, budget: Budget, *, batch_size: int = 16
) -> dict[str, Rate]:
    """Return tokens a second of both models, and operations a second of the roofline."""
    ids = torch.randint(2, config.vocab_size, (batch_size, config.context_length + 1))
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    ours: Any = Transformer(config)
    peer: Any = build_gpt2(config)
    steps = {
        OURS: training_step(ours, ours, x, y),
        PEER: training_step(peer, lambda x: peer(input_ids=x, use_cache=False).logits, x, y),
    }
    subjects: dict[str, Callable[[], float]] = {
        name: lambda step=step: rate_of(step, x.numel(), times=budget.training_steps)
        for name, step in steps.items()
    }
    return in_turns({**subjects, ROOFLINE: lambda: gemm_flops(budget.gemm_size)}, budget.rounds)
