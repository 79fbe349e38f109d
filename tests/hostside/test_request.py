"""A request: bytes in, bytes out."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import pytest

from paravirt.hostside import Device, Request

from .serving import Hand, by_hand, served

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

Use: TypeAlias = "Callable[[Request], object]"


class Script(Device):
    """Does to a request what the test says, and keeps what it returned."""

    device_id = 42
    queue_sizes = (16, 16)

    def __init__(self, use: Use) -> None:
        self.use = use
        self.found: object = None

    def handle(self, request: Request) -> None:
        self.found = self.use(request)


async def ask(use: Use, data: bytes = b"0123456789", room: int = 8) -> tuple[object, bytes]:
    """Return what `use` returned, and the reply."""
    device = Script(use)
    async with served(device) as it:
        reply = await it.driver.request(data, room, queue=1)
    return device.found, reply


@asynccontextmanager
async def asked(use: Use, data: bytes = b"0123456789", room: int = 8) -> AsyncGenerator[bytes]:
    """Yield the reply's room as guest memory has it after the device was there."""
    async with by_hand(Script(use)) as hand:
        reply = await used_room(hand, data, room)
        yield reply


async def used_room(hand: Hand, data: bytes, room: int) -> bytes:
    address = hand.offer(data, room)
    hand.memory.write(address, b"." * room)
    hand.show()
    for _ in range(100):
        if hand.rings[0].pending():
            break
        await hand.link.get_status()
    return hand.memory.read(address, room)


async def test_it_says_where_it_came_from_and_how_large_it_is() -> None:
    found, _ = await ask(lambda r: (r.queue, r.readable, r.writable, r.open, r.written))

    assert found == (1, 10, 8, True, 0)


async def test_reading_goes_on_where_the_last_read_ended() -> None:
    found, _ = await ask(lambda r: (r.read(3), r.read(4), r.read()))

    assert found == (b"012", b"3456", b"789")


async def test_a_read_is_short_at_the_end_then_empty() -> None:
    found, _ = await ask(lambda r: (r.read(99), r.read(1), r.read()))

    assert found == (b"0123456789", b"", b"")


