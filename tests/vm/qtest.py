"""A real QEMU with no guest kernel: a halted CPU, and its buses driven over the qtest protocol."""

from __future__ import annotations

import struct
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

SLOTS = range(0xFEB00000, 0xFEB00000 + 24 * 0x200, 0x200)
"""The virtio-mmio slots of QEMU's microvm; the first device is in the last one."""
HALT = bytes.fromhex("fa f4 eb fd")
"""cli; hlt; jmp: the whole guest."""


def halted_guest(path: Path) -> Path:
    """Write a 32-bit ELF that QEMU's PVH loader starts, and that halts at once."""
    entry = 0x100000
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)
    header = struct.pack(
        "<16sHHIIIIIHHHHHH",
        b"\x7fELF\1\1\1",
        *(2, 3, 1, entry, 52, 0, 0, 52, 32, 2, 40, 0, 0),
    )
    code, notes = 0x1000, 0x2000
    load = struct.pack("<IIIIIIII", 1, code, entry, entry, len(HALT), len(HALT), 5, 0x1000)
    about = struct.pack("<IIIIIIII", 4, notes, 0, 0, len(note), len(note), 4, 4)
    image = (header + load + about).ljust(code, b"\0") + HALT
    path.write_bytes(image.ljust(notes, b"\0") + note)
    return path


class Qtest:
    """The machine's buses, an access a line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._rest = b""

    async def ask(self, line: str) -> str:
        """Send one command and return what follows its OK."""
        await self._stream.send_all(line.encode() + b"\n")
        while True:
            while b"\n" not in self._rest:
                more = await self._stream.receive_some()
                assert more, f"QEMU has ended at {line!r}"
                self._rest += more
            answer, _, self._rest = self._rest.partition(b"\n")
            if not answer.startswith(b"IRQ"):
                assert answer.startswith(b"OK"), answer
                return answer[3:].decode()

    async def readl(self, address: int) -> int:
        """Read a register."""
        return int(await self.ask(f"readl {address:#x}"), 0)

    async def writel(self, address: int, value: int) -> None:
        """Write a register."""
        await self.ask(f"writel {address:#x} {value:#x}")

    async def read(self, address: int, size: int) -> bytes:
        """Read guest memory."""
        return bytes.fromhex((await self.ask(f"read {address:#x} {size:#x}"))[2:])

    async def write(self, address: int, data: bytes) -> None:
        """Write guest memory."""
        await self.ask(f"write {address:#x} {len(data):#x} 0x{data.hex()}")


@asynccontextmanager
async def machine(folder: Path, *devices: str) -> AsyncGenerator[Qtest]:
    """Run QEMU's microvm with these further arguments; it is killed when this is left."""
    program = need("qemu-system-x86_64", "qemu-system-x86")
    guest = halted_guest(folder / "guest.elf")
    path = str(folder / "qtest.sock")
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(path)
        listener.listen(1)
        command = [
            *(program, "-accel", "tcg", "-kernel", guest, "-M", "microvm,memory-backend=mem"),
            *("-m", "64", "-object", "memory-backend-memfd,id=mem,size=64M,share=on"),
            *("-nodefaults", "-nographic", "-qtest", f"unix:{path}", "-qtest-log", "/dev/null"),
            *("-global", "virtio-mmio.force-legacy=false", *devices),
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.run_process, command, check=False))
            sock, _ = await listener.accept()
            async with trio.SocketStream(sock) as stream:
                yield Qtest(stream)
            nursery.cancel_scope.cancel()
