"""What a check of `tiny doctor` is, and the checks of what is installed and of the disk.

Notable: only the standard library is imported here. A check imports what it needs when it
runs, so that a package that is missing or broken is a finding and not a traceback.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiny_transformer.runtime.errors import TinyError

Status = Literal["OK", "WARN", "FAIL"]

_DISTRIBUTION = "tiny-transformer"
_MODULES = {"pyyaml": "yaml"}  # where a distribution's module has another name
_NOTEBOOKS = ("jupyterlab", "ipykernel")
_LEAST_PYTHON = (3, 11)
_LEAST_FREE = 1 << 30  # bytes; a run with a few checkpoints of the base model takes less


@dataclass(frozen=True)
class Outcome:
    """What a check saw."""

    status: Status
    finding: str


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    Attributes:
        name: what is checked.
        look: looks, and returns what it saw; to raise is to fail.
        remedy: what to do where it is not well.
    """

    name: str
    look: Callable[[], Outcome]
    remedy: str


@dataclass(frozen=True)
class Result:
    """A check's outcome; `remedy` is empty where all is well."""

    name: str
    status: Status
    finding: str
    remedy: str = ""


def run_check(check: Check) -> Result:
    """Run one check; whatever it raises becomes a FAIL with the message and the remedy."""
    try:
        outcome = check.look()
    except Exception as error:  # a doctor who faints helps nobody
        kind = "" if isinstance(error, TinyError) else f"{type(error).__name__}: "
        return Result(check.name, "FAIL", f"{kind}{str(error) or 'no message'}", check.remedy)
    remedy = "" if outcome.status == "OK" else check.remedy
    return Result(check.name, outcome.status, outcome.finding, remedy)


def expect(condition: bool, finding: str, otherwise: str) -> Outcome:
    """Return OK with `finding` where `condition` holds, else FAIL with `otherwise`."""
    return Outcome("OK", finding) if condition else Outcome("FAIL", otherwise)


def check_python() -> Outcome:
    """Python is recent enough."""
    least = ".".join(map(str, _LEAST_PYTHON))
    found = f"Python {platform.python_version()} at {sys.executable}"
    return expect(sys.version_info[:2] >= _LEAST_PYTHON, found, f"{found}; {least} is needed")


def check_packages() -> Outcome:
    """The package and all that it depends on are installed, recent enough and importable."""
    versions = [f"{_DISTRIBUTION} {importlib.metadata.version(_DISTRIBUTION)}"]
    problems = []
    for line in importlib.metadata.requires(_DISTRIBUTION) or []:
        requirement, _, marker = line.partition(";")
        wanted = re.fullmatch(r"\s*([\w.-]+)\s*(?:>=\s*([\w.]+))?.*", requirement)
        if wanted is None or "extra" in marker:
            continue
        name, least = wanted.groups()
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is missing")
            continue
        versions.append(f"{name} {version}")
        if least and _release(version) < _release(least):
            problems.append(f"{name} is {version}, and {least} is needed")
        try:
            importlib.import_module(_MODULES.get(name, name))
        except ImportError as error:
            problems.append(f"{name} {version} cannot be imported: {error}")
    return expect(not problems, ", ".join(versions), "; ".join(problems))


def _release(version: str) -> tuple[int, ...]:
    """Return `(2, 13, 0)` for `"2.13.0+cpu"`."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


def check_torch() -> Outcome:
    """PyTorch can be imported and can add."""
    import torch

    total = (torch.ones(2, 3) + 1).sum().item()
    return expect(total == 12, f"torch {torch.__version__}", f"the sum of six twos is {total}")


def check_device() -> Outcome:
    """Which device `auto` takes, and why."""
    import torch

    from tiny_transformer.runtime.device import resolve_device
    from tiny_transformer.runtime.environment import processor_name

    device = resolve_device("auto")
    if device.type == "cuda":
        return Outcome("OK", f"cuda ({torch.cuda.get_device_name(device)})")
    if device.type == "mps":
        return Outcome("OK", "mps (no CUDA; this Mac's graphics processor)")
    return Outcome("OK", f"cpu (neither CUDA nor MPS; {processor_name()})")


def check_threads() -> Outcome:
    """PyTorch uses no more threads than there are cores."""
    import torch

    threads, cores = torch.get_num_threads(), _usable_cores()
    finding = f"{threads} threads on {cores} usable cores"
    return Outcome("OK" if threads <= cores else "WARN", finding)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_folder(folder: Path) -> Outcome:
    """A folder, or the nearest one above it that exists, takes a file and has room."""
    from tiny_transformer.runtime import files

    folder = folder.expanduser().absolute()
    place = next(path for path in [folder, *folder.parents] if path.exists())
    probe = place / f".tiny-doctor-{secrets.token_hex(4)}"
    files.write_bytes(probe, b"can this folder be written to?")
    probe.unlink()
    free = shutil.disk_usage(place).free
    there = "" if place == folder else ", made when it is needed"
    finding = f"{folder}{there}: writable, {free / (1 << 30):,.1f} GiB free"
    return Outcome("OK" if free >= _LEAST_FREE else "WARN", finding)


def check_cache_folder() -> Outcome:
    """The folder of prepared corpora can be written to."""
    from tiny_transformer.data.cache import cache_folder

    return check_folder(cache_folder())


def check_corpus() -> Outcome:
    """The default corpus is installed."""
    from tiny_transformer.data.shakespeare import shakespeare_documents

    return Outcome("OK", f"{len(shakespeare_documents())} plays by Shakespeare")


def check_git() -> Outcome:
    """Git is there, to record each run's commit."""
    path = shutil.which("git")
    return Outcome("OK", path) if path else Outcome("WARN", "git is not on the PATH")


def check_notebooks() -> Outcome:
    """Jupyter and a kernel are there, for the course's notebooks."""
    missing = [name for name in _NOTEBOOKS if importlib.util.find_spec(name) is None]
    if not missing:
        return Outcome("OK", f"{' and '.join(_NOTEBOOKS)} are installed")
    finding = f"no {' and no '.join(missing)}; only the course's notebooks need them"
    return Outcome("WARN", finding)
