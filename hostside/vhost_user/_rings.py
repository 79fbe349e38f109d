"""The queues of one connection: which of them run, and how they are started and stopped."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from paravirt.transport import PeerError, Status
from paravirt.transport.link import DriverReady, QueueStart, QueueStop, Reset
from paravirt.transport.vhost_user import PROTOCOL_FEATURES, ProtocolFeature

from ._log import Log
from ._regions import Regions
from ._vring import Vring, check_apart, parts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from paravirt.transport.inflight import InflightFile

    from ._link import BackendLink
    from ._offer import Offer
    from ._regions import AddressSpace

__all__ = ()  # of use to this room only

POLL = 0.001
"""Seconds between two looks whether a queue took up what it has to before it may stop."""


class Rings:
    """Starts each ring when all that it needs was said, whatever the order, and stops it again.

    Peers differ in their order of messages, so after each message `refresh` asks `may_run` anew.
    """

    def __init__(self, vrings: Sequence[Vring], link: BackendLink, offer: Offer) -> None:
        self.vrings = vrings
        self.regions = Regions()
        self.log = Log()
        self.features: int | None = None
        """What the driver accepted; None before the frontend said it."""
        self.inflight: InflightFile | None = None
        """Where it is noted what is in hand, if the frontend wants to know."""
        self._link = link
        self._offer = offer
        self._live = False
        """The server was told that a driver is there."""
        self._generation = 0

    @property
    def running(self) -> list[Vring]:
        """The queues that run."""
        return [vring for vring in self.vrings if vring.ring is not None]

    def get(self, index: int) -> Vring:
        """Return a queue. Raises `PeerError` if the device has none of that index."""
        if index >= len(self.vrings):
            raise PeerError(f"queue {index} was named, of {len(self.vrings)}", clause="2.6")
        return self.vrings[index]

    def may_run(self, vring: Vring) -> bool:
        """Say whether this ring may run: the one place that knows."""
        if self.features is None or not len(self.regions) or not vring.complete:
            return False
        # What is written before the log is there would not be migrated.
        if self.log.lacks_base and ProtocolFeature.LOG_SHMFD in self._link.protocol:
            return False
        if not self._driver_is_ok():
            return False
        if vring.enabled is None:  # without protocol features there is nothing to enable it with
            return not self.features & PROTOCOL_FEATURES
        return vring.enabled

    def _driver_is_ok(self) -> bool:
        """Say whether the driver may have buffers for us: with STATUS we hear of DRIVER_OK (2.1.2).

        QEMU 7.2 starts its back-ends when the driver says so, and passes it on at the end for some
        types, for others (entropy) never: of theirs FEATURES_OK alone is heard, which no driver has
        without DRIVER.
        """
        status = self._link.status
        if ProtocolFeature.STATUS not in self._link.protocol or status & Status.DRIVER_OK:
            return True
        return bool(status & Status.FEATURES_OK) and not status & Status.DRIVER

    async def refresh(self, *, waiting: bool = False) -> None:
        """Start and stop what is to be started and stopped; waits for what is taken to be done.

        With `waiting` a ring that lies outside of memory is left for a later message to mend.
        Raises `PeerError` for a ring that cannot be.
        """
        ended = [vring for vring in self.running if not self.may_run(vring)]
        await self.stop(ended, suspend=self._may_suspend)
        for vring in self.vrings:
            if vring.ring is None and self.may_run(vring):
                try:
                    self._start(vring)
                except PeerError:
                    vring.ring = None
                    if not waiting:
                        vring.drop_kick()  # or every later message would meet it again
                        raise
        if self._live and not self.running:  # all rings stopped: the device is suspended
            await self._suspend()

    async def halt(self, vring: Vring) -> None:
        """Stop a ring for good; what is in hand is left to whoever starts it, where that may be."""
        await self.stop([vring], suspend=self._may_suspend)

    @property
    def _may_suspend(self) -> bool:
        """Whether the frontend expects that a queue which stops leaves something in hand.

        It does for GET_VRING_BASE, and QEMU disables a queue before that, so there too.
        """
        agreed = ProtocolFeature.GET_VRING_BASE_INFLIGHT in self._link.protocol
        return agreed and self.inflight is not None

    async def stop(self, vrings: Iterable[Vring], *, suspend: bool = False) -> None:
        """Stop rings: nothing new is taken, and what was taken is waited for.

        What another backend took counts as taken too: the base, all that a frontend gets, says
        nothing of it. With `suspend` none of it is waited for, and the inflight file keeps it.
        """
        waits: list[tuple[Vring, trio.Event]] = []
        for vring in vrings:
            if vring.ring is not None:
                # Rare, since only a stop right at the start meets any.
                while vring.ring.left_behind and not suspend:  # noqa: ASYNC110
                    await trio.sleep(POLL)
                drained = trio.Event()
                self._link.change(QueueStop(vring.index, drained.set, suspend))
                waits.append((vring, drained))
        for vring, drained in waits:
            await drained.wait()
            vring.stopped()

    @asynccontextmanager
    async def paused(self) -> AsyncGenerator[None, None]:
        """Stop all rings while memory changes; they go on from where they were."""
        await self.stop(self.running)
        try:
            yield
        finally:
            await self.refresh(waiting=True)

    async def reset(self) -> None:
        """Cancel what is under way and forget what was said of the rings."""
        await self._suspend()
        for vring in self.vrings:
            vring.clear()
        if self.inflight is not None:
            self.inflight.forget()

    def keep_inflight(self, file: InflightFile | None) -> None:
        """Note in this file what is in hand; one before is closed. No ring may run."""
        old, self.inflight = self.inflight, file
        if old is not None:
            old.close()

    def close(self) -> None:
        """Close memory and descriptors; idempotent. The server must be done with them."""
        for vring in self.vrings:
            vring.close()
        self.keep_inflight(None)
        self.log.close()
        self.regions.close()

    async def _suspend(self) -> None:
        done = trio.Event()
        self._live = False
        self._link.change(Reset(done.set))
        await done.wait()

    def _start(self, vring: Vring) -> None:
        features = self.features or 0
        self._offer.check_usable(features)
        self._generation += 1
        by_guest = ProtocolFeature.GPA_ADDRESSES in self._link.protocol
        space: AddressSpace = "guest" if by_guest else "frontend"
        ring = vring.start(self.regions, features, self._generation, space, self.inflight)
        assert vring.address is not None
        self.log.attach(ring, vring.address, self.regions)
        geometries = [other.geometry for other in self.running if other.geometry is not None]
        check_apart("guest memory", [part for one in geometries for part in parts(one)])
        assert vring.kick is not None
        self._link.change(QueueStart(vring.index, ring, vring.kick, vring.call))
        if not self._live:
            self._live = True
            self._link.change(DriverReady())
        vring.call.ring()  # whoever served this ring before may have owed one
