"""Which device computes, and in which precision."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

from tiny_transformer.runtime.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device for `name`; `auto` takes CUDA, then MPS, then CPU.

    Where it is a CPU, this thread and those that it starts from now on take denormal numbers
    (float32 below 1.2e-38) for zero. Processors compute with them a hundred times slower, and
    training makes them: a hidden unit that never fires has weights and momenta that shrink by
    a factor in every step.

    Raises:
        ConfigError: the name is unknown, or this machine has no such device.
    """
    device = _find_device(name)
    if device.type == "cpu":
        torch.set_flush_denormal(True)
    return device


def flushes_denormals() -> bool:
    """Return whether this thread takes denormal numbers for zero."""
    return torch.full((1,), 1e-40).mul(1.0).item() == 0.0


def _find_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"training.device is {name!r}; expected auto, cpu, cuda, cuda:N or mps."
        ) from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise ConfigError(
            f"training.device is {name!r}, but this machine has no such device that PyTorch "
            f"{torch.__version__} can use. Leave it out, or give --training.device auto."
        )
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16 matrices itself (not emulated)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Return the precision for `name`; `auto` takes bfloat16 where the hardware has it."""
    if name == "auto":
        return "bfloat16" if computes_bfloat16(device) else "float32"
    if name == "float32" or name == "bfloat16":
        return name
    raise ConfigError(f"training.precision is {name!r}; expected auto, float32 or bfloat16.")


def autocast(
    device: torch.device, precision: Precision
) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a forward pass computes in `precision`."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
