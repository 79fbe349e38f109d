"""A load for measuring device servers: requests from a C loop, as a guest would send them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from paravirt.transport.bench import Load, LoadResult, lend

from ._base import DriverBase
from ._driver import Driver
from ._sync import SyncDriver

if TYPE_CHECKING:
    from collections.abc import Sequence
    from functools import partial


class _Loader(DriverBase):
    """A driver whose `run_load` keeps a queue full without the interpreter lock.

    For a thread of its own; a server in this process gets the interpreter for itself.
    """

    _load: Load | None = None
    _stopped = False

    def run_load(
        self,
        count: int,
        *,
        data: bytes = b"",
        reply_size: int = 0,
        depth: int = 64,
        queue: int = 0,
        blocking: bool = False,
        latencies: bool = False,
        stamps: Sequence[int] = (),
        stamp_offset: int = 0,
    ) -> LoadResult:
        """Send `count` requests of `data` with `depth` of them outstanding, and measure.

        With `blocking` it sleeps on the call doorbell between replies, else it looks all the time.
        With `stamps`, the next of them replaces 8 bytes at `stamp_offset` of each request.

        Until `stop_load`, it does not return while the device fails to answer. Raises `ValueError`
        for a depth that the queue has no room for, `MemoryError` if the buffers do not fit,
        `SwapRefused` for a kick without a descriptor, and `RingBroken`.
        """
        client = self._client(queue, submitting=False)
        if not 0 < depth <= client.ring.room:
            raise ValueError(f"depth {depth}: the queue has room for {client.ring.room}")
        buffers = [self._buffer(data, reply_size) for _ in range(depth)]
        ring, memory = client.ring, self.link.memory
        load = Load(ring, memory, buffers, stamps=stamps, stamp_offset=stamp_offset)
        self._load = load
        if self._stopped:  # before there was anything to stop
            load.stop()
        call_fd = client.call.fileno() if blocking else None
        try:
            with lend(client.kick) as kick:
                fd = -1 if call_fd is None else call_fd
                return load.run(count, kick=kick, call_fd=fd, latencies=latencies)
        finally:
            self._load = None
            for out, _, back, _ in buffers:
                self._pool.release(back, max(1, reply_size))
                self._pool.release(out, max(1, len(data)))

    def stop_load(self) -> None:
        """End a `run_load` early, from another thread."""
        self._stopped = True
        if self._load is not None:
            self._load.stop()

    def _buffer(self, data: bytes, reply_size: int) -> tuple[int, int, int, int]:
        back = self._pool.allocate(max(1, reply_size))
        out = self._pool.allocate(max(1, len(data)))
        if out is None or back is None:
            raise MemoryError("no room for so many requests in the shared memory")
        self.link.memory.write(out, data)
        return out, len(data), back, reply_size


class LoadDriver(_Loader, SyncDriver):
    """A `SyncDriver` with `run_load`."""


class AsyncLoadDriver(_Loader, Driver):
    """A `Driver` with `run_load`, for a link that lives in a trio run."""

    async def run_load_in_thread(self, load: partial[LoadResult]) -> LoadResult:
        """Run a load, `partial(driver.run_load, ...)`, in a thread, which is waited for.

        Cancelled, it ends the load. Raises what `run_load` raises, and `trio.BrokenResourceError`
        if the device goes away meanwhile.
        """
        self._stopped = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_gone)
            result = await trio.to_thread.run_sync(load)
            nursery.cancel_scope.cancel()
        if self.link.gone:
            raise trio.BrokenResourceError("the device is not served any more")
        return result

    async def _stop_when_gone(self) -> None:
        try:
            while not self.link.gone:
                await self._changed()
        except trio.BrokenResourceError:
            pass  # it went while this waited
        finally:
            self.stop_load()
