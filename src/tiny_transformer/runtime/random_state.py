"""Randomness as a function of (seed, step): derived seeds and forked generators."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_own = threading.local()


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order.

    Args:
        parts: for instance `(seed, "dropout", step, micro_step, rank)`.

    Returns:
        The first 63 bits of the SHA-256 of the parts: equal on every machine.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return (
        int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        >> 1
    )


def generator(*parts: int | str) -> torch.Generator:
    """Return a new CPU generator seeded from `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


@contextlib.contextmanager
def forked_rng(*parts: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Seed PyTorch's global generators inside the block; restore them after it.

    Args:
        parts: what the randomness inside the block depends on.
        device: the accelerator whose generator is forked along with the CPU's.
    """
    kind = "cpu" if device is None else device.type
    if kind == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(*parts))
            yield
    else:
        index = (device.index or 0) if device is not None else 0
        with torch.random.fork_rng(devices=[index], device_type=kind):
            torch.manual_seed(derive_seed(*parts))
            yield


@contextlib.contextmanager
def own_generator(*parts: int | str) -> Iterator[None]:
    """Let `current_generator` return a generator seeded from `parts`, on this thread alone."""
    _own.generator = generator(*parts)
    try:
        yield
    finally:
        _own.generator = None


def current_generator() -> torch.Generator | None:
    """Return the generator of this thread's `own_generator`; None stands for the global one."""
    return getattr(_own, "generator", None)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Put NumPy's and Python's global generators back after the block."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def generator_states() -> dict[str, Tensor]:
    """Return the state of every global generator (torch, CUDA, numpy, python) as tensors."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"cuda.{index}"] = state
    _, keys, position, has_spare, spare = np.random.get_state()
    states["numpy"] = torch.tensor([*np.asarray(keys).tolist(), int(position)], dtype=torch.int64)
    states["numpy.spare"] = torch.tensor([has_spare, spare], dtype=torch.float64)
    version, internal, next_gauss = random.getstate()
    states["python"] = torch.tensor([version, *internal], dtype=torch.int64)
    # Normal draws come in pairs; the second waits here for its turn.
    states["python.spare"] = torch.tensor(
        [next_gauss is not None, next_gauss or 0.0], dtype=torch.float64
    )
    return states


def restore_generator_states(states: dict[str, Tensor]) -> None:
    """Set the global generators to `states`, as `generator_states` returned them."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda.{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda.{index}"], index)
    keys = states["numpy"].tolist()
    has_spare, spare = states["numpy.spare"].tolist()
    np.random.set_state(
        ("MT19937", np.array(keys[:-1], dtype=np.uint32), keys[-1], int(has_spare), spare)
    )
    version, *internal = states["python"].tolist()
    has_next, next_gauss = states["python.spare"].tolist()
    random.setstate((version, tuple(internal), next_gauss if has_next else None))
