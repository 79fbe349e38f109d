"""The machine as the doorbells of one device see it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from paravirt.doorbells.kvm import BellKind

from ._kvm import ffi, lib

if TYPE_CHECKING:
    from ._vm import Vm

__all__ = ()  # of use to this room only

# Two places a queue, used in turn, so that a doorbell can take over from one of its own kind.
_PORTS: Final = 4  # bytes of the port space a queue has
_STORES: Final = 16  # bytes of the doorbell page


class Exits:
    """An `ExitSource`: gives out addresses, and routes exits to eventfds."""

    def __init__(self, vm: Vm, *, slot: int, first_bell: int, ring: int) -> None:
        self.ring = ring
        """The privilege ring that the guest kicks from."""
        self._vm = vm
        self._slot = slot
        self._first_bell = first_bell
        self._turns: dict[tuple[str, int], int] = {}

    @property
    def architecture(self) -> str:
        """What `platform.machine()` calls the guest's CPU."""
        return self._vm.architecture

    @property
    def vm_fd(self) -> int:
        """The descriptor of the virtual machine."""
        return self._vm.fd

    def identity(self, queue: int) -> int:
        """Return a number from 1 on that no other queue of this machine has."""
        return self._first_bell + queue + 1

    def pio_port(self, queue: int, *, shared: bool) -> int:
        """Return a port of the queue's own, another each time, or the one of the device."""
        if shared:
            return int(lib.PV_SHARED_PORT) + 4 * self._slot
        own = int(lib.PV_BELL_PORT) + 0x100 * self._slot + _PORTS * queue
        return own + _PORTS // 2 * self._turn("port", queue)

    def mmio_address(self, queue: int, *, shared: bool) -> int:
        """Return a guest-physical address that is no memory; as `pio_port`."""
        page = int(lib.PV_BELL_PAGE) + int(lib.PV_WINDOW) * self._slot
        if shared:
            return page
        own = page + int(lib.PV_BELL_OWN) + _STORES * queue
        return own + _STORES // 2 * self._turn("store", queue)

    def _turn(self, space: str, queue: int) -> int:
        turn = self._turns.get((space, queue), 1) ^ 1
        self._turns[space, queue] = turn
        return turn

    def route(self, kind: BellKind, address: int, fd: int, width: int, value: int | None) -> None:
        """Make exits that match write to an eventfd, without Python."""
        rc: int = lib.pv_route(self._vm.c, _route(kind, address, fd, width, value))
        if rc < 0:
            raise OSError(-rc, f"no route for {kind.name} {address:#x}: {os.strerror(-rc)}")

    def unroute(self, kind: BellKind, address: int, fd: int, width: int, value: int | None) -> None:
        """Undo `route`; when it returns, the eventfd is not written any more."""
        lib.pv_unroute(self._vm.c, _route(kind, address, fd, width, value))

    def write_msr(self, index: int, value: int) -> None:
        """Write a model-specific register of the first vCPU before that enters the guest again."""
        self._vm.write_msr(index, value)


def _route(kind: BellKind, address: int, fd: int, width: int, value: int | None) -> object:
    if kind is BellKind.MAP_GPA:
        width = 0  # a hypercall has none
    row = (address, value or 0, int(kind), width, fd, value is None)
    return ffi.new("struct pv_route *", row)
