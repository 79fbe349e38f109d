"""A doorbell that a guest rings by an instruction, and what it needs of the machine."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

from .._eventfd import EventFd

__all__ = ("DoorbellRefused", "ExitSource", "GuestBell")

if TYPE_CHECKING:
    from collections.abc import Generator

    from .._window import SpinWindow
    from ._boot_page import BellKind, GuestKick


class DoorbellRefused(Exception):
    """The machine or its host cannot have the doorbell; the message says why."""


@contextlib.contextmanager
def refused_by_kernel(name: str) -> Generator[None, None, None]:
    """Turn what the kernel says about a registration into DoorbellRefused."""
    try:
        yield
    except OSError as error:
        raise DoorbellRefused(f"{name}: the kernel does not register it: {error}") from error


class ExitSource(Protocol):
    """A virtual machine, as its doorbells see it; hostside.machine implements it."""

    @property
    def vm_fd(self) -> int:
        """The descriptor of the KVM virtual machine."""
        ...

    @property
    def architecture(self) -> str:
        """What `platform.machine()` calls the guest's CPU."""
        ...

    @property
    def ring(self) -> int:
        """The privilege ring that the guest kicks from: 0 or 3."""
        ...

    def identity(self, queue: int) -> int:
        """Return a number from 1 to 4095 that no other queue of this machine has."""
        ...

    def pio_port(self, queue: int, *, shared: bool) -> int:
        """Return a port of the queue's own, or the one that all queues of its device share."""
        ...

    def mmio_address(self, queue: int, *, shared: bool) -> int:
        """Return a guest-physical address that is no memory; shared as for `pio_port`.

        The shared one is the start of a page.
        """
        ...

    def route(self, kind: BellKind, address: int, fd: int, width: int, value: int | None) -> None:
        """Make exits to user space that match write 1 to the eventfd `fd`, without Python.

        PIO: OUT of `width` bytes to port `address`. MMIO: a store of `width` bytes there. MAP_GPA:
        KVM_HC_MAP_GPA_RANGE of page `address`, `value` pages. VMPORT: IN of 4 bytes from port
        0x5658 with the magic in EAX, `address` in ECX and `value` in EBX. `value` None: any.

        The same for two eventfds writes both: one doorbell takes over from the other.
        """
        ...

    def unroute(self, kind: BellKind, address: int, fd: int, width: int, value: int | None) -> None:
        """Undo `route`; when it returns, the eventfd is not written any more."""
        ...

    def write_msr(self, index: int, value: int) -> None:
        """Write a model-specific register of the first vCPU before that runs (again)."""
        ...


class GuestBell(EventFd):
    """An eventfd that a guest's instruction writes; `ring` is the host's own kick of itself.

    Attached to at most one queue of one machine. `close` detaches.
    """

    def __init__(self, *, window: SpinWindow | None = None, _fd: int | None = None) -> None:
        super().__init__(_fd=_fd)
        self.window = window
        self._exits: ExitSource | None = None
        self._kick: GuestKick | None = None

    def attach(self, exits: ExitSource, queue: int) -> GuestKick:
        """Let a guest ring this doorbell; returns what it must do.

        A hypercall is tried first, by `probe`, which blocks for a moment once a process.
        Raises DoorbellRefused with the reason where the machine or its host cannot do that,
        RuntimeError if it is attached already, trio.ClosedResourceError after `close`.
        """
        with self._lock:
            self._check_open()
            if self._exits is not None:
                raise RuntimeError(f"attached already: {self.describe()}")
            kick = self._assign(exits, queue)
            self._exits, self._kick = exits, kick
            return kick

    def detach(self) -> None:
        """Stop listening; when it returns, no kick rings any more. Idempotent."""
        with self._lock:
            exits, kick = self._exits, self._kick
            self._exits = self._kick = None
            if exits is not None and kick is not None:
                self._deassign(exits, kick)

    def close(self) -> None:
        """Detach and close; see `Doorbell.close`."""
        try:
            self.detach()
        finally:
            super().close()

    @abstractmethod
    def _assign(self, exits: ExitSource, queue: int) -> GuestKick:
        """Register; called with the lock held, on an open doorbell that is not attached."""

    @abstractmethod
    def _deassign(self, exits: ExitSource, kick: GuestKick) -> None:
        """Undo `_assign`; called once, with the lock held."""
