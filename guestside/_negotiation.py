"""Bring a device up as a driver must (virtio 1.4, 3.1.1), and reset it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport import (
    TRANSPORT_FEATURES,
    DriverRing,
    Feature,
    NegotiationError,
    RingGeometry,
    Status,
    describe_features,
)

from ._client import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from paravirt.transport.link import DriverLink

    from ._pool import BufferPool

__all__ = ()  # of use to this room only

TABLE_MAX = 8
"""Entries of an indirect table: a request of ours has two buffers, a user's own chain up to 8."""


async def reset(link: DriverLink, wait_changed: Callable[[], Awaitable[None]]) -> None:
    """Reset the device and wait until it says so (2.4.2)."""
    await link.set_status(0)
    while await link.get_status():
        await wait_changed()


async def negotiate(link: DriverLink, device_id: int | None, wanted: int) -> int:
    """Agree on features with a device that was reset; returns them.

    Raises `NegotiationError` for a device of another type, and one that refuses the features. A
    link whose transport does not tell the type says 0, which is none (5).
    """
    if device_id not in (None, link.device_id) and link.device_id:
        raise NegotiationError(f"the device has type {link.device_id}, not {device_id}")
    await link.set_status(Status.ACKNOWLEDGE)
    status = Status.ACKNOWLEDGE | Status.DRIVER
    await link.set_status(status)
    features = int(link.device_features & (TRANSPORT_FEATURES | wanted))
    await link.set_features(features)
    status |= Status.FEATURES_OK
    await link.set_status(status)
    if not await link.get_status() & Status.FEATURES_OK:  # 3.1.1: re-read, the device may refuse
        await link.set_status(status & ~Status.FEATURES_OK | Status.FAILED)
        names = ", ".join(describe_features(features))
        raise NegotiationError(f"the device refused the features {names}", clause="2.2.2")
    return features


async def set_up_queues(
    link: DriverLink, pool: BufferPool, features: int, size_limit: int | None
) -> list[Client]:
    """Lay out every queue in the pool, and give it to the device.

    Raises `MemoryError` if the pool is too small.
    """
    pool.clear()
    sizes = [min(size, size_limit or size) for size in link.queue_sizes]
    places = [pool.allocate(RingGeometry.contiguous(size, 0).end) for size in sizes]
    clients: list[Client] = []
    for index, (size, ring_at) in enumerate(zip(sizes, places, strict=True)):
        tables_at = 0
        if features & Feature.RING_INDIRECT_DESC:
            tables_at = pool.allocate(size * TABLE_MAX * 16) or 0
        if ring_at is None:
            raise MemoryError(f"no room for queue {index} of {size} in the shared memory")
        geometry = RingGeometry.contiguous(size, ring_at, features)
        ring = DriverRing(link.memory, geometry, tables=tables_at, table_max=TABLE_MAX)
        ring.concurrent = link.concurrent
        ring.disarm()
        await link.set_queue(index, size, geometry.desc, geometry.driver, geometry.device)
        clients.append(Client(ring, pool, link, index))
    pool.settle()
    return clients


async def finish(link: DriverLink) -> None:
    """Say DRIVER_OK: from here on both sides may use the queues."""
    await link.set_status((await link.get_status()) | Status.DRIVER_OK)
