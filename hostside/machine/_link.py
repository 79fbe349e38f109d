"""One device of a machine: its register block for the guest, its DeviceLink for the server."""

from __future__ import annotations

import threading
from collections import Counter, deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import EventFd
from paravirt.transport import (
    DeviceRing,
    DeviceState,
    NegotiationError,
    PeerError,
    RingGeometry,
)
from paravirt.transport.link import Change, ConfigWrite, DriverReady, QueueStart, QueueStop, Reset
from paravirt.transport.mmio import (
    Access,
    ConfigWritten,
    Effect,
    Interrupt,
    Kicked,
    MmioState,
    QueueStopped,
    Refusal,
    ResetBegun,
    Started,
    access,
)

from ._irqfd import Irqfd
from .snapshot import LinkRecord, SnapshotError, check_state, record, resume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.doorbells import Doorbell, DoorbellMaker
    from paravirt.transport import Memory, SwappableKick

    from .._device import Device
    from .snapshot import QueueRecord

__all__ = ("MachineLink",)


class MachineLink:
    """A `DeviceLink` whose driver is in the guest.

    The vCPUs' threads come in by `access`, the server by the rest. Made by `Machine.plug`.
    """

    def __init__(
        self,
        device: Device,
        state: DeviceState,
        memory: Memory,
        kicks: Sequence[SwappableKick],
        calls: Sequence[Doorbell],
        changed: Irqfd,
    ) -> None:
        self.device = device
        """What is behind it."""
        self.kicks = kicks
        """The doorbell of each queue that the guest rings."""
        self.calls = calls
        """The doorbell of each queue that the device rings."""
        self.changed = changed
        """Interrupts the guest for a change of the configuration space or of the status."""
        self._memory = memory
        ranges = (range(r.addr, r.addr + r.size) for r in memory.regions)
        self._state = MmioState.create(state, ranges)
        self._lock = threading.RLock()
        self._control = EventFd()
        self._changes: deque[Change] = deque()
        self._rings: dict[int, DeviceRing] = {}
        self._stopping: set[int] = set()
        self._refused: Counter[str] = Counter()
        self._generation = 0
        self._served = False
        self._gone = False
        self._driver_gone = False

    # For the vCPUs.

    def access(self, offset: int, width: int, value: int | None) -> int:
        """Serve a load or a store of the guest, in the vCPU's thread; returns what a load gives."""
        with self._lock:
            answer = access(self._state, Access(offset, width, value))
            self._state = answer.state
            if answer.refusal is not None:
                self._refused[answer.refusal] += 1
            if answer.effect is not None:
                self._do(answer.effect)
            return answer.value

    def _do(self, effect: Effect) -> None:
        match effect:
            case Kicked(queue):
                with suppress(trio.ClosedResourceError):
                    self.kicks[queue].ring()
            case Started():
                self._start()
            case ResetBegun():
                self._reset()
            case QueueStopped(queue):
                self._stop(queue)
            case ConfigWritten(offset, data):
                self._change(ConfigWrite(offset, data, self._config_taken))

    def _start(self) -> None:
        if self._gone:
            self.need_reset()
            return
        self._generation += 1
        try:
            for index, queue in enumerate(self._state.device.queues):
                if queue.enabled:
                    self._rings[index] = self._ring(index)
        except (PeerError, ValueError):
            self._refused[Refusal.ADDRESS] += 1
            self._rings.clear()
            self.need_reset()
            return
        self._announce()

    def _announce(self) -> None:
        for index, ring in self._rings.items():
            self._change(QueueStart(index, ring, self.kicks[index], self.calls[index]))
        self._change(DriverReady())

    # For snapshots.

    @property
    def quiet(self) -> bool:
        """Whether the server has heard of all that the driver did, and has no request in hand."""
        with self._lock:
            busy = self._changes or self._state.device.resetting or self._stopping
            return not busy and not any(ring.in_flight for ring in self._rings.values())

    def snapshot(self) -> LinkRecord:
        """Return all that `restore` needs; no vCPU may run.

        Raises SnapshotError while a reset or the stop of a queue is under way, since who asked for
        it waits for the end, or for more of the device's own state than a snapshot may have.
        """
        with self._lock:
            if self._gone or self._stopping or self._state.device.resetting:
                raise SnapshotError("a device is gone, or ends a reset or a queue")
            rings = sorted(self._rings.items())
            queues = tuple(record(index, ring, self._memory) for index, ring in rings)
            state = self.device.save_state()
            check_state(state)
            offered = self._state.device.device_features
            return LinkRecord(self._state.snapshot(), queues, offered, state)

    def restore(self, record: LinkRecord) -> None:
        """Take over what an equal link had; each queue gets one kick and one interrupt.

        Raises NegotiationError, PeerError or ValueError for a record that cannot be.
        """
        with self._lock:
            state = self._state.restored(record.block)
            queues = state.device.queues if state.device.live else ()
            on = {index for index, queue in enumerate(queues) if queue.enabled}
            found = [queue.index for queue in record.queues]
            if len(set(found)) < len(found) or not set(found) <= on:
                raise NegotiationError(f"queues {found} are recorded, {sorted(on)} can run")
            self._state = state
            self._generation += 1
            for queue in record.queues:
                self._rings[queue.index] = self._ring(queue.index, queue)
            if self._rings:
                self._announce()

    def wake(self) -> None:
        """Kick each queue that runs, and interrupt the guest for it."""
        for index in self._rings:
            self.kicks[index].ring()
            self.calls[index].ring()
        if self._state.registers.interrupt:
            self.changed.ring()

    def _ring(self, index: int, record: QueueRecord | None = None) -> DeviceRing:
        device = self._state.device
        queue = device.queues[index]
        geometry = RingGeometry(
            size=queue.size,
            desc=queue.desc,
            driver=queue.driver,
            device=queue.device,
            features=device.features,
        )
        if record is None:
            return DeviceRing(self._memory, geometry, generation=self._generation)
        return resume(record, self._memory, geometry, self._generation)

    def _reset(self) -> None:
        self._stopping.clear()
        self._rings.clear()
        self._changes.clear()
        if self._served and not self._gone:
            self._change(Reset(self._reset_done))
        else:
            self._reset_done()

    def _reset_done(self) -> None:
        with self._lock:
            self._state = self._state.reset_done()

    def _stop(self, queue: int) -> None:
        self._stopping.add(queue)
        done = partial(self._stopped, queue)
        if self._served and not self._gone:
            self._change(QueueStop(queue, done))
        else:
            self._changes = deque(c for c in self._changes if not _starts(c, queue))
            done()

    def _stopped(self, queue: int) -> None:
        with self._lock:
            self._stopping.discard(queue)
            if self._rings.pop(queue, None) is not None:
                self._state = self._state.queue_stopped(queue)

    def _config_taken(self, refusal: Exception | None = None) -> None:
        if isinstance(refusal, NegotiationError):
            with self._lock:
                self._refused[Refusal.CONFIG] += 1

    def _change(self, change: Change) -> None:
        if not self._gone:
            self._changes.append(change)
            self._control.ring()

    def used(self) -> None:
        """Note that an interrupt for a used buffer is about to come (4.2.2.1)."""
        if not self._state.registers.interrupt & Interrupt.USED:
            with self._lock:
                self._state = self._state.raised(Interrupt.USED)

    # For the server.

    async def next_change(self) -> Change | None:
        """Wait for what the driver does next; None when the machine or this end is closed.

        Cancelled, it has taken nothing. From the first call on the guest waits for the answers to
        its resets. Raises `trio.BusyResourceError` if another task waits.
        """
        self._served = True
        await trio.lowlevel.checkpoint()
        while (change := self._take_change()) is None:
            if self._driver_gone or self._gone:
                return None
            try:
                await self._control.wait()
            except trio.ClosedResourceError:
                return None
        return change

    def _take_change(self) -> Change | None:
        with self._lock:
            return self._changes.popleft() if self._changes else None

    def set_config(self, config: bytes) -> None:
        """Replace the configuration space and interrupt the guest (4.2.2.1)."""
        with self._lock:
            self._state = self._state.changed(lambda device: device.set_config(config))
            self._tell_driver()

    def need_reset(self) -> None:
        """Set DEVICE_NEEDS_RESET and interrupt the guest (2.1.2)."""
        with self._lock:
            self._state = self._state.changed(DeviceState.need_reset)
            self._tell_driver()

    def _tell_driver(self) -> None:
        if self._state.device.live and not self._gone:
            self._state = self._state.raised(Interrupt.CONFIG)
            with suppress(trio.ClosedResourceError):
                self.changed.ring()

    def signal_error(self, queue: int) -> None:
        """Do nothing: a register block has no error descriptor; the counters have it."""

    def close_device_end(self) -> None:
        """Close this end; the guest then finds a device that needs a reset. Idempotent."""
        with self._lock:
            if self._gone:
                return
            if self._state.device.resetting:  # nobody is left who could say that it is done
                self._state = self._state.reset_done()
            self.need_reset()
            self._gone = True
            self._rings.clear()
            for bell in (*self.kicks, *self.calls, self.changed, self._control):
                bell.close()

    # For the machine and whoever looks on.

    async def swap(self, maker: DoorbellMaker, queue: int = 0) -> None:
        """Change the doorbell that kicks a queue, while the guest runs; the call stays.

        Both are registered until the guest has acknowledged, or has no such queue. A guest that
        never does is waited for: cancelled before that, the old one stays, and both are registered
        until it acknowledges again; cancelled after, the new one. In the server's trio run.

        Raises `trio.BusyResourceError` if this queue's is being changed, `SwapRefused` with the
        reason if the new one cannot stand beside the old, `trio.ClosedResourceError` once the link
        is closed, `ValueError` for a queue that does not exist, and what `maker` raises.
        """
        if not 0 <= queue < len(self.kicks):
            raise ValueError(f"queue {queue}: the device has {len(self.kicks)}")
        await self.kicks[queue].swap(maker, self.calls[queue].ring)

    def close_driver_end(self) -> None:
        """Let the server end: the machine is gone. Idempotent."""
        with self._lock:
            self._driver_gone = True
            if not self._gone:
                self._control.ring()

    @property
    def state(self) -> MmioState:
        """The register block as it is now."""
        return self._state

    def ring(self, queue: int) -> DeviceRing | None:
        """Return the device's end of a queue that runs."""
        return self._rings.get(queue)

    @property
    def refused(self) -> dict[str, int]:
        """How often the guest did what it may not, by cause (`transport.mmio.Refusal`)."""
        with self._lock:
            return dict(self._refused)

    @property
    def interrupts(self) -> int:
        """How often the device interrupted the guest.

        What comes faster than the guest takes it merges: `Machine.boot.interrupts` counts what all
        devices together got through.
        """
        bells = (bell for bell in (*self.calls, self.changed) if isinstance(bell, Irqfd))
        return sum(bell.statistics().rings for bell in bells)


def _starts(change: Change, queue: int) -> bool:
    return isinstance(change, QueueStart) and change.queue == queue
