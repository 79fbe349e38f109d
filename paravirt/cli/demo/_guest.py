"""The demo's disk in a real Linux guest: read, mounted and written there."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import trio

from paravirt.hostside.devices.block import Block
from paravirt.hostside.testing import GuestError, LinuxGuest

from .._errors import BadInput
from ._image import PIECE
from ._report import Seen, Step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import TypeVar

    from paravirt.hostside.testing import Guest, Kernel

    from ._progress import Bar
    from ._stop import Stop

    T = TypeVar("T")

NAME = "guest"
"""What stands for the doorbell in the guest's step: Linux's own, QEMU's eventfds."""
READ = 64 << 20
"""Bytes that the guest reads at most: without KVM it takes a second for 10 MiB of SHA-256."""
WRITTEN = 1 << 20
"""Bytes that the guest writes at most."""
LOOK_SECONDS = 0.1
"""How often Ctrl-C is looked for; a guest takes seconds."""
MEASURE = f"""
cat /proc/uptime
dd if=/dev/vda of=/dev/null bs=1M count={READ >> 20} iflag=direct 2>/dev/null
cat /proc/uptime
"""
SHORTEST = 0.05
"""Seconds that can be told by that clock, which counts hundredths."""
MOUNT = """
mount -o ro /dev/vda /mnt 2>/dev/null || exit 3
while read -r what where type rest; do [ $where = /mnt ] && echo $type; done </proc/mounts
find /mnt -type f | wc -l
"""
NO_FILE_SYSTEM = 3


class GuestTour:
    """Has a guest do with a disk what the doorbells' steps did."""

    def __init__(self, *, bar: Bar, stop: Stop, quiet: bool) -> None:
        self._bar = bar
        self._stop = stop
        self._quiet = quiet
        self._kernel: Kernel | None = None
        self.failures: list[str] = []
        """A line for each thing that went wrong."""

    def fetch(self) -> None:
        """Fetch what the guest needs. Raises `BadInput` if it cannot be had, and `stop.check`'s."""
        try:
            self._kernel = self._run(LinuxGuest(report=self._report).fetch)
        except GuestError as error:
            raise BadInput(str(error)) from error

    def visit(self, disk: Block, image: Path, scratch: Path) -> Step:
        """Start a guest with a disk, and with a copy of it to write to; raises `stop.check`'s."""
        step = Step(doorbell=NAME)
        try:
            self._run(self._visit, disk, image, scratch, step)
        except GuestError as error:
            self.failures.append(f"{NAME}: {error}")
        step.ok = not self.failures
        return step

    def _run(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Run something in trio that ends when the user wants to; raises `GuestError`."""
        found: list[T] = []
        failed: list[GuestError] = []

        async def watched() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look, nursery.cancel_scope)
                try:
                    found.append(await function(*arguments))
                except GuestError as error:
                    failed.append(error)
                nursery.cancel_scope.cancel()

        trio.run(watched)
        self._stop.check()
        if failed:
            raise failed[0]
        return found[0]

    async def _look(self, scope: trio.CancelScope) -> None:
        while not self._stop.asked:  # noqa: ASYNC110  (a signal's handler sets it)
            await trio.sleep(LOOK_SECONDS)
        scope.cancel()

    def _report(self, what: str, percent: float) -> None:
        self._bar.begin(f"{what} {percent:.0f} %")

    async def _visit(self, disk: Block, image: Path, scratch: Path, step: Step) -> None:
        assert self._kernel is not None
        if not self._quiet:
            self._bar.say(f"Starting Debian's Linux {self._kernel.version} under QEMU.")
        self._bar.begin("starting Linux")
        began = time.monotonic()
        with Block(scratch) as copy:
            async with LinuxGuest(devices=[disk, copy], kernel=self._kernel) as guest:
                seconds = time.monotonic() - began
                self._bar.begin("in the guest")
                step.bytes = min(READ, disk.capacity)
                await _measure(guest, disk, step)
                # First, since a mounted file system shows through in the guest's page cache.
                await self._read(guest, image, step)
                step.guest = await _look_around(guest, round(seconds, 1))
                written = await self._write(guest, copy)
        if _sha256_of(scratch, min(WRITTEN, disk.capacity)) != written:
            self._fail("what it wrote is not in the file")

    async def _read(self, guest: Guest, image: Path, step: Step) -> None:
        step.sha256 = await _digest(guest, f"head -c {step.bytes} /dev/vda")
        expected = await trio.to_thread.run_sync(_sha256_of, image, step.bytes)
        if step.sha256 != expected:
            self._fail(f"read bytes with the SHA-256 {step.sha256}, the image's is {expected}")

    async def _write(self, guest: Guest, copy: Block) -> str:
        """Have random bytes written; returns the SHA-256 of them."""
        size = min(WRITTEN, copy.capacity)
        written = await _digest(guest, f"head -c {size} /dev/urandom | tee /tmp/written")
        await _run(guest, "dd if=/tmp/written of=/dev/vdb bs=64k conv=fsync")
        return written

    def _fail(self, what: str) -> None:
        self.failures.append(f"{NAME}: {what}")


async def _look_around(guest: Guest, seconds: float) -> Seen:
    """Mount the disk, and see what the guest sees."""
    release = await _run(guest, "uname -r")
    mounted = await guest.run(MOUNT)
    if mounted.status == NO_FILE_SYSTEM:
        return Seen(kernel=release, start_s=seconds)
    file_system, files = mounted.output.split()
    return Seen(kernel=release, start_s=seconds, file_system=file_system, files=int(files))


async def _measure(guest: Guest, disk: Block, step: Step) -> None:
    """Read past the guest's page cache, and count."""
    before = disk.statistics().queues[0]
    began, ended = (float(line.split()[0]) for line in (await _run(guest, MEASURE)).splitlines())
    after = disk.statistics().queues[0]
    requests = max(after.requests - before.requests, 1)
    step.kicks_per_request = round((after.kicks - before.kicks) / requests, 5)
    step.calls_per_request = round((after.calls - before.calls) / requests, 5)
    if ended - began >= SHORTEST:
        step.mib_per_s = round(step.bytes / (ended - began) / (1 << 20), 1)
        step.requests_per_s = round(requests / (ended - began), 1)


async def _digest(guest: Guest, command: str) -> str:
    return (await _run(guest, f"{command} | sha256sum")).split()[0]


async def _run(guest: Guest, script: str) -> str:
    """Run what has to go well in any guest."""
    result = await guest.run(script)
    if result.status:
        raise GuestError(f"`{script}` ended with {result.status}: {result.output.strip()}")
    return result.output.strip()


def _sha256_of(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size and (piece := file.read(min(size, PIECE))):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()
