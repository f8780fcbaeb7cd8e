"""Freed memory is kept for the next step, where the C library lets itself be asked for that.

glibc hands large blocks back to the system as they are freed, and the system clears each
page anew when it is given out again: a training step of the base model touched about 40,000
pages for the first time, every step. Nothing is computed otherwise.
"""

from __future__ import annotations

import ctypes
import functools

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_NEVER = (1 << 31) - 1
_LARGEST = 1 << 30  # bytes; larger blocks come from the system as before


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory; return whether it will.

    Holds for the whole process, and once is enough. Elsewhere than on glibc (macOS, musl)
    nothing is changed.
    """
    try:
        library = ctypes.CDLL(None)
        is_glibc = hasattr(library, "gnu_get_libc_version")
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    if not is_glibc:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _NEVER)
    return bool(kept)
