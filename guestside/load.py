"""A load for measuring device servers: requests from a C loop, as a guest would send them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport.bench import Load, LoadResult

from ._sync import SyncDriver

if TYPE_CHECKING:
    from collections.abc import Sequence


class LoadDriver(SyncDriver):
    """A driver whose `run_load` keeps a queue full without the interpreter lock.

    For a thread of its own; the server gets the interpreter for itself.
    """

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

        It does not return while the device fails to answer. Raises `ValueError` for a depth that
        the queue has no room for, `MemoryError` if the buffers do not fit, and `RingBroken`.
        """
        client = self._client(queue, submitting=False)
        if not 0 < depth <= client.ring.room:
            raise ValueError(f"depth {depth}: the queue has room for {client.ring.room}")
        buffers = [self._buffer(data, reply_size) for _ in range(depth)]
        memory = self.link.memory
        load = Load(client.ring, memory, buffers, stamps=stamps, stamp_offset=stamp_offset)
        kick_fd, call_fd = client.kick.fileno(), client.call.fileno()
        try:
            return load.run(
                count,
                kick_fd=-1 if kick_fd is None else kick_fd,
                call_fd=-1 if call_fd is None or not blocking else call_fd,
                latencies=latencies,
            )
        finally:
            for out, _, back, _ in buffers:
                self._pool.release(back, max(1, reply_size))
                self._pool.release(out, max(1, len(data)))

    def _buffer(self, data: bytes, reply_size: int) -> tuple[int, int, int, int]:
        back = self._pool.allocate(max(1, reply_size))
        out = self._pool.allocate(max(1, len(data)))
        if out is None or back is None:
            raise MemoryError("no room for so many requests in the shared memory")
        self.link.memory.write(out, data)
        return out, len(data), back, reply_size
