"""Many devices and many connections in one process, and what there is no room for."""

from __future__ import annotations

import resource
import socket
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from paravirt.hostside.vhost_user import serve_vhost_user
from tests.hostside.frontend import Frontend, open_files
from tests.hostside.serving import Echo, until
from tests.hostside.test_vhost_user_serving import connected, works

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import pytest


@contextmanager
def limited(soft: int) -> Generator[None]:
    """Lower this process's soft limit of descriptors for a while."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_soft_limit_of_descriptors_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with limited(256):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_vhost_user, Echo(), str(tmp_path / "device.sock"))
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            nursery.cancel_scope.cancel()

    assert limits == (hard, hard)


async def test_many_devices_in_one_process_work_at_once(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    paths = [str(tmp_path / f"{number}.sock") for number in range(30)]
    for path in paths:
        await nursery.start(serve_vhost_user, Echo(), path)
    async with AsyncExitStack() as stack:
        frontends = [await stack.enter_async_context(connected(path)) for path in paths]
        for frontend in frontends:
            await frontend.bring_up()
        for number, frontend in enumerate(frontends):
            frontend.offer(b"%d" % number)
        for number, frontend in enumerate(frontends):
            assert await frontend.reply(len(b"%d" % number)) == b"%d" % number


async def test_idle_connections_disturb_nobody(nursery: trio.Nursery, tmp_path: Path) -> None:
    """A handshake is all that they say."""
    path = str(tmp_path / "device.sock")
    await nursery.start(partial(serve_vhost_user, None, path, make_device=Echo))
    before = open_files()
    idle: list[Frontend] = []
    for _ in range(100):
        frontend = Frontend((await trio.open_unix_socket(path)).socket)
        await frontend.agree(8)
        await frontend.introduce()
        idle.append(frontend)
    await works(path)
    for frontend in idle:
        frontend.close()
    await until(lambda: open_files() == before)


async def test_connection_waits_where_there_is_no_room_for_it(
    nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is connected already notices nothing, and it is told of in one line."""
    path = str(tmp_path / "device.sock")
    await nursery.start(partial(serve_vhost_user, None, path, make_device=Echo))
    async with connected(path) as first:
        await first.bring_up()
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(8)]
        with limited(open_files() + 2):  # of which the look at /proc was one
            for sock in waiting:
                sock.connect(path)
            while not caplog.records:
                await trio.lowlevel.checkpoint()
            for _ in range(3):
                assert await first.echo(b"mine") == b"mine"
            await trio.lowlevel.checkpoint()
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "Too many open files" in caplog.text
        for sock in waiting:
            sock.close()
    await works(path)
