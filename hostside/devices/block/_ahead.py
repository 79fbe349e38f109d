"""Plain reads and writes, done in C before a request is made of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport.disk import PlainDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.transport import DeviceRing

    from ._image import Image

__all__ = ()


class Ahead:
    """Does in line what `Block.handle` would, for requests that nothing is special about."""

    def __init__(self, image: Image, must_commit: Callable[[DeviceRing], bool]) -> None:
        self._image = image
        self._must_commit = must_commit
        self._disk = PlainDisk()

    def run(self, ring: DeviceRing, spin_ns: int) -> bool:
        """Carry out what can be done at once; returns whether to call again (`Device.ahead`)."""
        image, disk = self._image, self._disk
        writes = image.write_flags
        # As with a request of its own: a write that has to be stable is done here only in memory.
        if image.read_only or not image.locked or (writes and self._must_commit(ring)):
            writes = None
        try:
            return disk.run(ring, image.fd, image.size, image.read_flags, writes, spin_ns)
        finally:
            if disk.wrote:
                image.wrote()
