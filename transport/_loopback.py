"""Device and driver in one process: one object that is both ends of a link."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import Direct, EventFd

from ._device_ring import DeviceRing
from ._errors import NegotiationError
from ._features import TRANSPORT_FEATURES, Feature
from ._geometry import RingGeometry
from ._memory import Memory
from ._region import Region
from ._state import DeviceState, Status
from ._swap import SwappableKick, SwapRefused
from .link import Change, ConfigWrite, DriverReady, QueueStart, Reset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.doorbells import Doorbell, DoorbellMaker

    from ._faults import Faults
    from .link import DeviceModel

MEMORY_SIZE = 64 << 20
"""Bytes of guest memory; pages that are never touched cost nothing."""
MEMORY_BASE = 1 << 20
"""Where it starts, so that address 0 and other small numbers are a driver's mistake that shows."""


def loopback(
    device: DeviceModel,
    *,
    doorbell: DoorbellMaker = EventFd,
    call_doorbell: DoorbellMaker | None = None,
    features: int = ~0,
    memory_size: int = MEMORY_SIZE,
    faults: Faults | None = None,
) -> Loopback:
    """Make a link to a device inside this process; nothing is started.

    `doorbell` makes the kick of each queue and, unless `call_doorbell` is given, the call too.
    `features` masks what is offered to the driver; one made of `Feature` says nothing about bits
    above those it names. With `Direct` both ends belong in one trio run;
    with any other kind the driver may run in another thread.

    Raises `ValueError` for a device that virtio does not allow.
    """
    return Loopback(device, doorbell, call_doorbell or doorbell, features, memory_size, faults)


