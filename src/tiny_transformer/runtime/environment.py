"""What a run was made with: versions, threads, device, git commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tiny_transformer.runtime.device import flushes_denormals

_ONCE = {"ranks": 1}  # before there was a choice
_PACKAGES = ("tiny-transformer", "torch", "numpy", "safetensors", "pydantic")


def _git(*arguments: str, folder: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_commit(folder: Path | None = None) -> str | None:
    """Return the commit checked out in `folder`, or None outside a repository."""
    return _git("rev-parse", "--verify", "HEAD", folder=folder or Path.cwd())


def git_dirty(folder: Path | None = None) -> bool | None:
    """Return whether tracked files differ from the commit; None outside a repository."""
    status = _git("status", "--porcelain", "--untracked-files=no", folder=folder or Path.cwd())
    return None if status is None else bool(status)


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution, or None where it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe_numerics(
    device: torch.device,
    precision: str,
    shards: int = 1,
    ranks: int = 1,
    strategy: str | None = None,
) -> dict[str, Any]:
    """Return what the exact bits of a run depend on beside its config, as JSON-ready values.

    Args:
        device: where the model is.
        precision: as resolved for the device.
        shards: parts of a micro-batch that are computed side by side.
        ranks: processes that share each batch.
        strategy: how they share the work; None for one alone.
    """
    on_gpu = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "shards": shards,
        "ranks": ranks,
        "strategy": strategy if ranks > 1 else None,
        "device": str(device) if ranks == 1 else device.type,
        "precision": precision,
        "denormals": "flushed" if flushes_denormals() else "kept",
        "processor": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else None,
    }


def changed_numerics(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two results of `describe_numerics`, in words."""
    return [
        f"{name.replace('_', ' ')}: {before.get(name)} then, {value} now"
        for name, value in now.items()
        if before.get(name, _ONCE.get(name)) != value
    ]


def describe_environment(numerics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was made with, its numerics among it, as JSON-ready values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        **numerics,
        "packages": {name: package_version(name) for name in _PACKAGES},
        "git_commit": git_commit(),
        "git_dirty": git_dirty(),
    }
