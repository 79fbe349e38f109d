"""The virtio-blk device (virtio 1.4, 5.2)."""

from __future__ import annotations

import errno
import logging
import struct
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
import trio

from paravirt.transport import NegotiationError
from paravirt.transport.wire.block import (
    DEVICE_ID,
    HEADER,
    ID_BYTES,
    SECTOR,
    SEGMENT,
    UNMAP,
    WRITEBACK_AT,
    BlockFeature,
    BlockStatus,
    BlockType,
)

from ..._device import Device
from ..._request import RequestError
from ._ahead import Ahead
from ._image import Image
from ._offer import (
    DISCARD_SECTORS,
    SEGMENTS,
    ZERO_SECTORS,
    check_arguments,
    offered_config,
    offered_features,
)
from ._opening import ImageError
from ._saved import load_disk, save_disk
from ._writer import Writer

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable

    from paravirt.transport import DeviceRing

    from ..._ended import EndedRing
    from ..._request import Request
    from ._writer import RunBlocking

_IN_LINE_BYTES = 1 << 20
# A longer request is left to a thread even if its bytes are at hand: its length is the guest's
# choice, and the copy would hold up the loop by some 100 us a MiB.

_HEADER_BYTES = HEADER.size
_OK = bytes([BlockStatus.OK])
_IOERR = int(BlockStatus.IOERR)
_UNSUPP = int(BlockStatus.UNSUPP)
_IN = int(BlockType.IN)  # plain integers: an enum's member takes three times as long to compare
_OUT = int(BlockType.OUT)
_FLUSH = int(BlockFeature.FLUSH)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_log = logging.getLogger("paravirt.block")


