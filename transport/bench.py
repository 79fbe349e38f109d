"""Loops for measuring rings and servers, in C and without the interpreter lock.

Each is for one thread; two of them face each other on two CPUs (`pair`). Used by `paravirt bench`.
"""

from __future__ import annotations

import mmap
import os
import threading
from typing import TYPE_CHECKING

import msgspec

from ._core import ffi, lib
from ._errors import check
from ._lent import lend as lend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._device_ring import DeviceRing
    from ._driver_ring import Buffer, DriverRing
    from ._lent import LentBell
    from ._memory import Memory


def pair(first: Callable[[], int], second: Callable[[], int]) -> int:
    """Run two loops at once, each on a CPU of its own where there are two.

    Returns what `first` returned. Raises what either raised.
    """
    cpus = sorted(os.sched_getaffinity(0))
    results: dict[int, int] = {}
    errors: list[BaseException] = []

    def run(index: int, loop: Callable[[], int]) -> None:
        try:
            os.sched_setaffinity(0, {cpus[index % len(cpus)]})  # of this thread only
            results[index] = loop()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(index, loop), daemon=True)
        for index, loop in enumerate((first, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results[0]


def ping_pong_ns(rounds: int) -> float:
    """Bounce a cache line between two CPUs; returns nanoseconds a round trip."""
    line = ffi.new("uint32_t[64]")
    took = pair(
        lambda: lib.pv_bench_ping_pong(line, rounds, 0),
        lambda: lib.pv_bench_ping_pong(line, rounds, 1),
    )
    return took / rounds


def least_ring_ns(count: int, batch: int) -> float:
    """Send 16-byte entries through the least ring there can be; returns nanoseconds an entry."""
    page = mmap.mmap(
        -1, ffi.sizeof("struct pv_bench_spsc")
    )  # aligned to cache lines, as it must be
    ring = ffi.cast("struct pv_bench_spsc *", ffi.from_buffer(page))
    took = pair(
        lambda: lib.pv_bench_spsc(ring, count, batch, 0),
        lambda: lib.pv_bench_spsc(ring, count, batch, 1),
    )
    return took / count


def ring_ns(
    driver: DriverRing, device: DeviceRing, address: int, count: int, depth: int, batch: int
) -> float:
    """Send requests of one 64-byte buffer at `address` through a virtqueue, both ends polling.

    `depth` are outstanding and up to `batch`, 64 at most, published together. Returns nanoseconds a
    request, there and back. Neither end can be used again after an error, which raises
    `RuntimeError`.
    """
    took = pair(
        lambda: lib.pv_bench_driver(driver.c, address, count, depth, batch),
        lambda: lib.pv_bench_device(device.c, count, batch),
    )
    if not took:
        raise RuntimeError("a ring broke while it was measured")
    return took / count


class LoadResult(msgspec.Struct, frozen=True):
    """What a load measured."""

    requests: int
    """Requests answered."""
    seconds: float
    """How long it took."""
    kicks: int
    """Times that the device was rung."""
    calls: int
    """Times that the load slept and was woken."""
    bytes_out: int
    """Bytes that the device wrote."""
    latencies_ns: list[int]
    """Of each request, sorted; empty unless asked for."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    def percentile_us(self, percent: float) -> float:
        """Return a percentile of the latencies in microseconds. Raises `ValueError` without any."""
        if not self.latencies_ns:
            raise ValueError("latencies were not measured")
        last = len(self.latencies_ns) - 1
        return self.latencies_ns[round(last * percent / 100)] / 1000


class Load:
    """A guest's load: keeps `depth` requests outstanding on a queue, from a thread of its own.

    `buffers` has the memory of each of them. With `stamps`, the next of them is stored, 64 bits, at
    `stamp_offset` of a request before it is sent.
    """

    def __init__(
        self,
        ring: DriverRing,
        memory: Memory,
        buffers: Sequence[Buffer],
        *,
        stamps: Sequence[int] = (),
        stamp_offset: int = 0,
    ) -> None:
        """Take over a ring; raises `AddressError` for buffers outside memory.

        Raises `ValueError` for requests that are too small for a stamp.
        """
        if stamps and any(out_len < stamp_offset + 8 for _, out_len, _, _ in buffers):
            raise ValueError("a stamp would not fit in the request")
        self._ring = ring
        self._views = [memory.view(address, size)[0] for address, size, _, _ in buffers]
        self._pointers = [ffi.from_buffer("uint8_t[]", view) for view in self._views]
        rows = [(out, back, out_len, back_len) for out, out_len, back, back_len in buffers]
        self._buffers = ffi.new("struct pv_buffer[]", rows)
        self._out = ffi.new("uint8_t *[]", self._pointers)
        self._stamps = ffi.new("uint64_t[]", list(stamps))
        self._stamp_count = len(stamps)
        self._stamp_offset = stamp_offset
        self._depth = len(buffers)
        self._stop = ffi.new("int *", 0)

    def run(
        self,
        count: int,
        *,
        kick: LentBell | None = None,
        call_fd: int = -1,
        latencies: bool = False,
    ) -> LoadResult:
        """Send `count` requests and wait for the replies; blocks without the interpreter lock.

        Without a `kick` the device has to look by itself. `call_fd` makes it sleep between replies
        instead of looking. Raises `RingBroken`.
        """
        times = ffi.new("uint32_t[]", count) if latencies else ffi.NULL
        asked = ffi.new(
            "struct pv_bench_load *",
            {
                "buffers": self._buffers,
                "out": self._out,
                "stamps": self._stamps,
                "stamp_count": self._stamp_count,
                "stamp_offset": self._stamp_offset,
                "depth": self._depth,
                "kick": ffi.NULL if kick is None else kick.c,
                "call_fd": call_fd,
                "count": count,
                "latencies": times,
            },
        )
        check(lib.pv_bench_load_run(self._ring.c, asked, self._stop))
        return LoadResult(
            requests=asked.done,
            seconds=asked.elapsed_ns / 1e9,
            kicks=asked.kicks,
            calls=asked.calls,
            bytes_out=asked.bytes,
            latencies_ns=sorted(ffi.unpack(times, asked.done)) if latencies else [],
        )

    def stop(self) -> None:
        """End a `run` early, from another thread."""
        self._stop[0] = 1
