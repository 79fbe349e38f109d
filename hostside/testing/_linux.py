"""What a guest is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._packages import Report, say_nothing
from ._start import fetch_parts, running

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from types import TracebackType

    from .._device import Device
    from ._guest import Guest
    from ._kernel import Kernel
    from ._qemu import Accelerator, MachineName, Notify

__all__ = ("LinuxGuest",)


@dataclass(kw_only=True, eq=False)
class LinuxGuest:
    r"""A virtual machine with Debian's Linux, for as long as a block lasts.

        async with LinuxGuest(devices=[Block("disk.img")]) as guest:
            result = await guest.run("mount /dev/vda /mnt && cat /mnt/hello")
            assert result.output == "hello\n"

    Entering starts it and gives a `Guest`. It has a busybox in its memory, nothing else, and no
    timeouts: use `trio.fail_after`; without KVM a start takes some 5 s.

    Entering raises `GuestError` if the guest does not come up or something for it is missing;
    cancelled, it leaves nothing behind but what was fetched. Leaving kills QEMU: what the guest has
    to write to its disks must be written (`umount`).
    """

    devices: Sequence[Device] = ()
    """Served over vhost-user and attached in this order; Linux's drivers for them are loaded."""
    machine: MachineName = "q35"
    """"q35" has PCI, "microvm" virtio-mmio."""
    notify: Notify = "mmio"
    """How a driver kicks: by a write to memory, or by one to a port ("pio", with PCI only)."""
    cpus: int = 1
    memory: int = 512
    """In MiB."""
    kernel: str | Kernel | None = None
    """As `fetch_kernel` has it, or what came from it."""
    modules: Sequence[str] = ()
    """More of the kernel's modules to load, with those they depend on."""
    files: Mapping[str, Path | bytes] | None = None
    """What is put into the guest, executable, by its path there: bytes, or a file of the host's."""
    programs: Sequence[str] = ()
    """Programs of the host's to put into the guest, with the libraries that they load."""
    parameters: str = ""
    """More parameters for the kernel."""
    arguments: Sequence[str] = ()
    """More arguments for QEMU. The guest's memory is its object `mem`."""
    accelerator: Accelerator | None = None
    """KVM where it can boot Linux, else TCG."""
    incoming: str | None = None
    """An address as QEMU's `migrate` takes it: this guest does not start, but comes from another,
    made with the same settings."""
    report: Report = say_nothing
    """Is told of downloads."""

    _block: AbstractAsyncContextManager[Guest] | None = field(default=None, init=False, repr=False)

    async def fetch(self) -> Kernel:
        """Fetch what is missing, so that a start does not; returns the kernel, for other guests.

        Raises `GuestError` if it cannot be had. Cancelled, it leaves nothing half done.
        """
        return await fetch_parts(self)

    async def __aenter__(self) -> Guest:
        if self._block is not None:
            raise RuntimeError("this guest is started already")
        block = running(self)
        guest = await block.__aenter__()
        self._block = block
        return guest

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        block, self._block = self._block, None
        assert block is not None
        return await block.__aexit__(kind, error, trace)
