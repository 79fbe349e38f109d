"""The C core, CPUs, and memory that can be shared."""

from __future__ import annotations

import fcntl
import importlib
import mmap
import os
from pathlib import Path

from ._check import Check

HUGE_PAGES = Path("/sys/kernel/mm/hugepages")


def host_checks() -> list[Check]:
    """Make the checks that need no device."""
    return [check_core(), check_cpus(), check_eventfd(), check_sealing(), check_huge_pages()]


def check_core(module: str = "paravirt.transport._core") -> Check:
    """Say whether the C core is built and can be loaded."""
    try:
        core = importlib.import_module(module)
    except ImportError as error:
        return Check("c-core", False, f"not built: run `make install` ({error})")
    return Check("c-core", True, f"built: {Path(str(core.__file__)).name}")


def check_cpus(usable: set[int] | None = None) -> Check:
    """Say whether a driver and a device can run at the same time."""
    count = len(os.sched_getaffinity(0) if usable is None else usable)
    if count > 1:
        return Check("cpus", True, f"{count} usable: driver and device run at the same time")
    return Check("cpus", False, "1 usable: driver and device take turns; allow a second CPU")


def check_eventfd() -> Check:
    """Say whether there are eventfds."""
    try:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except OSError as error:
        return Check("eventfd", False, f"{error.strerror}: raise the limit, ulimit -n")
    os.close(fd)
    return Check("eventfd", True, "threads and processes can wake each other")


def check_sealing() -> Check:
    """Say whether shared memory can be sealed against shrinking."""
    name = "memfd-sealing"
    try:
        fd = os.memfd_create("paravirt-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return Check(name, False, f"{error.strerror}: needs Linux 3.17, or allow memfd_create")
    try:
        os.ftruncate(fd, mmap.PAGESIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        os.ftruncate(fd, 0)
    except PermissionError:
        return Check(name, True, "shared memory keeps its size whatever a peer does")
    except OSError as error:
        return Check(name, False, f"{error.strerror}: allow memfd seals in this sandbox")
    finally:
        os.close(fd)
    return Check(name, False, "a seal had no effect: update the kernel")


def check_huge_pages(folder: Path = HUGE_PAGES) -> Check:
    """Count the free huge pages, the smallest kind with a free one first."""
    name = "huge-pages"
    pools = sorted(folder.glob("hugepages-*kB"), key=_kib)
    if not pools:
        return Check(name, False, "the kernel has none: build it with CONFIG_HUGETLBFS")
    for pool in pools:
        free = int((pool / "free_hugepages").read_text())
        if free:
            return Check(name, True, f"{free} free of {_kib(pool) >> 10} MiB each")
    size = _kib(pools[0]) >> 10
    return Check(name, False, f"0 free of {size} MiB each: sudo sysctl vm.nr_hugepages=64")


def _kib(pool: Path) -> int:
    return int(pool.name.removeprefix("hugepages-").removesuffix("kB"))
