"""The start of a guest, and its end."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from ..vhost_user import serve_vhost_user
from ._agent import Agent
from ._attach import type_of
from ._emulator import Emulator, find_emulator
from ._guest import Guest
from ._kernel import Kernel, check_machine, fetch_kernel
from ._monitor import Monitor
from ._programs import find_busybox, with_libraries
from ._qemu import Machine, best_accelerator
from ._root import root_archive
from ._wires import Wires

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from .._device import Device
    from ._linux import LinuxGuest

__all__ = ()  # of use to this room only


@asynccontextmanager
async def running(settings: LinuxGuest) -> AsyncGenerator[Guest]:
    """Start a guest and give it once it is up; see `LinuxGuest`."""
    failure: BaseException | None = None
    machine = _machine(settings)
    with tempfile.TemporaryDirectory(prefix="paravirt-guest-") as folder:
        archive = Path(folder) / "root.cpio"
        emulator = await _prepare(settings, machine, archive)
        async with trio.open_nursery() as nursery:
            try:
                async with _process(settings, machine, emulator, nursery) as guest:
                    if settings.incoming is None:
                        await guest.ready()
                        archive.unlink(missing_ok=True)  # QEMU has read it
                    yield guest
            except BaseException as error:  # noqa: BLE001  (raised below, not as part of a group)
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _machine(settings: LinuxGuest) -> Machine:
    if settings.notify == "pio" and settings.machine == "microvm":
        raise ValueError("microvm has no PCI bus, so no port that a driver could write to")
    return Machine(
        settings.machine,
        settings.cpus,
        settings.memory,
        settings.notify,
        settings.accelerator or best_accelerator(),
    )


async def fetch_parts(settings: LinuxGuest) -> Kernel:
    """Fetch what is missing, QEMU too, and return the kernel; see `LinuxGuest.fetch`."""
    check_machine()
    await find_emulator(settings.report)
    await find_busybox(settings.report)
    kernel = settings.kernel
    return kernel if isinstance(kernel, Kernel) else await fetch_kernel(kernel, settings.report)


async def _prepare(settings: LinuxGuest, machine: Machine, archive: Path) -> Emulator:
    """Get all that is needed, and return QEMU with its options, without what is attached."""
    kernel = await fetch_parts(settings)
    busybox = await find_busybox(settings.report)
    drivers = [name for device in settings.devices for name in type_of(device).modules]
    files = {**with_libraries(settings.programs), **(settings.files or {})}
    content = root_archive(kernel, busybox, [*drivers, *settings.modules], files)
    await trio.Path(archive).write_bytes(content)
    boot = ["-kernel", str(kernel.image), "-initrd", str(archive)]
    append = ["-append", f"{machine.parameters()} {settings.parameters}"]
    found = await find_emulator(settings.report)
    return found._replace(command=(*found.command, *machine.options(), *boot, *append))


@asynccontextmanager
async def _process(
    settings: LinuxGuest, machine: Machine, emulator: Emulator, nursery: trio.Nursery
) -> AsyncGenerator[Guest]:
    """Run QEMU with all that is attached to it; it is killed when this is left."""
    with Wires() as wires:
        stream, fd = wires.add()
        agent = Agent(stream)
        command = [*emulator.command, *machine.agent(fd)]
        stream, fd = wires.add()
        monitor = Monitor(stream)
        command += machine.monitor(fd)
        streams: list[trio.SocketStream] = []
        for number, device in enumerate(settings.devices):
            stream, fd = wires.add()
            streams.append(stream)
            command += machine.attach(number, fd, type_of(device), len(device.queue_sizes))
        if settings.incoming is not None:
            command += ["-incoming", settings.incoming]
        process = await _spawn([*command, *settings.arguments], emulator.environment, wires.fds)
        try:
            wires.hand_over()
            guest = Guest(process, agent, monitor)
            for part in guest.watch, agent.listen, agent.talk:
                nursery.start_soon(part)
            for device, stream in zip(settings.devices, streams, strict=True):
                nursery.start_soon(_serve, device, stream, guest)
            yield guest
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _spawn(
    command: list[str], environment: Mapping[str, str] | None, fds: tuple[int, ...]
) -> trio.Process:
    return await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=fds,
        env=environment,
    )


async def _serve(device: Device, stream: trio.SocketStream, guest: Guest) -> None:
    await serve_vhost_user(device, stream)
    await guest.lose(type(device).__name__)