class Loopback:
    """A `DeviceLink` and a `DriverLink` in one; made by `loopback`.

    What belongs to the driver's end raises `trio.ClosedResourceError` once that end is closed, and
    `trio.BrokenResourceError` once the device's end is.
    """

    needs_reset = False
    """Whether the device set DEVICE_NEEDS_RESET."""
    gone = False
    """Whether the device's end is closed."""
    _driver_gone = False
    _generation = 0
    _device_thread: int | None = None
    _driver_thread: int | None = None

    def __init__(
        self,
        device: DeviceModel,
        kick_maker: DoorbellMaker,
        call_maker: DoorbellMaker,
        features: int,
        memory_size: int,
        faults: Faults | None,
    ) -> None:
        offered = int(TRANSPORT_FEATURES | device.features) & _mask(features)
        self._state = DeviceState(
            device.device_id, offered, device.queue_sizes, device.config.to_bytes()
        )
        self.memory = Memory([Region.create(memory_size, addr=MEMORY_BASE)])
        self.pool = (MEMORY_BASE, memory_size)
        self.faults = faults
        self._kicks: list[SwappableKick] = []
        self._calls: list[Doorbell] = []
        self._make_bells(kick_maker, call_maker)
        # Direct is chosen to have one thread and no descriptor; anything else may have two threads.
        bells = (*(kick.bell for kick in self._kicks), *self._calls)
        control = Direct if any(isinstance(bell, Direct) for bell in bells) else EventFd
        self._control: Doorbell = control()
        self.changed: Doorbell = control()
        """Rung when the configuration space or the status changed from the device's side."""
        self._changes: deque[Change] = deque()
        self._writes: list[_Write] = []
        self._rings: dict[int, DeviceRing] = {}
        self._lock = threading.RLock()
        # Who waits at a doorbell has the bell itself; only the other side's rings meet faults.
        self._rung_kicks: Sequence[Doorbell] = self._kicks
        self._rung_calls: Sequence[Doorbell] = self._calls
        if faults is not None:
            self._rung_kicks = [faults.wrap(b, self, "kick", i) for i, b in enumerate(self._kicks)]
            self._rung_calls = [faults.wrap(b, self, "call", i) for i, b in enumerate(self._calls)]

    def _make_bells(self, kick_maker: DoorbellMaker, call_maker: DoorbellMaker) -> None:
        count = len(self._state.queues)
        try:
            self._kicks += (SwappableKick(kick_maker()) for _ in range(count))
            self._calls += (call_maker() for _ in range(count))
        except BaseException:
            for bell in (*self._kicks, *self._calls):
                bell.close()
            self.memory.close()
            raise

    # What both ends know.

    @property
    def device_id(self) -> int:
        """The device type."""
        return self._state.device_id

    @property
    def device_features(self) -> int:
        """What the device offers."""
        return self._state.device_features

    @property
    def queue_sizes(self) -> Sequence[int]:
        """The largest size of each queue."""
        return [queue.max_size for queue in self._state.queues]

    @property
    def concurrent(self) -> bool:
        """Whether the device is served in another thread than the caller's."""
        return self._device_thread not in (None, threading.get_ident())

    def kick(self, queue: int) -> Doorbell:
        """Return the doorbell that the driver rings for a queue."""
        return self._rung_kicks[queue]

    def call(self, queue: int) -> Doorbell:
        """Return the doorbell that the driver waits on for a queue."""
        return self._calls[queue]

    def ring(self, queue: int) -> DeviceRing | None:
        """Return the device's end of a queue that runs, for tests that look behind the device."""
        return self._rings.get(queue)

    async def swap(self, maker: DoorbellMaker, queue: int = 0) -> None:
        """Change the doorbell that kicks a queue, under traffic; the call stays.

        Both doorbells are heard until nobody can ring the old one any more, so no notification is
        lost. Cancelled before that, the old one stays; cancelled after, the new one. From any
        thread's trio run, unless a `Direct` has a part in it.

        Raises `trio.BusyResourceError` if this queue's is being changed, `SwapRefused` if a driver
        cannot ring the new one, `trio.ClosedResourceError` once the link is closed, `ValueError`
        for a queue that does not exist, and what `maker` raises.
        """
        if not 0 <= queue < len(self._kicks):
            raise ValueError(f"queue {queue}: the device has {len(self._kicks)}")
        await self._kicks[queue].swap(partial(self._make_kick, maker), self._calls[queue].ring)

    def _make_kick(self, maker: DoorbellMaker) -> Doorbell:
        bell = maker()
        threads = {self._device_thread, self._driver_thread, threading.get_ident()} - {None}
        if isinstance(bell, Direct) and len(threads) > 1:
            bell.close()
            raise SwapRefused("a Direct doorbell stays in one thread, and the driver has another")
        return bell

    def close(self) -> None:
        """Close both ends; idempotent."""
        self.close_driver_end()
        self.close_device_end()

    # The driver's end.

    async def get_status(self) -> Status:
        """Return the device status; it reads 0 only when a reset is done (2.4.2)."""
        await trio.lowlevel.checkpoint()
        self._check_driver_end()
        return self._state.status

    async def set_status(self, status: int) -> None:
        """Write the device status; 0 resets. Cancelled, it had no effect."""
        await trio.lowlevel.checkpoint()
        with self._lock:
            self._check_driver_end()
            self._driver_thread = threading.get_ident()
            was_live = self._state.live
            self._state.set_status(status)
            if status == 0:
                self._reset()
            elif self._state.live and not was_live:
                self._start()

    async def set_features(self, features: int) -> None:
        """Accept features (2.2). Cancelled, it had no effect."""
        await trio.lowlevel.checkpoint()
        with self._lock:
            self._check_driver_end()
            self._state.set_driver_features(features)

    async def set_queue(self, queue: int, size: int, desc: int, driver: int, device: int) -> None:
        """Give a queue its size and addresses, and enable it. Cancelled, it had no effect."""
        await trio.lowlevel.checkpoint()
        with self._lock:
            self._check_driver_end()
            self._state.set_queue(queue, size, desc, driver, device)
            self._state.enable_queue(queue)

    async def read_config(self, offset: int, size: int) -> tuple[bytes, int]:
        """Return bytes of the configuration space, and its generation."""
        await trio.lowlevel.checkpoint()
        with self._lock:
            self._check_driver_end()
            return self._state.read_config(offset, size), self._state.generation

    async def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space and wait until the device took it.

        Cancelled, the device may take it still. Raises `NegotiationError` if the device refuses,
        or the driver resets it first.
        """
        await trio.lowlevel.checkpoint()
        write = _Write()
        with self._lock:
            self._check_driver_end()
            self._state.check_config_write(offset, len(data))
            self._writes.append(write)
            self._change(ConfigWrite(offset, data, write.finish))
        try:
            await write.finished.wait()
        finally:
            with self._lock:
                self._writes.remove(write)
        write.check()

    def close_driver_end(self) -> None:
        """Close the driver's end; the server then returns. Idempotent."""
        with self._lock:
            self._driver_gone = True
            if not self.gone:
                self._control.ring()
            self._release()

    def _check_driver_end(self) -> None:
        if self._driver_gone:
            raise trio.ClosedResourceError("the driver's end of the loopback was closed")
        if self.gone:
            raise _not_served()

    # The device's end.

    async def next_change(self) -> Change | None:
        """Wait for what the driver does next; None when its end is gone, or this one closed.

        Cancelled, it has taken nothing.
        """
        self._device_thread = threading.get_ident()  # before others run, who may ask `concurrent`
        await trio.lowlevel.checkpoint()
        while (change := self._take_change()) is None:
            if self._driver_gone or self.gone:
                return None
            try:
                await self._control.wait()
            except trio.ClosedResourceError:
                return None
        if isinstance(change, QueueStart):
            change.ring.concurrent = self._driver_thread != self._device_thread
        return change

    def _take_change(self) -> Change | None:
        with self._lock:  # a reset in the driver's thread takes back what was not begun
            return self._changes.popleft() if self._changes else None

    def set_config(self, config: bytes) -> None:
        """Replace the configuration space and notify the driver."""
        with self._lock:
            self._state.set_config(config)
            self._tell_driver()

    def need_reset(self) -> None:
        """Set DEVICE_NEEDS_RESET and notify the driver."""
        with self._lock:
            if self.gone or self._state.resetting:
                return
            self._state.need_reset()
            self.needs_reset = True
            self._tell_driver()
            for call in self._calls:  # whoever waits for a reply will not get one
                call.ring()

    def signal_error(self, queue: int) -> None:
        """Do nothing: there is no error descriptor; the counters have it."""

    def close_device_end(self) -> None:
        """Close the device's end, and with it every doorbell. Idempotent."""
        with self._lock:
            self.gone = True
            self._rings.clear()
            for write in self._writes:
                write.finish(_not_served())
            for bell in (*self._kicks, *self._calls, self._control, self.changed):
                bell.close()
            self._release()

    # Between the two.

    def _start(self) -> None:
        self._generation += 1
        for index, queue in enumerate(self._state.queues):
            if queue.enabled:
                geometry = RingGeometry(
                    size=queue.size,
                    desc=queue.desc,
                    driver=queue.driver,
                    device=queue.device,
                    features=self._state.features,
                )
                ring = DeviceRing(self.memory, geometry, generation=self._generation)
                self._rings[index] = ring
                call = self._rung_calls[index]
                self._change(QueueStart(index, ring, self._kicks[index], call))
        self._change(DriverReady())

    def _reset(self) -> None:
        self._rings.clear()
        self._changes.clear()
        for write in self._writes:
            write.finish(NegotiationError("the driver reset the device before it took the write"))
        if self._device_thread is None:
            self._finish_reset()
        else:
            self._change(Reset(self._finish_reset))

    def _finish_reset(self) -> None:
        with self._lock:
            self._state.finish_reset()
            self.needs_reset = Status.DEVICE_NEEDS_RESET in self._state.status
            self._tell_driver()

    def _change(self, change: Change) -> None:
        self._changes.append(change)
        self._control.ring()

    def _tell_driver(self) -> None:
        if not self.gone:
            self.changed.ring()

    def _release(self) -> None:
        if self._driver_gone and self.gone:
            self.memory.close()


class _Write:
    """A write to the configuration space that waits for the device's answer."""

    def __init__(self) -> None:
        self.finished = trio.Event()
        self._answers: list[Exception | None] = []
        self._home = trio.lowlevel.current_trio_token()

    def finish(self, refusal: Exception | None = None) -> None:
        """Give the answer, from any thread; the first one counts."""
        self._answers.append(refusal)
        if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._home:
            self.finished.set()
            return
        with suppress(trio.RunFinishedError):
            self._home.run_sync_soon(self.finished.set)

    def check(self) -> None:
        """Raise what refused the write, if it was refused."""
        if self._answers[0] is not None:
            raise self._answers[0]


def _not_served() -> trio.BrokenResourceError:
    return trio.BrokenResourceError("the device is not served any more")


def _mask(features: int) -> int:
    """Return a mask as a plain number; the complement of a flag lacks high bits on Python 3.11."""
    if isinstance(features, Feature):
        return int(features) | -1 << max(Feature).bit_length()
    return features
