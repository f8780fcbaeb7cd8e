"""A micro-batch cut into shards that are computed side by side, each on its own thread of a CPU.

PyTorch shares out the work of every operation among its threads, which wait for each other some
hundred times in a step; the threads of shards wait once. Two threads train 1.1 to 1.3 times as
fast so (docs/experiments.md).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_transformer.config import TrainingConfig
from tiny_transformer.runtime.errors import ConfigError

_FEWEST_TOKENS = 256  # in a shard; smaller ones were not measured
_SAFE = {nn.Linear, nn.Embedding, nn.ModuleList}

Loss = Callable[[int, Tensor, Tensor], Tensor]


def count_shards(
    settings: TrainingConfig,
    model: nn.Module,
    device: torch.device,
    context_length: int,
    n_ranks: int = 1,
) -> int:
    """Return how many shards a micro-batch is cut into.

    Args:
        settings: `shards` of None takes the number that keeps most threads at work, and of
            those the largest: shards of equal size, at least 256 tokens each.
        model: only the package's own parts are known to do well on several threads, where
            PyTorch's global generator is out of bounds; with others it is 1, as with
            `compile`.
        device: where the model is; anything but a CPU takes 1.
        context_length: tokens in a window.
        n_ranks: processes that share each batch; with more than one it is 1.

    Raises:
        ConfigError: more than one shard is asked for where it cannot be.
    """
    obstacle = _obstacle(settings, model, device, n_ranks)
    wanted = settings.shards
    if wanted is not None and wanted > 1 and obstacle:
        raise ConfigError(f"training.shards is {wanted}; {obstacle}. Take --training.shards 1.")
    if wanted is not None or obstacle:
        return wanted or 1
    threads, windows = torch.get_num_threads(), settings.batch_size // settings.accumulation_steps
    possible = [
        n
        for n in range(1, threads + 1)
        if n == 1 or (windows % n == 0 and windows // n * context_length >= _FEWEST_TOKENS)
    ]
    return max(possible, key=lambda n: (n * (threads // n), n))


def _obstacle(
    settings: TrainingConfig, model: nn.Module, device: torch.device, n_ranks: int
) -> str | None:
    """Return why a batch is computed whole, if it must be."""
    if n_ranks > 1:
        return f"{n_ranks} processes share each batch already"
    if settings.compile:
        return "training.compile is on, and a compiled model computes a batch at once"
    if device.type != "cpu":
        return f"the model is on {device}, which computes a batch at once"
    for kind in map(type, (getattr(model, "written", model), *model.modules())):
        if not _is_own(kind):
            name = f"{kind.__module__}.{kind.__name__}"
            return f"the model has a part of its own, {name}, which may not bear several threads"
    return None


def _is_own(kind: type[nn.Module]) -> bool:
    return kind in _SAFE or kind.__module__.startswith("tiny_transformer.")


def backward_in_shards(
    loss_of: Loss,
    parameters: Sequence[nn.Parameter],
    x: Int[Tensor, "B T"],
    y: Int[Tensor, "B T"],
    n_shards: int,
) -> list[Float[Tensor, ""]]:
    """Add the gradients of every shard's loss to the parameters', in the order of the shards.

    Args:
        loss_of: takes a shard's number, its ids and targets, and returns what its gradients
            are of; called on several threads at once.
        parameters: those of the model that `loss_of` runs.
        x: ids; B is a multiple of `n_shards`.
        y: targets.
        n_shards: at least 2.

    Returns:
        The losses, in order. They and the gradients are a function of the arguments and of
        the number of threads, whatever the order in which the shards end.
    """

    def compute(shard: int, ids: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        loss = loss_of(shard, ids, targets)
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    pool = _pool(n_shards, torch.get_num_threads())
    pieces = zip(range(n_shards), x.chunk(n_shards), y.chunk(n_shards), strict=True)
    results = list(pool.map(lambda piece: compute(*piece), pieces))
    for _, gradients in results:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad.add_(gradient)
    return [loss for loss, _ in results]


def start_workers(n_shards: int) -> None:
    """Start the threads of shards, which sets PyTorch's number of threads to what it is.

    That alone may change the last bits of a product: a process that trains in shards does
    so before it computes anything.
    """
    if n_shards > 1:
        _pool(n_shards, torch.get_num_threads())


@functools.lru_cache(maxsize=4)
def _pool(n_workers: int, threads: int) -> ThreadPoolExecutor:
    """Return workers that share `threads` threads, which the caller keeps as its own number."""
    everyone = threading.Barrier(n_workers)

    def begin(_: int) -> None:
        everyone.wait()  # so that no worker begins twice
        torch.get_num_threads()  # a thread's first question sets its number to the caller's
        torch.set_num_threads(max(1, threads // n_workers))

    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="shard")
    list(pool.map(begin, range(n_workers)))
    torch.set_num_threads(threads)  # for threads yet to come as well
    return pool
