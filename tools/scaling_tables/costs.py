"""What training costs on many GPUs, on paper: memory, bytes sent, and time.

Weights, gradients and AdamW's two means are float32; matrix products are bfloat16 by autocast.
`P` parameters, `L` blocks, `N` GPUs, of which each has the same share of a batch. GB is 10^9
bytes. What is left out: latency, imbalance, the optimizer's own time, reading data.

Sources: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models" (what is sharded, and what is sent for it, section 7); Zhao et al. 2023, "PyTorch FSDP";
Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations";
Austin et al. 2025, "How to Scale Your Model" (jax-ml.github.io/scaling-book), chapters 5 and 12.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from tiny_transformer.config import ModelConfig
from tiny_transformer.viz.memory import count_parameters, estimate_memory, flops_per_token
from tiny_transformer.viz.parameters import block_matrix_parameters

Strategy = Literal["ddp", "fsdp"]

_FLOAT32 = 4  # bytes
_FORWARD, _BACKWARD = 1 / 3, 2 / 3  # shares of the operations of a step
HEADROOM = 0.8
"""Share of a GPU's memory to fill on paper; temporary tensors and fragments have the rest."""


@dataclass(frozen=True)
class Machine:
    """Nodes of GPUs, and what connects them.

    Attributes:
        name: for tables.
        memory: bytes of a GPU.
        peak: bfloat16 operations a second of a GPU, dense.
        utilization: share of the peak that forward and backward reach.
        in_node: bytes a second that a GPU can send to the others of its node.
        node_out: bytes a second that a node can send to other nodes.
        per_node: GPUs of a node.
    """

    name: str
    memory: float
    peak: float
    utilization: float
    in_node: float
    node_out: float
    per_node: int

    @property
    def speed(self) -> float:
        """Operations a second that forward and backward reach on a GPU."""
        return self.peak * self.utilization

    def ring(self, n_gpus: int) -> float:
        """Return the bytes a second at which each GPU of a ring can send.

        The ring passes through every GPU and leaves each node once, so what leaves a node is no
        more than what each of its GPUs sends.
        """
        if n_gpus <= self.per_node:
            return self.in_node
        return min(self.in_node, self.node_out)


@dataclass(frozen=True)
class Workload:
    """A model, and how much of its data one optimizer step takes.

    Attributes:
        name: for tables.
        config: the architecture.
        windows: of a step, all GPUs together.
    """

    name: str
    config: ModelConfig
    windows: int

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return count_parameters(self.config).total

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.windows * self.config.context_length


def gather_bytes(size: float, n_gpus: int) -> float:
    """Return what each GPU sends when all come to have `size` bytes, of which each has 1/N.

    `(N - 1) / N size`; a reduce-scatter sends as much (Patarasuk and Yuan 2009).
    """
    return (n_gpus - 1) / n_gpus * size


def all_reduce_bytes(size: float, n_gpus: int) -> float:
    """Return what each GPU sends when all come to have the sum of `size` bytes of each.

    `2 (N - 1) / N size`: a reduce-scatter and a gather (Patarasuk and Yuan 2009).
    """
    return 2 * gather_bytes(size, n_gpus)


def block_parameters(config: ModelConfig) -> int:
    """Return the number of parameters of one block, its norms included."""
    one, two = (dataclasses.replace(config, n_layers=n) for n in (1, 2))
    return count_parameters(two).total - count_parameters(one).total


