"""Training: whole optimizer steps, ours and other people's, and the machine's roofline.

All make the same step on the same random batch in float32: forward, cross-entropy over every
position, backward, clipping, AdamW (fused, decay on matrices only), through the project's
`Optimizer`, a thin layer over `torch.optim.AdamW`. Ours computes its batch in shards, as
`tiny train` does. GPT-2 computes no key-value cache here and
not its own loss, which would shift the targets once more; nanoGPT computes its loss twice, for
without targets it gives the last position alone (the loss is 0.5 % of the work).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.bench.measure import Budget, Rate, gemm_flops, in_turns, rate_of, ratio
from tiny_transformer.bench.peers import Peer
from tiny_transformer.bench.report import OURS, Row, section_rows
from tiny_transformer.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import forked_rng, own_generator
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.training.run_data import load_run_data
from tiny_transformer.training.shards import backward_in_shards, count_shards
from tiny_transformer.viz.memory import flops_per_token

ROOFLINE = "float32 matrix product"
GRAD_CLIP = 1.0


def training_step(
    model: nn.Module,
    logits_of: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    n_shards: int = 1,
) -> Callable[[], float]:
    """Return a function that makes one optimizer step and returns its loss.

    Args:
        model: whose parameters are trained.
        logits_of: runs the model on ids.
        x: int64 `(B, T)` ids.
        y: int64 `(B, T)` ids that come next.
        n_shards: parts of the batch computed side by side.
    """
    optimizer = Optimizer(model.train(), OptimizerConfig())
    parameters = list(model.parameters())

    def shard_loss(shard: int, ids: Tensor, targets: Tensor) -> Tensor:
        with own_generator("benchmark", shard):
            return compute_loss(logits_of(ids), targets) / n_shards

    def step() -> float:
        if n_shards > 1:
            loss = torch.stack(backward_in_shards(shard_loss, parameters, x, y, n_shards)).sum()
        else:
            with forked_rng("benchmark"):  # as the trainer does; the others' dropout gets it too
                loss = compute_loss(logits_of(x), y)
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, GRAD_CLIP).item()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def our_step(config: ModelConfig, x: Tensor, y: Tensor) -> Callable[[], float]:
    """Return `training_step` of a new model of ours, in as many shards as `tiny train` takes."""
    model: Any = Transformer(config)
    settings = TrainingConfig(batch_size=x.shape[0])
    n_shards = count_shards(settings, model, x.device, config.context_length)
    return training_step(model, model, x, y, n_shards)


def measure_training(
    config: ModelConfig, budget: Budget, peers: Sequence[Peer], *, batch_size: int = 16
) -> dict[str, Rate]:
    """Return tokens a second of every model, and operations a second of the roofline."""
    ids = torch.randint(2, config.vocab_size, (batch_size, config.context_length + 1))
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    steps = {OURS: our_step(config, x, y)}
    for peer in peers:
        steps[peer.name] = training_step(*peer.trained(config), x, y)
    subjects: dict[str, Callable[[], float]] = {
        name: lambda step=step: rate_of(step, x.numel(), times=budget.training_steps)
        for name, step in steps.items()
    }
    return in_turns({**subjects, ROOFLINE: lambda: gemm_flops(budget.gemm_size)}, budget.rounds)


def training_rows(
    config: ModelConfig, budget: Budget, peers: Sequence[Peer], *, batch_size: int = 16
) -> list[Row]:
    """Return training speed, and the share of the roofline that it is."""
    rates = measure_training(config, budget, peers, batch_size=batch_size)
    roofline = rates.pop(ROOFLINE)
    flops = flops_per_token(config)
    rows = []
    section = f"training, batch {batch_size} x {config.context_length}, float32"
    for row in section_rows(section, "tokens/s", rates, ours=OURS):
        computed = Rate(tuple(sample * flops for sample in row.rate.samples))
        share = ratio(computed, roofline).median
        note = f"{computed.median / 1e9:,.0f} GFLOP/s, {share:.0%} of the roofline"
        rows.append(dataclasses.replace(row, note=note))
    scaled = Rate(tuple(sample / 1e9 for sample in roofline.samples))
    note = f"{budget.gemm_size} x {budget.gemm_size}; a token takes {flops / 1e6:.1f} MFLOP"
    return [*rows, Row(section, ROOFLINE, "GFLOP/s", scaled, note=note)]


def loader_rows(
    config: ModelConfig, budget: Budget, *, batch_size: int = 16, corpus: str = "shakespeare"
) -> list[Row]:
    """Return the share of a training step's time that its batch takes to be drawn."""
    settings = Config(
        data=DataConfig(corpus=corpus),
        model=config,
        training=dataclasses.replace(Config().training, batch_size=batch_size),
    )
    loader = load_run_data(settings).loader
    ((x, y),) = loader.micro_batches(0)
    step = our_step(config, x, y)
    step()  # warms up
    shares = []
    for number in range(1, budget.rounds * budget.training_steps + 1):
        began = time.perf_counter()
        ((x, y),) = loader.micro_batches(number)
        drawn = time.perf_counter()
        step()
        ended = time.perf_counter()
        shares.append(100 * (drawn - began) / (ended - began))
    section = f"data loader, batch {batch_size} x {config.context_length}"
    return [Row(section, OURS, "% of a step", Rate(tuple(shares)))]
