"""How the C library deals with freed memory."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_INT = 2**31 - 1
_NEVER = -1
_LARGEST_BEFORE_2_35 = 32 * 1024 * 1024


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks of this process for the next ones.

    By default every large block is mapped anew and filled with zeros page by page by the kernel: a third of the time of
    a call of the model on a CPU. Elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library: slower, not wrong
    if not mallopt(_MMAP_THRESHOLD, _LARGEST_INT):
        mallopt(_MMAP_THRESHOLD, _LARGEST_BEFORE_2_35)
    mallopt(_TRIM_THRESHOLD, _NEVER)
