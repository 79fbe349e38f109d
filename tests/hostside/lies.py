"""What a hostile frontend says of memory and queues, each lie by its name."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from paravirt.transport.vhost_user import Request, payloads as p
from tests.hostside.frontend import BASE, DATA, FEATURES, SIZE, USER, Frontend

Lie: TypeAlias = Callable[[Frontend], Awaitable[object]]


async def more(frontend: Frontend, *rows: p.MemoryRegion, fd: int | None = None) -> None:
    fds = [frontend.region.fd if fd is None else fd] * len(rows)
    await frontend.ask(Request.SET_MEM_TABLE, p.MemoryTable(rows), fds)


async def address(frontend: Frontend, **changes: int) -> None:
    """Lay the queue out with some addresses changed, and start it."""
    queue = frontend.queues[0]
    fields = {name: getattr(queue.address, name) for name in queue.address.__struct_fields__}
    await frontend.introduce()
    await frontend.ask(Request.SET_VRING_NUM, p.VringState(0, 16))
    await frontend.ask(Request.SET_VRING_ADDR, p.VringAddress(**{**fields, **changes}))
    await frontend.bell(Request.SET_VRING_KICK, queue.kick)
    await frontend.enable(queue)


async def over_another(frontend: Frontend) -> None:
    """Put the second queue where the first one is."""
    await frontend.bring_up()
    place = frontend.queues[0].address
    await frontend.ask(Request.SET_VRING_NUM, p.VringState(1, 16))
    second = p.VringAddress(1, 0, place.desc, place.device, place.driver)
    await frontend.ask(Request.SET_VRING_ADDR, second)
    await frontend.bell(Request.SET_VRING_KICK, frontend.queues[0].kick, 1)
    await frontend.ask(Request.SET_VRING_ENABLE, p.VringState(1, 1))


def short_file() -> int:
    fd = os.memfd_create("short")
    os.ftruncate(fd, 4096)
    return fd


async def with_short_file(frontend: Frontend) -> None:
    fd = short_file()
    try:
        await frontend.share(fd)
    finally:
        os.close(fd)


async def with_large_file(frontend: Frontend) -> None:
    fd = os.memfd_create("large")
    os.ftruncate(fd, 1 << 46)
    try:
        await frontend.ask(Request.ADD_MEM_REG, region(size=1 << 46), [fd])
    finally:
        os.close(fd)


async def with_another_file(frontend: Frontend) -> None:
    await frontend.introduce()
    fd = os.memfd_create("another")
    os.ftruncate(fd, SIZE)
    try:
        await frontend.ask(Request.ADD_MEM_REG, frontend.row, [fd])
    finally:
        os.close(fd)


async def with_wrong_fd(frontend: Frontend, request: Request) -> None:
    await frontend.ask(request, p.VringFile(0), [frontend.region.fd])


async def running(frontend: Frontend, request: Request, payload: p.Payload) -> None:
    """Use a setter on a running queue."""
    await frontend.bring_up()
    await frontend.ask(request, payload)


def region(**changes: int) -> p.MemoryRegion:
    fields = {"addr": BASE, "size": SIZE, "user": BASE + USER, "offset": 0}
    return p.MemoryRegion(**{**fields, **changes})


A, B = region(), region(addr=1 << 40, user=1 << 40)
MOVED = p.VringAddress(0, 0, DATA + USER, DATA + USER + 0x2000, DATA + USER + 0x1000)
LIES: dict[str, Lie] = {
    "size 0": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(0, 0)),
    "size 65535": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(0, 65535)),
    "size 65536": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(0, 65536)),
    "size 24": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(0, 24)),
    "base beyond 16 bits": lambda f: f.ask(Request.SET_VRING_BASE, p.VringState(0, 1 << 16)),
    "no such queue": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(2, 16)),
    "no such queue to stop": lambda f: f.base(77),
    "no such queue's kick": lambda f: f.bell(Request.SET_VRING_KICK, f.queues[0].kick, 255),
    "enabled by 2": lambda f: f.ask(Request.SET_VRING_ENABLE, p.VringState(0, 2)),
    "kick is no eventfd": lambda f: with_wrong_fd(f, Request.SET_VRING_KICK),
    "call is no eventfd": lambda f: with_wrong_fd(f, Request.SET_VRING_CALL),
    "error is no eventfd": lambda f: with_wrong_fd(f, Request.SET_VRING_ERR),
    "regions overlap for the guest": lambda f: more(f, A, region(addr=BASE + 4096, user=0)),
    "regions overlap for the frontend": lambda f: more(f, A, region(addr=0, user=USER + 1)),
    "the same region twice": lambda f: more(f, A, A),
    "region of size 0": lambda f: more(f, region(size=0)),
    "region overflows the guest": lambda f: more(f, region(addr=(1 << 64) - 4096)),
    "region overflows the frontend": lambda f: more(f, region(user=(1 << 64) - 4096)),
    "region overflows the file": lambda f: more(f, region(offset=(1 << 64) - 4096)),
    "region beyond the file": lambda f: more(f, region(offset=4096)),
    "short file": with_short_file,
    "memory is an eventfd": lambda f: f.share(f.queues[0].kick.fileno()),
    "more memory than there are addresses": with_large_file,
    "another file for the same region": with_another_file,
    "unknown region removed": lambda f: f.ask(Request.REM_MEM_REG, B),
    "table outside of memory": lambda f: address(f, desc=1 << 50),
    "table ends outside": lambda f: address(f, desc=BASE + USER + SIZE - 16),
    "table at the last address": lambda f: address(f, desc=(1 << 64) - 16),
    "driver ring outside": lambda f: address(f, driver=USER),
    "device ring outside": lambda f: address(f, device=0),
    "table misaligned": lambda f: address(f, desc=DATA + USER + 8),
    "driver ring misaligned": lambda f: address(f, driver=DATA + USER + 1),
    "device ring misaligned": lambda f: address(f, device=DATA + USER + 2),
    "parts overlap": lambda f: address(f, device=BASE + USER),
    "queue over another": over_another,
    "size while running": lambda f: running(f, Request.SET_VRING_NUM, p.VringState(0, 8)),
    "base while running": lambda f: running(f, Request.SET_VRING_BASE, p.VringState(0, 8)),
    "addresses while running": lambda f: running(f, Request.SET_VRING_ADDR, MOVED),
    "features while running": lambda f: running(f, Request.SET_FEATURES, p.Number(1 << 32)),
    "kicked in band": lambda f: running(f, Request.VRING_KICK, p.VringState(0, 0)),
    "a legacy driver": lambda f: f.bring_up(features=FEATURES & ~(1 << 32)),
}
