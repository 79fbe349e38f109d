"""A virtual machine whose guest rings a doorbell when it is told to: one instruction at a time."""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING, Final, Self

from paravirt.doorbells.kvm import BellKind, HyperV, probe
from paravirt.doorbells.kvm.trial._page import Exit, PageMachine

if TYPE_CHECKING:
    from paravirt.doorbells.kvm import GuestKick

OUT: Final = {2: b"\x66\xef", 4: b"\xef"}  # out %ax or %eax, (%dx)
STORE: Final = {2: b"\x66\x89\x07", 4: b"\x89\x07"}  # mov %ax or %eax, (%edi)
IN: Final = b"\xed"  # in (%dx), %eax
VMPORT: Final = 0x5658
VMPORT_MAGIC: Final = 0x564D5868
# In 32-bit mode the hypercalls take their arguments in other registers than in guest/doorbell.h.
HV_SIGNAL_EVENT: Final = 0x1005D
XEN_EVENT_CHANNEL_OP: Final = 32
XEN_EVTCHNOP_SEND: Final = 4
MAP_GPA_RANGE: Final = 12


class PageVm:
    """An ExitSource over the machine that `probe` uses; its guest is in ring 0."""

    architecture = "x86_64"
    ring = 0

    def __init__(self) -> None:
        self._kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        has_hyperv = any(row.available for row in probe() if row.name == HyperV.name)
        self._page = PageMachine(self._kvm, hyperv=has_hyperv)
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

    def unroute(self, kind: BellKind, address: int, fd: int, width: int, value: int | None) -> None:
        assert self._routes.pop((kind, address, width, value)) == fd

    def write_msr(self, index: int, value: int) -> None:
        self._page.write_msr(index, value)

    def kick(self, kick: GuestKick, times: int = 1) -> None:
        """Let the guest ring so often, and serve the exits that this needs."""
        with self._one_at_a_time:
            came = self._execute(kick, times)
            while not came.done:
                self.exits += 1
                self._serve(kick, came)
                came = self._page.resume()

    def _execute(self, kick: GuestKick, times: int) -> Exit:
        instruction, registers = self._instruction(kick)
        # 1: mov $rax, %eax; the instruction; dec %ebp; jnz 1b
        loop = b"\xb8" + struct.pack("=I", registers.pop("rax")) + instruction + b"\x4d"
        loop += b"\x75" + struct.pack("=b", -len(loop) - 2)
        return self._page.execute(loop, {**registers, "rbp": times}, data=kick.address)

    def _instruction(self, kick: GuestKick) -> tuple[bytes, dict[str, int]]:
        address, value, hypercall = kick.address, kick.value, self._page.hypercall
        match kick.kind:
            case BellKind.PIO:
                return OUT[kick.width], {"rax": value, "rdx": address}
            case BellKind.MMIO:
                return STORE[kick.width], {"rax": value, "rdi": address}
            case BellKind.VMPORT:
                rest = {"rbx": value, "rcx": address, "rdx": VMPORT}
                return IN, {"rax": VMPORT_MAGIC, **rest}
            case BellKind.HYPERV:
                return hypercall, {"rax": HV_SIGNAL_EVENT, "rcx": address}
            case BellKind.XEN:
                rest = {"rbx": XEN_EVTCHNOP_SEND, "rcx": self._page.DATA}
                return hypercall, {"rax": XEN_EVENT_CHANNEL_OP, **rest}
            case BellKind.MAP_GPA:
                return hypercall, {"rax": MAP_GPA_RANGE, "rbx": address, "rcx": value}
            case BellKind.NONE:
                raise ValueError("nothing to do")

    def _serve(self, kick: GuestKick, came: Exit) -> None:
        """Ring what the exit means, as the loop of a machine does."""
        exact = kick.kind in (BellKind.VMPORT, BellKind.MAP_GPA)
        match kick.kind:
            case BellKind.MMIO:
                expected = Exit("MMIO", address=kick.address, value=kick.value)
            case BellKind.MAP_GPA:
                expected = Exit("HYPERCALL", address=kick.address, value=MAP_GPA_RANGE)
            case BellKind.VMPORT:
                expected = Exit("IO", port=VMPORT)
            case _:
                expected = Exit("IO", port=kick.address)
        assert came == expected
        route = kick.kind, kick.address, kick.width, kick.value if exact else None
        if route in self._routes:
            os.eventfd_write(self._routes[route], 1)
