"""Memory that was freed is used again, instead of asked for anew."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from tiny_transformer.runtime import allocator
from tiny_transformer.runtime.allocator import keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"
PROGRAM = """
import resource, torch
from tiny_transformer.runtime.allocator import keep_freed_memory
{call}
def touch():
    for _ in range(20):
        torch.ones(1 << 24)  # 64 MiB
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def first_touches(call: str) -> int:
    """Return how many pages a process touches for the first time in twenty tensors of 64 MiB."""
    words = [sys.executable, "-c", PROGRAM.format(call=call)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout)


@pytest.mark.requirement("speed.allocator")
@pytest.mark.skipif(not GLIBC, reason="only glibc lets itself be asked")
def test_freed_memory_is_not_touched_for_the_first_time_again() -> None:
    assert keep_freed_memory()
    kept = first_touches("assert keep_freed_memory()")
    assert kept < 1000
    assert first_touches("") > 20 * kept + 1000  # huge pages or none: far more without


@pytest.mark.requirement("speed.allocator")
@pytest.mark.parametrize("library", [object(), None])
def test_another_c_library_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, library: object | None
) -> None:
    def load(name: None) -> object:
        if library is None:
            raise OSError("no library")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    keep_freed_memory.cache_clear()
    try:
        assert allocator.keep_freed_memory() is False
    finally:
        keep_freed_memory.cache_clear()
