"""Hypercalls as doorbells: two that KVM turns into an eventfd, one that ends in user space.

KVM hands every hypercall of a guest to Xen's handler while that is on, else to Hyper-V's while the
guest has named its operating system, else to its own. Hyper-V's pass Xen's handler by one bit in
EAX, which our guest sets. So those two can be had together, and KVM's own beside neither.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import Counter
from typing import ClassVar, Final

from ._boot_page import BellKind, GuestKick
from ._guest_bell import DoorbellRefused, ExitSource, GuestBell, refused_by_kernel
from ._probe import refusal
from .trial import assign_hyperv, assign_xen, configure_xen, enable_exit_hypercall

__all__ = ("HyperV", "HypercallExit", "XenEvtchn")

# Hyper-V TLFS 2.6: a guest that has not named itself may not call. Open source (bit 63), vendor 0.
_GUEST_OS_ID_MSR: Final = 0x40000000
_GUEST_OS_ID: Final = 1 << 63 | 1

_lock: Final = threading.Lock()
# Of each virtual machine, by its descriptor: what has no user has no entry.
_users: Final[dict[int, Counter[type[Hypercall]]]] = {}


class Hypercall(GuestBell):
    """What the three below share."""

    takes_all: ClassVar[bool] = True
    """While it is on, KVM's own hypercalls are not."""

    def _assign(self, exits: ExitSource, queue: int) -> GuestKick:
        if exits.ring != 0:
            reason = f"a hypercall needs ring 0, and the guest runs in ring {exits.ring}"
            raise DoorbellRefused(f"{self.name}: {reason}")
        if reason := refusal(self.name):
            raise DoorbellRefused(f"{self.name}: {reason}")
        with _lock:
            users = _users.get(exits.vm_fd, Counter())
            for other in users:
                if other.takes_all is not self.takes_all:
                    reason = f"KVM has one handler for all hypercalls, and {other.name} uses it"
                    raise DoorbellRefused(f"{self.name}: {reason}")
            with refused_by_kernel(self.name):
                kick = self._switch_and_register(exits, queue, first=not users[type(self)])
            users[type(self)] += 1
            _users[exits.vm_fd] = users
            return kick

    def _switch_and_register(self, exits: ExitSource, queue: int, *, first: bool) -> GuestKick:
        if first:
            self._switch(exits, on=True)
        try:
            return self._register(exits, queue)
        except BaseException:
            if first:
                self._switch(exits, on=False)
            raise

    def _deassign(self, exits: ExitSource, kick: GuestKick) -> None:
        with _lock:
            users = _users[exits.vm_fd]
            users[type(self)] -= 1
            last = not users[type(self)]
            if last:
                del users[type(self)]
            if not users:
                del _users[exits.vm_fd]
            self._unregister(exits, kick)
            if last:
                self._switch(exits, on=False)

    @abstractmethod
    def _switch(self, exits: ExitSource, *, on: bool) -> None:
        """Switch this handler of hypercalls on before the first use, off after the last."""

    @abstractmethod
    def _register(self, exits: ExitSource, queue: int) -> GuestKick:
        """Register one bell; the handler is on."""

    @abstractmethod
    def _unregister(self, exits: ExitSource, kick: GuestKick) -> None:
        """Undo `_register`."""


class HyperV(Hypercall):
    """HvSignalEvent of a connection: KVM writes the eventfd."""

    name: ClassVar[str] = "hypercall-hyperv"

    def _switch(self, exits: ExitSource, *, on: bool) -> None:
        exits.write_msr(_GUEST_OS_ID_MSR, _GUEST_OS_ID if on else 0)

    def _register(self, exits: ExitSource, queue: int) -> GuestKick:
        connection = exits.identity(queue)
        assign_hyperv(exits.vm_fd, self._fd, connection)
        return GuestKick(BellKind.HYPERV, 0, connection, 0)

    def _unregister(self, exits: ExitSource, kick: GuestKick) -> None:
        assign_hyperv(exits.vm_fd, self._fd, kick.address, deassign=True)


class XenEvtchn(Hypercall):
    """EVTCHNOP_send to an event channel: KVM writes the eventfd."""

    name: ClassVar[str] = "hypercall-xen"

    def _switch(self, exits: ExitSource, *, on: bool) -> None:
        configure_xen(exits.vm_fd, on=on, long_mode=True)

    def _register(self, exits: ExitSource, queue: int) -> GuestKick:
        channel = exits.identity(queue)
        assign_xen(exits.vm_fd, self._fd, channel)
        return GuestKick(BellKind.XEN, 0, channel, 0)

    def _unregister(self, exits: ExitSource, kick: GuestKick) -> None:
        assign_xen(exits.vm_fd, self._fd, kick.address, deassign=True)


class HypercallExit(Hypercall):
    """KVM_HC_MAP_GPA_RANGE, the one hypercall of KVM's own that can end in user space.

    It is meant for confidential guests that share a page; the page that ours names is no memory.
    """

    name: ClassVar[str] = "hypercall-exit"
    takes_all: ClassVar[bool] = False

    def _switch(self, exits: ExitSource, *, on: bool) -> None:
        if on:  # left on: without a route the machine reports the exit as unknown
            enable_exit_hypercall(exits.vm_fd)

    def _register(self, exits: ExitSource, queue: int) -> GuestKick:
        # KVM refuses a page that is not aligned and a range of no pages, so the queue is a size.
        page = exits.mmio_address(queue, shared=True)
        kick = GuestKick(BellKind.MAP_GPA, 0, page, queue + 1)
        exits.route(kick.kind, kick.address, self._fd, kick.width, kick.value)
        return kick

    def _unregister(self, exits: ExitSource, kick: GuestKick) -> None:
        exits.unroute(kick.kind, kick.address, self._fd, kick.width, kick.value)
