"""A virtual machine whose guest rings a doorbell when it is told to: one instruction at a time."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final, Self

from paravirt.doorbells.kvm import BellKind
from paravirt.doorbells.kvm.trial._page import Exit, PageMachine

if TYPE_CHECKING:
    from paravirt.doorbells.kvm import GuestKick

OUT: Final = {2: b"\x66\xef", 4: b"\xef"}  # out %ax or %eax, (%dx)
STORE: Final = {2: b"\x66\x89\x07", 4: b"\x89\x07"}  # mov %ax or %eax, (%edi)
IN: Final = b"\xed"  # in (%dx), %eax
VMPORT: Final = 0x5658
VMPORT_MAGIC: Final = 0x564D5868


class PageVm:
    """An ExitSource over the machine that `probe` uses; its guest is in ring 0."""

    architecture = "x86_64"
    ring = 0

    def __init__(self) -> None:
        self._kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self._page = PageMachine(self._kvm)
        self._routes: dict[tuple[BellKind, int, int, int | None], int] = {}
        self._one_at_a_time = threading.Lock()
        self.exits = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._page.close()
        os.close(self._kvm)

    @property
    def vm_fd(self) -> int:
        return self._page.fd

    def identity(self, queue: int) -> int:
        return queue + 1

    def pio_port(self, queue: int, *, shared: bool) -> int:
        return 0xC000 if shared else 0xC004 + 4 * queue

    def mmio_address(self, queue: int, *, shared: bool) -> int:
        return 0xD0100000 if shared else 0xD0100008 + 8 * queue

    def route(self, kind: BellKind, address: int, fd: int, width: int, value: int | None) -> None:
        self._routes[kind, address, width, value] = fd

    def unroute(self, kind: BellKind, address: int, width: int, value: int | None) -> None:
        del self._routes[kind, address, width, value]

    def write_msr(self, index: int, value: int) -> None:
        self._page.write_msr(index, value)

    def kick(self, kick: GuestKick) -> None:
        """Let the guest ring, and serve the exits that this needs."""
        with self._one_at_a_time:
            came = self._execute(kick)
            while not came.done:
                self.exits += 1
                self._serve(kick, came)
                came = self._page.resume()

    def _execute(self, kick: GuestKick) -> Exit:
        registers = {"rax": kick.value, "rdx": kick.address, "rdi": kick.address}
        match kick.kind:
            case BellKind.PIO:
                return self._page.execute(OUT[kick.width], registers)
            case BellKind.MMIO:
                return self._page.execute(STORE[kick.width], registers)
            case BellKind.VMPORT:
                registers = {"rax": VMPORT_MAGIC, "rbx": kick.value, "rcx": kick.address}
                return self._page.execute(IN, {**registers, "rdx": VMPORT})
            case _:
                raise NotImplementedError(kick.kind.name)

    def _serve(self, kick: GuestKick, came: Exit) -> None:
        """Ring what the exit means, as the loop of a machine does."""
        expected = Exit("MMIO", address=kick.address, value=kick.value)
        if kick.kind is not BellKind.MMIO:
            port = VMPORT if kick.kind is BellKind.VMPORT else kick.address
            expected = Exit("IO", port=port)
        assert came == expected
        value = kick.value if kick.kind is BellKind.VMPORT else None
        fd = self._routes.get((kick.kind, kick.address, kick.width, value))
        if fd is not None:
            os.eventfd_write(fd, 1)
