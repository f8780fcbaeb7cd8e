"""The tables on paper: two models on up to 64 GPUs, and the network that they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tools.scaling_tables.costs import (
    HEADROOM,
    Machine,
    Step,
    Strategy,
    Workload,
    gpu_memory,
    gpu_step,
    hiding_tokens,
    micro_batch,
    training_seconds,
)

from tiny_transformer.config import ModelConfig

STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp")
COUNTS = (1, 2, 4, 8, 16, 32, 64)

H100 = Machine(
    "H100", memory=80e9, peak=989e12, utilization=0.4, in_node=450e9, node_out=8 * 50e9, per_node=8
)
"""Nodes of eight H100 SXM, each with 400 Gb/s of InfiniBand (NVIDIA's data sheet, DGX H100)."""
SLOWER = tuple(
    dataclasses.replace(H100, name=f"{gigabits} Gb/s a node", node_out=gigabits / 8 * 1e9)
    for gigabits in (100, 10)
)
"""The same nodes with Ethernet between them."""
NVLINK = "NVLink, 450 GB/s a GPU"
LINKS = {
    NVLINK: (H100, 8),
    "InfiniBand, 8 x 400 Gb/s a node": (H100, 64),
    **{f"Ethernet, {machine.name}": (machine, 64) for machine in SLOWER},
}
"""Networks by what they are called, each with a number of GPUs that it has to connect."""


def _model(n_layers: int, d_model: int, n_heads: int, context: int, vocabulary: int) -> ModelConfig:
    """Return an architecture as `configs/shakespeare.yaml` has it, with GELU and no dropout."""
    return ModelConfig(
        n_layers=n_layers, d_model=d_model, n_heads=n_heads, context_length=context,
        vocab_size=vocabulary, dropout=0.0, norm="rms_norm", position="rotary", bias=False,
        qk_norm=True,
    )  # fmt: skip


SMALL = Workload("100 M", _model(12, 768, 12, 1024, 16_384), windows=512)
LARGE = Workload("1 B", _model(18, 2048, 16, 2048, 32_768), windows=512)
WORKLOADS = (SMALL, LARGE)
SIZES = {
    name: _model(n_layers, d_model, n_heads, 2048, 50_257)
    for name, n_layers, d_model, n_heads in (
        ("125 M", 12, 768, 12),
        ("350 M", 24, 1024, 16),
        ("1.3 B", 24, 2048, 16),
        ("2.7 B", 32, 2560, 32),
        ("6.7 B", 32, 4096, 32),
        ("13 B", 40, 5120, 40),
    )
}
"""Sizes of Brown et al. 2020, "Language Models are Few-Shot Learners", table 2.1."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])


def memory_table(work: Workload, machine: Machine = H100) -> str:
    """Return what a GPU holds, by their number and the strategy."""
    rows = []
    for n_gpus, strategy in _cases():
        windows = micro_batch(work, strategy, n_gpus, machine)
        name = _name(strategy, n_gpus)
        if windows is None:
            rows.append([str(n_gpus), name, "no", "", "", "", ""])
            continue
        steps = work.windows // n_gpus // windows
        held = gpu_memory(work.config, strategy, n_gpus, windows, steps)
        parts = (held.state, held.whole, held.activations, held.total)
        rows.append([str(n_gpus), name, f"{windows} x {steps}", *map(giga, parts)])
    heads = ["GPUs", "", "windows x micro-steps", "state", "whole", "activations", "GB in all"]
    return table(heads, rows)


def time_table(work: Workload) -> str:
    """Return what a step takes by the number of GPUs; cells are of DDP and of FSDP."""
    rows = []
    for n_gpus in COUNTS:
        steps = [_step(work, strategy, n_gpus, H100) for strategy in _strategies(n_gpus)]
        cells = [str(n_gpus), _milliseconds(steps[0].compute)]
        cells.append(_span(training_seconds(work, steps[0])))
        cells.append(", ".join(giga(step.sent) for step in steps))
        cells.append(", ".join(_milliseconds(step.sending) for step in steps))
        for machine in (H100, *SLOWER):
            shares = [_step(work, s, n_gpus, machine).efficiency for s in _strategies(n_gpus)]
            cells.append(", ".join(f"{100 * share:.0f}" for share in shares))
        rows.append(cells)
    heads = ["GPUs", "computing, ms", "20 tokens a parameter", "sent, GB", "sending, ms",
             "efficiency, %", *(f"on {machine.name}" for machine in SLOWER)]  # fmt: skip
    return table(heads, rows)


def _step(work: Workload, strategy: Strategy, n_gpus: int, machine: Machine) -> Step:
    """Return a step with the largest micro-batch that fits."""
    windows = micro_batch(work, strategy, n_gpus, machine)
    assert windows is not None, f"{work.name} does not fit"
    return gpu_step(work, strategy, n_gpus, work.windows // n_gpus // windows, machine)


def link_table() -> str:
    """Return how many tokens hide the sending on each network, and how many GPUs that feeds."""
    rows = []
    for name, (machine, n_gpus) in LINKS.items():
        cells = [name, f"{machine.ring(n_gpus) / 1e9:.4g}"]
        for work in WORKLOADS:
            tokens = hiding_tokens(work.config, n_gpus, machine)
            fed = work.tokens / tokens
            cells += [f"{tokens:,.0f}", "all 8" if name == NVLINK else f"{fed:,.0f}"]
        rows.append(cells)
    heads = ["network", "GB/s"]
    for work in WORKLOADS:
        heads += [f"{work.name}: tokens that hide it", "GPUs that the batch gives as many"]
    return table(heads, rows)


def size_table(machine: Machine = H100) -> str:
    """Return what a GPU holds with a single window of 2048, for larger and larger models."""
    cases: tuple[tuple[Strategy, int], ...] = (("ddp", 1), ("fsdp", 2), ("fsdp", 8), ("fsdp", 64))
    rows = []
    for name, config in SIZES.items():
        cells = [name]
        for strategy, n_gpus in cases:
            total = gpu_memory(config, strategy, n_gpus, windows=1).total
            fits = total <= HEADROOM * machine.memory
            cells.append(f"{giga(total)}{'' if fits else ', too much'}")
        rows.append(cells)
    heads = ["parameters", "DDP", *(f"FSDP on {n_gpus}" for _, n_gpus in cases[1:])]
    return table(heads, rows)


def giga(n_bytes: float) -> str:
    """Return bytes in GB, two digits below 10 and one above."""
    value = n_bytes / 1e9
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _strategies(n_gpus: int) -> tuple[Strategy, ...]:
    """Return the strategies that differ on so many GPUs."""
    return STRATEGIES if n_gpus > 1 else ("ddp",)


def _cases() -> list[tuple[int, Strategy]]:
    return [(n_gpus, strategy) for n_gpus in COUNTS for strategy in _strategies(n_gpus)]


def _name(strategy: Strategy, n_gpus: int) -> str:
    return "" if n_gpus == 1 else strategy.upper()


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def _span(seconds: float) -> str:
    """Return a time as people say it."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
