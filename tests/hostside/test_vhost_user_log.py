"""A frontend that migrates its guest: the log of dirty pages, turned on and off under way.

QEMU, docs/interop/vhost-user.rst, "Migration".
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import pytest
import trio

from paravirt.doorbells import EventFd
from paravirt.transport import NegotiationError, PeerError
from paravirt.transport.vhost_user import VHOST_F_LOG_ALL, ProtocolFeature, Request, payloads as p
from tests.hostside.frontend import DATA, FEATURES, SIZE, Frontend, attached, open_files
from tests.hostside.serving import Echo, settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    Script: TypeAlias = Callable[[Frontend, int], Awaitable[object]]

ACK, LOG = ProtocolFeature.REPLY_ACK, ProtocolFeature.LOG_SHMFD
LOGGED = FEATURES | VHOST_F_LOG_ALL
PAGE = 4096
BYTES = 64
"""Of log, as many as the 2 MiB of guest addresses need."""
USED_LOG = 0x5000
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, PeerError)


@pytest.fixture
def file() -> Generator[int]:
    fd = os.memfd_create("log")
    os.ftruncate(fd, BYTES)
    yield fd
    os.close(fd)


def marked(file: int) -> set[int]:
    """Return the pages that are marked."""
    bits = os.pread(file, BYTES, 0)
    return {page for page in range(8 * BYTES) if bits[page // 8] >> page % 8 & 1}


async def base(frontend: Frontend, file: int, size: int = BYTES, offset: int = 0) -> None:
    """Say where to log to."""
    answer = await frontend.ask(Request.SET_LOG_BASE, p.LogArea(size, offset), [file])
    assert answer == p.Number(0)


async def turn(frontend: Frontend, features: int) -> None:
    await frontend.ask(Request.SET_FEATURES, p.Number(features))


async def log_used(frontend: Frontend, flags: int = p.VringAddress.LOG, at: int = USED_LOG) -> None:
    """Have the used ring logged, or not, as QEMU does while the ring runs."""
    address = msgspec.structs.replace(frontend.queues[0].address, flags=flags, log=at)
    await frontend.ask(Request.SET_VRING_ADDR, address)


def written(size: int, at: int = DATA) -> set[int]:
    """Return the pages of an answer to `echo`."""
    return set(range((at + size) // PAGE, (at + 2 * size - 1) // PAGE + 1))


async def test_log_is_turned_on_and_off_while_the_queue_runs(file: int) -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK | LOG)
        await frontend.echo(b"before")
        await base(frontend, file)
        assert not marked(file)
        await turn(frontend, LOGGED)
        await frontend.echo(b"x" * PAGE)
        assert marked(file) == written(PAGE)
        await log_used(frontend)
        await frontend.echo(b"y" * 10, at=DATA + 9 * PAGE)
        assert marked(file) == written(PAGE) | written(10, DATA + 9 * PAGE) | {5}
        await turn(frontend, FEATURES)
        os.pwrite(file, bytes(BYTES), 0)
        assert await frontend.echo(b"after") == b"after"
        assert not marked(file)


async def test_used_ring_is_not_logged_any_more_without_the_flag(file: int) -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK | LOG, LOGGED)
        await base(frontend, file)
        for flags, expected in (1, {5}), (0, set[int]()):
            await log_used(frontend, flags)
            os.pwrite(file, bytes(BYTES), 0)
            await frontend.echo(b"hello")
            assert marked(file) == written(5) | expected


async def test_nothing_is_written_before_there_is_a_log(file: int) -> None:
    """QEMU starts a device during a migration with LOG_ALL first, and sends the log last."""
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK | LOG, LOGGED)
        frontend.offer(b"early")
        await settled()
        assert not frontend.queues[0].ring.reap()
        await base(frontend, file)
        assert await frontend.reply(5) == b"early"
        assert marked(file) == written(5)


async def test_a_frontend_that_can_send_no_log_is_served_without() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK, LOGGED)

        assert await frontend.echo(b"hello") == b"hello"


async def test_a_new_log_takes_the_place_of_the_old(file: int) -> None:
    other = os.memfd_create("other")
    os.ftruncate(other, 2 * BYTES)
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK | LOG, LOGGED)
        await base(frontend, file)
        await base(frontend, other, offset=BYTES)
        await frontend.echo(b"hello")

    assert not marked(file)
    assert os.pread(other, 2 * BYTES, 0).find(1 << DATA // PAGE % 8) == BYTES + DATA // PAGE // 8
    os.close(other)


async def test_log_descriptor_is_rung_when_something_was_logged(file: int) -> None:
    async with attached(Echo()) as frontend:
        with closing(EventFd()) as bell:
            await frontend.bring_up(ACK | LOG, LOGGED)
            await base(frontend, file)
            await frontend.ask(Request.SET_LOG_FD, fds=[bell.fileno()])
            assert not bell.wait_blocking(0)
            await frontend.echo(b"hello")

            assert bell.wait_blocking(0)


async def test_other_features_stay_as_they_were_while_the_queue_runs() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK | LOG)
        with pytest.raises(NegotiationError):
            await turn(frontend, LOGGED & ~(1 << 29))

        assert await frontend.echo(b"hello") == b"hello"


async def short_for_memory(frontend: Frontend, file: int) -> None:
    await base(frontend, file, BYTES - 1)


async def longer_than_the_file(frontend: Frontend, file: int) -> None:
    await base(frontend, file, BYTES + 1)


async def beyond_the_file(frontend: Frontend, file: int) -> None:
    await base(frontend, file, BYTES, (1 << 64) - BYTES)


async def empty(frontend: Frontend, file: int) -> None:
    await base(frontend, file, 0)


async def endless(frontend: Frontend, file: int) -> None:
    await base(frontend, file, (1 << 64) - 1)


async def no_file_to_map(frontend: Frontend, _: int) -> None:
    with closing(EventFd()) as bell:
        await base(frontend, bell.fileno())


async def no_eventfd(frontend: Frontend, file: int) -> None:
    frontend.channel.acknowledges = False
    await frontend.ask(Request.SET_LOG_FD, fds=[file])
    await frontend.number(Request.GET_FEATURES)


async def used_ring_outside(frontend: Frontend, file: int) -> None:
    frontend.channel.acknowledges = False
    await base(frontend, file)
    await turn(frontend, LOGGED)
    await log_used(frontend, at=8 * BYTES * PAGE - 8)
    await frontend.number(Request.GET_FEATURES)


async def used_ring_behind_the_last_address(frontend: Frontend, file: int) -> None:
    frontend.channel.acknowledges = False
    await turn(frontend, LOGGED)
    await log_used(frontend, at=(1 << 64) - 1)
    await base(frontend, file)


async def memory_that_outgrows_the_log(frontend: Frontend, file: int) -> None:
    await base(frontend, file)
    await turn(frontend, LOGGED)
    frontend.channel.acknowledges = False
    row = p.MemoryRegion(8 * BYTES * PAGE, SIZE, 0, 0)
    await frontend.ask(
        Request.SET_MEM_TABLE,
        p.MemoryTable((frontend.row, row)),
        [
            frontend.region.fd,
            frontend.region.fd,
        ],
    )
    await base(frontend, file)


async def truncated_in_use(frontend: Frontend, file: int) -> None:
    await base(frontend, file)
    await turn(frontend, LOGGED)
    os.ftruncate(file, 0)
    frontend.offer(b"hello")
    assert await frontend.channel.receive() is None
    raise trio.BrokenResourceError


LIES = [
    short_for_memory,
    longer_than_the_file,
    beyond_the_file,
    empty,
    endless,
    no_file_to_map,
    no_eventfd,
    used_ring_outside,
    used_ring_behind_the_last_address,
    memory_that_outgrows_the_log,
    truncated_in_use,
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
async def test_a_log_that_cannot_be_ends_only_the_connection(
    lie: Script, file: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A page that has no bit would be lost without a word, and QEMU does not read the answer."""
    device = Echo()
    before = open_files()
    async with attached(device) as frontend:
        await frontend.bring_up(ACK | LOG)
        with pytest.raises(GONE):
            await lie(frontend, file)

    assert open_files() == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    async with attached(device) as frontend:
        await frontend.bring_up()
        assert await frontend.echo(b"next") == b"next"


async def test_log_without_memory_waits_for_memory(file: int) -> None:
    """Peers differ in their order of messages."""
    async with attached(Echo()) as frontend:
        await frontend.agree(int(ACK | LOG))
        await base(frontend, file, 1)
        await frontend.ask(Request.SET_FEATURES, p.Number(LOGGED))
        await base(frontend, file)
        await frontend.bring_up(features=LOGGED)
        await frontend.echo(b"hello")

    assert marked(file) == written(5)


async def test_log_is_refused_without_being_agreed_on(file: int) -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK)
        with pytest.raises(GONE):
            await base(frontend, file)