def root_parameters(config: ModelConfig) -> int:
    """Return the number of parameters outside of the blocks: embeddings and the last norm."""
    return count_parameters(config).total - config.n_layers * block_parameters(config)


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU.

    Attributes:
        state: weights, gradients and AdamW's means that it keeps.
        whole: weights and gradients that FSDP has whole at the fullest moment.
        activations: kept for backward by a micro-batch, bfloat16 copies of matrices included.
    """

    state: float
    whole: float
    activations: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.state + self.whole + self.activations


def gpu_memory(
    config: ModelConfig, strategy: Strategy, n_gpus: int, windows: int, micro_steps: int = 1
) -> Memory:
    """Return what one GPU holds at the fullest moment of a step.

    | | DDP | FSDP |
    |---|---|---|
    | state | `16 P` | `16 P / N` |
    | whole weights | in it | `4 (2 block + root)`: a block, the next one, and the root |
    | whole gradients | in it | the same; with more than one micro-step `4 P` |
    | activations | `estimate_activations` | the same |

    Between micro-steps that send nothing, FSDP keeps gradients whole. The estimate counts the
    bfloat16 copies that autocast makes of all matrices and keeps for backward: they are not
    sharded.

    Args:
        config: the architecture; without dropout, for whose mask a GPU's kernel keeps nothing.
        strategy: `"ddp"` or `"fsdp"`.
        n_gpus: of all nodes.
        windows: of a micro-batch on one GPU.
        micro_steps: micro-batches of a step.
    """
    estimate = estimate_memory(config, batch_size=windows, precision="bfloat16")
    state = estimate.weights + estimate.gradients + estimate.optimizer
    if strategy == "ddp" or n_gpus == 1:
        return Memory(state, 0, estimate.activations)
    parts = min(2, config.n_layers) * block_parameters(config) + root_parameters(config)
    gradients = parts if micro_steps == 1 else count_parameters(config).total
    whole = _FLOAT32 * (parts + gradients)
    return Memory(state / n_gpus, whole, estimate.activations)


def micro_batch(work: Workload, strategy: Strategy, n_gpus: int, machine: Machine) -> int | None:
    """Return the most windows of a micro-batch that fit on a GPU; None where not even one does.

    It divides a GPU's share of the batch, and fills no more than `HEADROOM` of the memory.
    """
    share = work.windows // n_gpus
    for windows in range(share, 0, -1):
        if share % windows:
            continue
        held = gpu_memory(work.config, strategy, n_gpus, windows, share // windows)
        if held.total <= HEADROOM * machine.memory:
            return windows
    return None


@dataclass(frozen=True)
class Step:
    """One optimizer step, seen from one GPU.

    Attributes:
        compute: seconds of forward and backward.
        sent: bytes that it sends.
        sending: seconds that this takes, at the speed of the slowest link.
        exposed: seconds of it in which nothing is left to compute meanwhile.
    """

    compute: float
    sent: float
    sending: float
    exposed: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.compute + self.exposed

    @property
    def efficiency(self) -> float:
        """Share of the time that is computing."""
        return self.compute / self.seconds


def gpu_step(
    work: Workload, strategy: Strategy, n_gpus: int, micro_steps: int, machine: Machine
) -> Step:
    """Return what a step takes.

    | sent by each GPU | DDP | FSDP |
    |---|---|---|
    | forward, each micro-step | | gather all weights, `4 P` |
    | backward, each micro-step | | gather the blocks' weights again |
    | backward, the last one | all-reduce of `4 P` | reduce-scatter of `4 P` |

    Each times `(N - 1) / N`, the all-reduce twice that. A third of the operations are forward,
    two thirds backward; what is sent in either is hidden as far as that lasts. DDP's gradients
    are hidden by the backward pass of the last micro-step alone.
    """
    config, size = work.config, _FLOAT32 * work.parameters
    compute = flops_per_token(config) * work.tokens / n_gpus / machine.speed
    micro, link = compute / micro_steps, machine.ring(n_gpus)
    if strategy == "ddp":
        sent = all_reduce_bytes(size, n_gpus)
        exposed = _left(sent / link, _BACKWARD * micro)
        return Step(compute, sent, sent / link, exposed)
    forward = gather_bytes(size, n_gpus)
    again = gather_bytes(_FLOAT32 * (work.parameters - root_parameters(config)), n_gpus)
    scatter = gather_bytes(size, n_gpus)
    exposed = (
        micro_steps * _left(forward / link, _FORWARD * micro)
        + (micro_steps - 1) * _left(again / link, _BACKWARD * micro)
        + _left((again + scatter) / link, _BACKWARD * micro)
    )
    sent = micro_steps * (forward + again) + scatter
    return Step(compute, sent, sent / link, exposed)


def _left(sending: float, computing: float) -> float:
    return max(0.0, sending - computing)


def muon_bytes(config: ModelConfig, strategy: Strategy, n_gpus: int) -> float:
    """Return what Muon sends on top, in a step: its matrices' updates, made in shares.

    `4 M (N - 1) / N` for the M parameters of the blocks' matrices; FSDP gathers their momentum
    first, which is as much again. Nothing hides it. Where the matrices of one shape are no
    multiple of N, it is as if they were.
    """
    gathers = 2 if strategy == "fsdp" else 1
    return gathers * gather_bytes(_FLOAT32 * block_matrix_parameters(config), n_gpus)


def hiding_tokens(config: ModelConfig, n_gpus: int, machine: Machine) -> float:
    """Return the least tokens of a GPU's micro-batch whose computing hides what is sent.

    `12 P (N - 1) / N` bytes at the link's speed take as long as `f m` operations at the GPU's,
    where `f` operations are a token's and `m` the tokens. With DDP these are `8 P` in two thirds
    of the time, with FSDP `4 P` in the first third (and less than twice that in the rest), so it
    is one formula for both. As f is near 6 P, it is near `2 speed / link`: the size of the model
    falls out.
    """
    sent = gather_bytes(3 * _FLOAT32 * count_parameters(config).total, n_gpus)
    return sent / machine.ring(n_gpus) * machine.speed / flops_per_token(config)


def training_seconds(work: Workload, step: Step, tokens_per_parameter: int = 20) -> float:
    """Return how long it takes to train on so many tokens a parameter.

    Source of the 20: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models".
    """
    return tokens_per_parameter * work.parameters / work.tokens * step.seconds
