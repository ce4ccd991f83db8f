"""Keep freed memory for the next step.

glibc gives every large freed block back to the kernel, which zeroes it page by page when it is asked for again. A training step frees
and takes hundreds of megabytes, and spends a quarter of its time there (measured: `docs/decisions/0010-heap.md`). Two settings of the
allocator keep the pages in the process; its peak stays what it was.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


@cache
def keep_pages() -> bool:
    """Tell the allocator, once per process; False where it is not glibc's, and nothing is changed.

    >>> keep_pages() == keep_pages()
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
