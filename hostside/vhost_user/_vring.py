"""What a frontend has said of one queue so far, in whatever order it said it."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

from paravirt.doorbells import Adaptive, EventFd, Polling
from paravirt.transport import DeviceRing, PeerError, RingGeometry

from ._bells import CallBell, adopt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from paravirt.doorbells import Doorbell
    from paravirt.transport import Memory
    from paravirt.transport.inflight import InflightFile
    from paravirt.transport.vhost_user import Descriptors
    from paravirt.transport.vhost_user.payloads import VringAddress

    from ._regions import AddressSpace, Regions

__all__ = ()  # of use to this room only

_log = logging.getLogger("paravirt.vhost_user")

MAX_SIZE = 32768
"""Entries of a split queue (2.7). vhost-user has no way to tell a frontend of a lower limit."""

TABLE = 1024
"""Descriptors of an indirect table that are taken at least, as QEMU does. The device's limits (a
disk's seg_max) are made for its own queue size, the frontend chooses a smaller one, and Linux keeps
to the limits: it then builds tables longer than the queue, which 2.7.5.3.1 forbids, and takes a
write that comes back refused for done."""


class Vring:
    """One queue: a store of fields. Whether it may run is for `Rings` to say."""

    def __init__(self, index: int, device_size: int) -> None:
        self.index = index
        self._table_max = max(TABLE, device_size)
        self.size = 0
        self.base = 0
        """The next available index, while the ring does not run."""
        self.address: VringAddress | None = None
        self.enabled: bool | None = None
        """What the frontend said of it; None if it said nothing."""
        self.kick: Doorbell | None = None
        """A queue with a kick is started; one without is stopped."""
        self.call = CallBell()
        self.ring: DeviceRing | None = None
        """The ring while it runs."""
        self.geometry: RingGeometry | None = None
        self._error: EventFd | None = None

    @property
    def complete(self) -> bool:
        """Whether all has been said that a ring needs of itself."""
        return bool(self.size) and self.address is not None and self.kick is not None

    def check_stopped(self, what: str) -> None:
        """Raise `PeerError` if the ring runs: its geometry is frozen."""
        if self.ring is not None:
            raise PeerError(f"{what} of queue {self.index} while it runs")

    def set_size(self, size: int) -> None:
        """Take the number of descriptors. Raises `PeerError` for one that cannot be (2.7)."""
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            text = f"queue {self.index} has size {size}, no power of two up to {MAX_SIZE}"
            raise PeerError(text, clause="2.7")
        self.size = size

    def set_base(self, base: int) -> None:
        """Take the available index to start at. Raises `PeerError` for one of more than 16 bits."""
        if base > 0xFFFF:
            raise PeerError(
                f"queue {self.index} starts at index {base:#x}: a split ring has 16 bits"
            )
        self.base = base

    def set_kick(self, fds: Descriptors) -> None:
        """Take the kick; without a descriptor the ring is looked at all the time."""
        kick: Doorbell = adopt(fds, Adaptive) or Polling()
        self.drop_kick()
        self.kick = kick

    def kick_in_band(self) -> None:
        """Be kicked by a message, which starts the ring as a descriptor would."""
        if self.kick is None:
            self.kick = Adaptive()
        self.kick.ring()

    def drop_kick(self) -> None:
        """Forget the kick, and so be stopped."""
        old, self.kick = self.kick, None
        if old is not None:
            old.close()

    def set_call(self, fds: Descriptors) -> None:
        """Take the call, at any time; a running ring may owe one."""
        self.call.replace(adopt(fds))
        if self.ring is not None:
            self.call.ring()

    def set_error(self, fds: Descriptors) -> None:
        """Take what is rung when the ring breaks."""
        error = adopt(fds)
        self._drop_error()
        self._error = error

    def signal_error(self) -> bool:
        """Tell the frontend that the ring broke; False if it gave no descriptor for that."""
        if self._error is None:
            return False
        self._error.ring()
        return True

    def start(
        self,
        regions: Regions,
        features: int,
        generation: int,
        space: AddressSpace,
        inflight: InflightFile | None,
    ) -> DeviceRing:
        """Make the ring, and have it take up what another backend left behind.

        Raises `PeerError` if it does not lie where a ring can, or for a table that cannot be true.
        """
        self.geometry = geometry = self._locate(regions, features, space)
        used = _index(regions.memory, geometry.device)
        avail = _index(regions.memory, geometry.driver)
        base, table = next_index(self.base, avail, used, self.size), None
        if inflight is not None:
            table = inflight.take_up(self.index, self.size, avail=avail, used=used)
            base = base if table.fresh else used
        if base != self.base:
            _log.info("queue %d: starts at %d, not at %d", self.index, base, self.base)
        try:
            self.ring = DeviceRing(
                regions.memory,
                geometry,
                table_max=max(self.size, self._table_max),
                generation=generation,
                avail=base,
                used=used,
                inflight=table,
            )
        except ValueError as error:
            raise PeerError(f"queue {self.index}: {error}", clause="2.7.1") from None
        return self.ring

    def stopped(self) -> None:
        """Remember where a ring that does not run any more has come to."""
        if self.ring is not None:
            self.base = (self.ring.indices[0] + self.ring.left_behind) & 0xFFFF
            self.ring = None

    def clear(self) -> None:
        """Forget all but call and error, which a frontend does not send again after a reset."""
        self.ring = None
        self.drop_kick()
        self.size = self.base = 0
        self.address = self.geometry = self.enabled = None

    def close(self) -> None:
        """Close all descriptors; idempotent."""
        self.drop_kick()
        self._drop_error()
        self.call.close()

    def _drop_error(self) -> None:
        if self._error is not None:
            self._error.close()
            self._error = None

    def _locate(self, regions: Regions, features: int, space: AddressSpace) -> RingGeometry:
        address = self.address
        assert address is not None
        desc, driver, device = part_sizes(self.size)
        geometry = RingGeometry(
            size=self.size,
            desc=regions.translate(address.desc, desc, space),
            driver=regions.translate(address.driver, driver, space),
            device=regions.translate(address.device, device, space),
            features=features,
        )
        check_apart(f"queue {self.index}", parts(geometry))
        return geometry


def next_index(base: int, avail: int, used: int, size: int) -> int:
    """Return the available index to start at where the frontend says `base`.

    One that lies outside of what is offered and not used is no driver's: DPDK's virtio-user says 0
    of a ring that it went on with. Then what the ring says counts, as it does for DPDK and QEMU.
    """
    offered = (avail - used) & 0xFFFF
    return used if (base - used) & 0xFFFF > offered and offered <= size else base


def _index(memory: Memory, part: int) -> int:
    """Read the index of a driver or a device ring."""
    return int.from_bytes(memory.read(part + 2, 2), "little")


def part_sizes(size: int) -> tuple[int, int, int]:
    """Return the bytes of descriptor table, driver ring and device ring (2.7)."""
    return 16 * size, 6 + 2 * size, 6 + 8 * size


def parts(geometry: RingGeometry) -> list[range]:
    """Return where the three parts of a ring lie."""
    starts = geometry.desc, geometry.driver, geometry.device
    sizes = part_sizes(geometry.size)
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def check_apart(what: str, ranges: Iterable[range]) -> None:
    """Raise `PeerError` if two ranges have bytes in common: each has one writer (2.7)."""
    for low, high in itertools.pairwise(sorted(ranges, key=lambda part: part.start)):
        if high.start < low.stop:
            raise PeerError(f"{what}: parts of queues overlap at {high.start:#x}", clause="2.7")