class Block(Device):
    """A disk over a file or a block device.

        with Block("disk.img") as disk:
            await serve(disk, link)

    What the page cache has is read in line; what has to be waited for is done in a thread, so that
    one slow read holds up nobody. Any task may read `errors`, or call `resize`, while it is served.
    """

    device_id = DEVICE_ID
    header_size = HEADER.size

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        queues: int = 1,
        queue_size: int = 256,
        block_size: int = SECTOR,
        physical_block_size: int | None = None,
        serial: str = "",
        writeback: bool = True,
        migratable: bool = False,
        run_blocking: RunBlocking = trio.to_thread.run_sync,
    ) -> None:
        """Open an image, which is locked until `close`.

        With `migratable` it is locked from the first write of a guest until its queues stop: a
        second backend may have it open too, and the guest migrates from one to the other.

        `block_size` is the unit that the guest should use, `physical_block_size` what the storage
        prefers. Without `writeback`, each write is on the storage when it completes; a guest may
        switch. `run_blocking` awaits a function that blocks; one that just calls it makes tests
        deterministic. It must not return before the function does, cancelled or not.

        Raises `ImageError` for the image and `ValueError` for another argument.
        """
        physical = physical_block_size or block_size
        check_arguments(queues, queue_size, block_size, physical, serial)
        self.errors: Counter[str] = Counter()
        """Requests that failed on the host, by the name of the error (`ENOSPC`)."""
        self.queue_sizes = (queue_size,) * queues
        self.features = offered_features(read_only=read_only, queues=queues)
        self._image = Image(
            Path(path), read_only=read_only, block_size=block_size, migratable=migratable
        )
        self._id = serial.encode("ascii").ljust(ID_BYTES, b"\0")
        self._run_blocking = run_blocking
        self._writer = Writer(self._image, run_blocking)
        self.config = self._space = offered_config(
            self._image.size,
            queues=queues,
            queue_size=queue_size,
            block_size=block_size,
            physical_block_size=physical,
            writeback=writeback,
            read_only=read_only,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what was written, and unlock the image; idempotent.

        Raises `OSError` if the storage did not take it. The image is closed all the same.
        """
        self._image.close()

    @property
    def capacity(self) -> int:
        """The size of the disk in bytes."""
        return self._image.size

    def resize(self) -> int:
        """Make the disk as large as the image is by now, and tell the driver; returns its bytes.

        Raises `ImageError`, changing nothing, for a size that is no multiple of the block size.
        """
        size = self._image.measure()
        self._change_config(capacity=size // SECTOR)
        return size

    async def run(self, nursery: trio.Nursery) -> None:
        """Begin without a cache for a driver that could not flush it (5.2.5.2).

        If it is `migratable`, hand the image over when the queues stop.
        """
        del nursery
        features = self.driver_features
        if features & BlockFeature.CONFIG_WCE and not features & BlockFeature.FLUSH:
            self._change_config(writeback=0)
        if self._image.migratable:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await self._hand_over()

    async def _hand_over(self) -> None:
        try:
            await self._run_blocking(self._image.hand_over)
        except OSError as error:
            _log.error("%s stays locked: %s", self._image.path, error)

    def save_state(self) -> bytes:
        """Return what a driver knows of the disk, and the cache mode that it chose."""
        return save_disk(self._space, self._id)

    def load_state(self, state: bytes) -> None:
        """Go on as the disk that was saved: this one must look the same to the driver."""
        writeback = load_disk(state, self._space, self._id)
        self._change_config(writeback=writeback)

    def config_written(self, offset: int, data: bytes) -> None:
        """Switch the cache mode; nothing else is the driver's to write (5.2.5)."""
        offered = self.features & BlockFeature.CONFIG_WCE
        if not offered or offset != WRITEBACK_AT or data not in (b"\0", b"\1"):
            raise NegotiationError(
                f"the driver may not write {data.hex()} at {offset}", clause="5.2.5"
            )
        self._change_config(writeback=data[0])

    def fail(self, request: Request, error: BaseException) -> bool:
        """Make the last byte of the reply the status; with no room for one, there is none."""
        status = error.status if isinstance(error, RequestError) else _IOERR
        if request.writable:
            request.write_at(request.writable - 1, bytes([status]))
        return True

    def ahead(self) -> Callable[[DeviceRing, int], bool] | None:
        """Do plain reads and writes in C, unless a subclass has a handler of its own."""
        if type(self).handle is not Block.handle:
            return None
        return Ahead(self._image, self._must_commit).run

    def handle(self, request: Request) -> Awaitable[None] | None:
        """Carry out one request: at once if nothing has to be waited for, else in a thread."""
        try:
            kind, sector = HEADER.unpack(request.read(_HEADER_BYTES))
        except struct.error:
            raise RequestError(_IOERR, "a header of fewer than 16 bytes") from None
        if kind == _IN:
            return self._read(request, sector * SECTOR)
        if not request.writable:
            raise RequestError(_IOERR, "no room for a status")
        if kind == _OUT:
            return self._write(request, sector * SECTOR)
        return self._handle_other(request, kind)

    def _handle_other(self, request: Request, kind: int) -> Awaitable[None] | None:
        match kind:
            case BlockType.FLUSH:
                return self._in_thread(request, self._image.sync)
            case BlockType.GET_ID:
                request.write(self._id[: request.writable - 1])
                request.write_at(request.writable - 1, _OK)
                return None
            case BlockType.DISCARD:
                return self._discard(request)
            case BlockType.WRITE_ZEROES:
                return self._write_zeroes(request)
            case _:
                raise RequestError(_UNSUPP, f"a request of type {kind}")

    def _read(self, request: Request, position: int) -> Awaitable[None] | None:
        size = request.writable - 1  # -1 without room for a status: no multiple of 512
        self._check_range(position, size)
        image, moved = self._image, 0
        flags = image.read_flags
        if flags is not None and size <= _IN_LINE_BYTES:
            try:
                moved = request.write_from_file(image.fd, position, size, flags, _OK)
            except BlockingIOError:
                pass
            except OSError as error:
                raise self._failed(error) from error
            if moved == size:
                return None
        job = partial(image.read, request, position + moved, size - moved)
        return self._in_thread(request, job)

    def _write(self, request: Request, position: int) -> Awaitable[None] | None:
        size = request.readable - _HEADER_BYTES
        self._check_writable()
        self._check_range(position, size)
        image, moved = self._image, 0
        flags = image.write_flags
        # One that has to be stable is done in line only in memory, where it is all the same.
        if (
            flags is not None
            and size <= _IN_LINE_BYTES
            and not (flags and self._is_stable(request))
        ):
            try:
                moved = request.read_to_file(image.fd, position, size, flags, _OK)
                image.wrote()
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise self._failed(error) from error
                image.write_flags = None
            if moved == size:
                return None
        stable = self._is_stable(request)
        return self._write_in_thread(request, position + moved, size - moved, stable=stable)

    def _discard(self, request: Request) -> Awaitable[None]:
        ranges = self._ranges(request, flags=0, sectors=DISCARD_SECTORS)
        return self._in_thread(request, *(partial(self._image.discard, *one[:2]) for one in ranges))

    def _write_zeroes(self, request: Request) -> Awaitable[None]:
        ranges = self._ranges(request, flags=UNMAP, sectors=ZERO_SECTORS)
        zero = self._image.zero
        jobs = [partial(zero, at, size, unmap=flags != 0) for at, size, flags in ranges]
        if self._is_stable(request):
            jobs.append(partial(self._image.sync))
        return self._in_thread(request, *jobs)

    def _ranges(self, request: Request, *, flags: int, sectors: int) -> list[tuple[int, int, int]]:
        """Read the segments of a request as position, bytes and flags.

        At most `sectors` in one, and no flags but these.
        """
        size = request.readable - _HEADER_BYTES
        if not 0 < size <= SEGMENTS * SEGMENT.size or size % SEGMENT.size:
            raise RequestError(_IOERR, f"{size} bytes of segments")
        segments = list(SEGMENT.iter_unpack(request.read()))
        if any(given & ~flags for _, _, given in segments):
            raise RequestError(_UNSUPP, "a flag that is unknown here")
        self._check_writable()
        for first, count, _ in segments:
            if count > sectors:
                raise RequestError(_IOERR, f"{count} sectors in one segment")
            self._check_range(first * SECTOR, count * SECTOR)
        return [(first * SECTOR, count * SECTOR, given) for first, count, given in segments]

    def _check_range(self, position: int, size: int) -> None:
        if size & (SECTOR - 1) or position + size > self._image.size:
            raise RequestError(_IOERR, f"{size} bytes at {position}")

    def _check_writable(self) -> None:
        if self._image.read_only:
            raise RequestError(_IOERR, "the disk is read-only")
        if not self._image.locked:
            self._lock()

    def _lock(self) -> None:
        """Lock the image for a guest that begins to write to it."""
        try:
            self._image.lock()
        except ImageError as error:
            self.errors["EBUSY"] += 1
            if self.errors["EBUSY"] == 1:
                _log.error("%s; the guest is told of each write", error)
            raise RequestError(_IOERR, str(error)) from None

    def _is_stable(self, request: Request) -> bool:
        """Say whether a write has to be on the storage when it completes (5.2.6.2)."""
        return self._must_commit(self.queue(request.queue).ring)

    def _must_commit(self, ring: DeviceRing | EndedRing) -> bool:
        return not (self._space.writeback and ring.geometry.features & _FLUSH)

    async def _write_in_thread(
        self, request: Request, position: int, size: int, *, stable: bool
    ) -> None:
        try:
            await self._writer.write(request, position, size, stable=stable)
        except OSError as error:
            raise self._failed(error) from error
        request.write_at(request.writable - 1, _OK)

    async def _in_thread(self, request: Request, *jobs: Callable[[], None]) -> None:
        """Do blocking work, then complete the request; a reset waits for one job at most."""
        try:
            for job in jobs:
                await self._run_blocking(job)
        except OSError as error:
            raise self._failed(error) from error
        request.write_at(request.writable - 1, _OK)

    def _failed(self, error: OSError) -> RequestError:
        """Count an error of the host, and log the first of its kind."""
        name = errno.errorcode.get(error.errno or errno.EIO, "EIO")
        self.errors[name] += 1
        if self.errors[name] == 1:
            todo = "make room there" if error.errno in _FULL else "check its storage"
            _log.error("%s: %s; the guest is told of each: %s", self._image.path, error, todo)
        return RequestError(_IOERR, str(error))

    def _change_config(self, **fields: int) -> None:
        space = msgspec.structs.replace(self._space, **fields)
        if space != self._space:
            self.config = self._space = space
