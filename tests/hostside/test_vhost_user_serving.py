"""Where frontends connect, and what becomes of one connection when another ends."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import Device, Request as DeviceRequest
from paravirt.hostside.vhost_user import serve_vhost_user
from tests.hostside.frontend import Frontend, open_files
from tests.hostside.serving import Echo, Parked

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Buggy(Device):
    """Fail at the request that says so."""

    device_id = 42
    queue_sizes = (16,)

    def handle(self, request: DeviceRequest) -> None:
        data = request.read()
        if data == b"fail":
            raise RuntimeError("a bug")
        request.reply(data)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "device.sock")


@asynccontextmanager
async def connected(path: str) -> AsyncGenerator[Frontend]:
    """Connect a frontend to a path."""
    stream = await trio.open_unix_socket(path)
    frontend = Frontend(stream.socket)
    try:
        yield frontend
    finally:
        frontend.close()


def exists(path: str) -> bool:
    return os.path.lexists(path)


async def works(path: str) -> None:
    async with connected(path) as frontend:
        await frontend.bring_up()
        assert await frontend.echo(b"hello") == b"hello"


async def test_started_tells_the_path_once_it_accepts(nursery: trio.Nursery, path: str) -> None:
    assert await nursery.start(serve_vhost_user, Echo(), path) == path

    await works(path)


async def test_only_this_user_may_connect(nursery: trio.Nursery, path: str) -> None:
    await nursery.start(serve_vhost_user, Echo(), path)

    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600


async def test_cancellation_removes_the_socket(path: str) -> None:
    before = open_files()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_vhost_user, Echo(), path)
        await works(path)
        nursery.cancel_scope.cancel()

    assert not exists(path)
    assert open_files() == before


async def test_cancellation_closes_the_connection(path: str) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_vhost_user, Echo(), path)
        async with connected(path) as frontend:
            await frontend.bring_up()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await frontend.channel.receive() is None


async def test_stale_socket_is_replaced(nursery: trio.Nursery, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    await nursery.start(serve_vhost_user, Echo(), path)

    await works(path)


def test_file_is_not_replaced(path: str) -> None:
    Path(path).write_text("precious")

    with pytest.raises(FileExistsError):
        trio.run(serve_vhost_user, Echo(), path)
    assert Path(path).read_text() == "precious"


@pytest.mark.parametrize("dangling", [True, False])
async def test_symbolic_link_is_not_followed(path: str, dangling: bool) -> None:
    target = f"{path}.target"
    if not dangling:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(target)
    os.symlink(target, path)

    with pytest.raises(FileExistsError):
        await serve_vhost_user(Echo(), path)
    assert exists(target) is not dangling


async def test_socket_in_use_is_not_taken_over(nursery: trio.Nursery, path: str) -> None:
    await nursery.start(serve_vhost_user, Echo(), path)

    with pytest.raises(OSError, match="listens there already"):
        await serve_vhost_user(Echo(), path)
    await works(path)


async def test_somebody_else_s_socket_is_not_removed(path: str) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_vhost_user, Echo(), path)
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
        nursery.cancel_scope.cancel()

    assert exists(path)


async def test_next_frontend_waits_for_the_first(nursery: trio.Nursery, path: str) -> None:
    await nursery.start(serve_vhost_user, Echo(), path)
    served = trio.Event()

    async def second() -> None:
        await works(path)
        served.set()

    async with connected(path) as first:
        await first.bring_up()
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        assert not served.is_set()
        assert await first.echo(b"mine") == b"mine"
    await served.wait()


async def test_each_connection_may_have_its_own_device(nursery: trio.Nursery, path: str) -> None:
    closed: list[Echo] = []

    class Closing(Echo):
        def close(self) -> None:
            closed.append(self)

    await nursery.start(partial(serve_vhost_user, None, path, make_device=Closing))
    async with connected(path) as one, connected(path) as other:
        await one.bring_up()
        await other.bring_up()
        assert await one.echo(b"one") == b"one"
        assert await other.echo(b"other") == b"other"
        assert not closed
    while len(closed) < 2:
        await trio.lowlevel.checkpoint()


async def test_connects_again_when_the_frontend_comes_back(
    nursery: trio.Nursery, path: str, autojump_clock: trio.testing.MockClock
) -> None:
    await nursery.start(partial(serve_vhost_user, Echo(), path, connect=True))
    for _ in range(2):
        with trio.socket.socket(socket.AF_UNIX) as listener:
            await listener.bind(path)
            listener.listen()
            sock, _ = await listener.accept()
        os.unlink(path)
        frontend = Frontend(sock)
        await frontend.bring_up()
        assert await frontend.echo(b"hello") == b"hello"
        frontend.close()


async def test_given_listener_is_used(nursery: trio.Nursery, path: str) -> None:
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()

    assert await nursery.start(serve_vhost_user, Echo(), trio.SocketListener(sock)) == path
    await works(path)


async def test_bug_of_the_device_ends_only_the_connection(
    nursery: trio.Nursery, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    await nursery.start(serve_vhost_user, Buggy(), path)
    async with connected(path) as frontend:
        await frontend.bring_up()
        frontend.offer(b"fail")
        assert await frontend.channel.receive() is None

    await works(path)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


async def test_frontend_that_vanishes_cancels_what_it_asked_for(
    nursery: trio.Nursery, path: str
) -> None:
    device = Parked()
    await nursery.start(serve_vhost_user, device, path)
    async with connected(path) as frontend:
        await frontend.bring_up()
        frontend.offer(b"slow")
        while not device.entered:
            await trio.lowlevel.checkpoint()
    while not device.cancelled:
        await trio.lowlevel.checkpoint()


async def test_frontend_that_vanishes_while_a_queue_drains_is_noticed(
    nursery: trio.Nursery, path: str
) -> None:
    device = Parked()
    await nursery.start(serve_vhost_user, device, path)
    async with connected(path) as frontend:
        await frontend.bring_up()
        frontend.offer(b"slow")
        while not device.entered:
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0):
            await frontend.base()
    while not device.cancelled:
        await trio.lowlevel.checkpoint()


async def test_connections_without_end_are_survived(nursery: trio.Nursery, path: str) -> None:
    await nursery.start(serve_vhost_user, Echo(), path)
    before = open_files()
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            try:
                sock.connect(path)
            except BlockingIOError:
                await trio.lowlevel.checkpoint()

    served = False
    while not served:  # trio takes EAGAIN, a backlog that is full, for a connection
        with suppress(trio.BrokenResourceError):
            await works(path)
            served = True
    while open_files() != before:  # the last connection is being closed
        await trio.lowlevel.checkpoint()


async def test_device_that_cannot_be_is_told_of_at_once(path: str) -> None:
    class Odd(Echo):
        queue_sizes = (17,)

    with pytest.raises(ValueError, match="17"):
        await serve_vhost_user(Odd(), path)


async def test_device_or_maker_has_to_be_given(path: str) -> None:
    with pytest.raises(ValueError, match="either"):
        await serve_vhost_user(None, path)
    with pytest.raises(ValueError, match="either"):
        await serve_vhost_user(Echo(), path, make_device=Echo)