async def test_a_read_without_a_size_is_short_of_what_only_a_liar_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guest may claim 4 GiB in each request."""
    monkeypatch.setattr("paravirt.hostside._request.READ_MOST", 4)
    found, _ = await ask(lambda r: (r.read(), r.read(5), r.read()))

    assert found == (b"0123", b"45678", b"9")


async def test_a_read_of_nothing_consumes_nothing() -> None:
    found, _ = await ask(lambda r: (r.read(0), r.read(-1), r.read(2)))

    assert found == (b"", b"", b"01")


async def test_writing_appends_and_says_what_fitted() -> None:
    found, reply = await ask(lambda r: (r.write(b"abc"), r.write(b"defgh"), r.write(b"i")))

    assert found == (3, 5, 0)
    assert reply == b"abcdefgh"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_kind_of_bytes_can_be_written(kind: Callable[[bytes], memoryview]) -> None:
    _, reply = await ask(lambda r: (r.write(kind(b"ab")), r.reply(kind(b"cdefghij"))))

    assert reply == b"abcdefgh"


async def test_items_of_a_view_are_bytes_to_the_guest() -> None:
    """A view of 32-bit items has four times as many bytes as items."""
    wide = memoryview(b"abcdefgh").cast("I")
    found, reply = await ask(lambda r: (r.write(wide), r.write(wide)), room=12)

    assert found == (8, 4)
    assert reply == b"abcdefghabcd"


async def test_a_view_with_gaps_is_the_devices_mistake() -> None:
    def write(request: Request) -> None:
        with pytest.raises(BufferError):
            request.write(memoryview(b"aXbXcX")[::2])

    assert await ask(write) == (None, b"")


async def test_write_at_places_and_what_lies_before_stays_the_guests() -> None:
    async with asked(lambda r: (r.write_at(5, b"xy"), r.write(b"a"))) as room:
        assert room == b"a....xy."


async def test_the_used_length_is_the_end_of_the_last_byte_written() -> None:
    """2.7.8: in whatever order they were written."""
    found, reply = await ask(lambda r: (r.write_at(4, b"ef"), r.write_at(0, b"a"), r.written))

    assert found == (2, 1, 6)
    assert len(reply) == 6


async def test_write_at_does_not_move_where_write_goes_on() -> None:
    _, reply = await ask(lambda r: (r.write(b"ab"), r.write_at(6, b"gh"), r.write(b"cd")))

    assert reply[:4] + reply[6:] == b"abcdgh"


@pytest.mark.parametrize(("offset", "fits"), [(0, 8), (5, 3), (8, 0), (9, 0), (1 << 40, 0)])
async def test_no_offset_is_too_large_to_ask_for(offset: int, fits: int) -> None:
    found, _ = await ask(lambda r: r.write_at(offset, b"12345678"))

    assert found == fits


async def test_a_negative_offset_is_the_devices_mistake() -> None:
    def place(request: Request) -> None:
        with pytest.raises(OverflowError):
            request.write_at(-1, b"12345678")

    async with asked(place) as room:
        assert room == b"." * 8


async def test_an_empty_write_does_not_lengthen_the_reply() -> None:
    found, reply = await ask(lambda r: (r.write(b""), r.write_at(5, b""), r.written))

    assert found == (0, 0, 0)
    assert reply == b""


async def test_what_does_not_fit_is_cut_and_counted() -> None:
    device = Script(lambda r: r.reply(b"0123456789"))
    async with served(device) as it:
        assert await it.driver.request(b"", 8) == b"01234567"
        assert await it.driver.request(b"", 10) == b"0123456789"
        assert await it.driver.request(b"", 0) == b""

        assert device.statistics().queues[0].cut == 2


async def test_reply_returns_what_fitted_and_ends_it() -> None:
    found, reply = await ask(lambda r: (r.write(b"01234"), r.reply(b"56789"), r.open, r.written))

    assert found == (5, 3, False, 8)
    assert reply == b"01234567"


AFTER: dict[str, Callable[[Request], object]] = {
    "reply": lambda r: r.reply(b""),
    "write": lambda r: r.write(b"x"),
    "write_at": lambda r: r.write_at(0, b"x"),
    "write_from_file": lambda r: r.write_from_file(0, 0, 1),
}


@pytest.mark.parametrize("action", AFTER)
async def test_nothing_can_be_written_after_the_reply(action: str) -> None:
    def late(request: Request) -> None:
        request.reply(b"a")
        with pytest.raises(RuntimeError, match="replied"):
            AFTER[action](request)

    _, reply = await ask(late)

    assert reply == b"a"


@pytest.mark.parametrize("action", [*AFTER])
async def test_a_request_kept_beyond_its_handler_is_over(action: str) -> None:
    kept: list[Request] = []
    async with served(Script(kept.append)) as it:
        await it.driver.request(b"", 8)
        [request] = kept
        assert not request.open
        if action == "write_from_file":
            assert request.write_from_file(0, 0, 1) == 0
            return
        with pytest.raises(RuntimeError, match="returned"):
            AFTER[action](request)


async def test_ids_are_not_used_again() -> None:
    seen: list[int] = []
    async with served(Script(lambda r: seen.append(r.id))) as it:
        for _ in range(40):
            await it.driver.request(b"")

    assert len(set(seen)) == 40


# Files.


def file_of(data: bytes) -> int:
    fd = os.memfd_create("paravirt-test")
    os.write(fd, data)
    return fd


async def test_a_file_is_written_into_the_reply() -> None:
    fd = file_of(b"abcdefgh")
    found, reply = await ask(lambda r: (r.write_from_file(fd, 2, 3), r.write(b"!")))
    os.close(fd)

    assert found == (3, 1)
    assert reply == b"cde!"


async def test_a_file_is_short_at_its_end_and_at_the_end_of_the_room() -> None:
    fd = file_of(b"abcdefgh")
    ends = await ask(lambda r: (r.write_from_file(fd, 6, 4), r.write_from_file(fd, 9, 4)))
    full = await ask(lambda r: (r.write_from_file(fd, 0, 7), r.write_from_file(fd, 0, 7)))
    os.close(fd)

    assert ends == ((2, 0), b"gh")
    assert full == ((7, 1), b"abcdefga")


async def test_a_request_is_written_to_a_file() -> None:
    fd = file_of(b"........")
    found, _ = await ask(lambda r: (r.read(2), r.read_to_file(fd, 3, 4), r.read()))
    data = os.pread(fd, 20, 0)
    os.close(fd)

    assert found == (b"01", 4, b"6789")
    assert data == b"...2345."


async def test_a_request_ends_before_the_file() -> None:
    fd = file_of(b"")
    found, _ = await ask(lambda r: (r.read_to_file(fd, 0, 99), r.read_to_file(fd, 0, 1)))
    data = os.pread(fd, 20, 0)
    os.close(fd)

    assert found == (10, 0)
    assert data == b"0123456789"


async def test_an_error_of_the_file_is_the_worlds() -> None:
    fd = os.open("/", os.O_RDONLY)

    def read(request: Request) -> None:
        with pytest.raises(IsADirectoryError):
            request.write_from_file(fd, 0, 8)
        request.reply(b"on")

    _, reply = await ask(read)
    os.close(fd)

    assert reply == b"on"
