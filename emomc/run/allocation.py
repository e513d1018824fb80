"""Freed memory that stays with the process.

An evaluation allocates and frees the same few feature maps again and again. Where glibc hands each of them back to the
kernel, every pass gets fresh pages, which takes about as long as the network itself: by default for the largest
blocks, and for all of them in Dask's workers, which are started with a low ``MALLOC_TRIM_THRESHOLD_``.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of parameters in glibc's malloc.h
_KEPT = 256 * 2**20  # bytes of freed memory that a process keeps at most
_LARGEST = 32 * 2**20  # bytes; blocks above go back to the kernel, glibc takes no larger limit


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to 256 MB; does nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, _KEPT)
    mallopt(_MMAP_THRESHOLD, _LARGEST)
