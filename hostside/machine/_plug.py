"""Putting a device into a machine: its doorbells, its interrupts, its place."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from paravirt.doorbells.kvm import BellKind, GuestBell, GuestKick
from paravirt.transport import TRANSPORT_FEATURES, DeviceState, SwappableKick
from paravirt.transport.mmio import Register

from ._exits import Exits
from ._guest_end import GuestEnd
from ._irqfd import Irqfd
from ._kvm import lib
from ._link import MachineLink

if TYPE_CHECKING:
    from paravirt.doorbells import Doorbell, DoorbellMaker
    from paravirt.doorbells.kvm import BootPage
    from paravirt.transport import Memory

    from .._device import Device
    from ._vm import Vm

__all__ = ()  # of use to this room only

BELLS: Final = 64
"""Queues of all devices together: a boot page has room for so many."""
_NOTIFY_WIDTH: Final = 4


class Plug:
    """Makes the link of a device and what the guest has to know of it."""

    def __init__(
        self, vm: Vm, memory: Memory, boot: BootPage, *, slot: int, first_bell: int, ring: int
    ) -> None:
        self._vm = vm
        self._memory = memory
        self._boot = boot
        self._first_bell = first_bell
        self._slot = slot
        self._exits = Exits(vm, slot=slot, first_bell=first_bell, ring=ring)
        self._bells: list[Doorbell] = []
        self._routed: dict[Doorbell, int] = {}
        self.ends: list[GuestEnd] = []
        """The guest's end of each queue's kick."""

    def make(
        self,
        device: Device,
        doorbell: DoorbellMaker,
        call_doorbell: DoorbellMaker,
        features: int,
    ) -> MachineLink:
        """Make the link; on failure nothing is left behind. Raises what the doorbells raise."""
        offered = int(TRANSPORT_FEATURES | device.features) & int(features)
        sizes = device.queue_sizes
        state = DeviceState(device.device_id, offered, sizes, device.config.to_bytes())
        try:
            kicks = [SwappableKick(self._make(doorbell)) for _ in sizes]
            calls = [self._make(call_doorbell) for _ in sizes]
            changed = Irqfd()
            self._bells.append(changed)
            link = MachineLink(device, state, self._memory, kicks, calls, changed)
            try:
                self._enrol(link)
                self._connect(link)
            except BaseException:
                link.close_device_end()
                raise
        except BaseException:
            for bell in self._bells:
                bell.close()
            raise
        return link

    def _make(self, maker: DoorbellMaker) -> Doorbell:
        bell = maker()
        self._bells.append(bell)
        return bell

    def attach(self, bell: Doorbell, queue: int) -> GuestKick:
        """Let the guest ring a doorbell for a queue; returns how.

        One that knows no guest, but has a descriptor, is rung by the register that virtio has for
        it (QueueNotify, 4.2.2). Raises ValueError for one without, DoorbellRefused with the reason.
        """
        if isinstance(bell, GuestBell):
            return bell.attach(self._exits, queue)
        if not bell.notifies:
            return GuestKick(BellKind.NONE)
        fd = bell.fileno()
        if fd is None:
            raise ValueError(f"a guest cannot ring this doorbell: {bell.describe()}")
        address = int(lib.PV_BLOCK) + int(lib.PV_WINDOW) * self._slot + Register.QUEUE_NOTIFY
        self._exits.route(BellKind.MMIO, address, fd, _NOTIFY_WIDTH, queue)
        self._routed[bell] = fd
        return GuestKick(BellKind.MMIO, _NOTIFY_WIDTH, address, queue)

    def detach(self, bell: Doorbell, queue: int, kick: GuestKick) -> None:
        """Undo `attach`; when it returns, the guest rings it no more."""
        if isinstance(bell, GuestBell):
            bell.detach()
        elif kick.kind is not BellKind.NONE:
            fd = self._routed.pop(bell)
            self._exits.unroute(kick.kind, kick.address, fd, kick.width, queue)

    def _enrol(self, link: MachineLink) -> None:
        for queue, kick in enumerate(link.kicks):
            runs = partial(_runs, link, queue)
            end = GuestEnd(self, self._boot, queue, self._first_bell, runs)
            kick.enrol(end)
            self.ends.append(end)

    def _connect(self, link: MachineLink) -> None:
        gsi = self._vm.add_interrupt(lib.PV_VECTOR + self._slot)
        link.changed.attach(self._vm, gsi)
        for call in link.calls:
            if isinstance(call, Irqfd):
                call.attach(self._vm, gsi, link.used)


def _runs(link: MachineLink, queue: int) -> bool:
    return link.ring(queue) is not None
