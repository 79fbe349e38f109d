"""Guest memory between fences: a byte read or written outside of it ends the process."""

from __future__ import annotations

import ctypes
import mmap
import os

from paravirt.transport._core import ffi
from paravirt.transport._region import Mapping, Region

PAGE = mmap.PAGESIZE
_LIBC = ctypes.CDLL(None, use_errno=True)


class FencedMapping(Mapping):
    """Anonymous pages, with one page before and one behind that nobody may touch."""

    def __init__(self, size: int, *, addr: int) -> None:
        assert size % PAGE == 0, "a fence stands at the border of a page"
        area = mmap.mmap(-1, size + 2 * PAGE)
        start = int(ffi.cast("uintptr_t", ffi.from_buffer(area)))
        for fence in (start, start + PAGE + size):
            assert _LIBC.mprotect(ctypes.c_void_p(fence), PAGE, 0) == 0
        self.memory = memoryview(area)[PAGE : PAGE + size]
        self.host = ffi.cast("uint8_t *", start + PAGE)
        self.addr = addr
        self.size = size
        self.guarded = False


def fenced_region(size: int, *, addr: int) -> Region:
    """Return a region of new memory with a fence at each end; its file is of no use."""
    return Region(FencedMapping(size, addr=addr), os.memfd_create("no"), offset=0, sealed=True)
