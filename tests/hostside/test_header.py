"""What a device has at hand of each request without a copy of its own."""

from __future__ import annotations

import pytest

from paravirt.hostside import Device, Request

from .serving import served


class Headed(Device):
    """Answers with what it read in two pieces."""

    device_id = 42
    header_size = 4

    def __init__(self, first: int) -> None:
        self._first = first

    def handle(self, request: Request) -> None:
        request.reply(request.read(self._first) + b"|" + request.read())


@pytest.mark.parametrize("first", [3, 4, 5])
@pytest.mark.parametrize("data", [b"", b"abc", b"abcd", b"abcdefgh"])
async def test_a_header_reads_as_it_would_without(first: int, data: bytes) -> None:
    async with served(Headed(first)) as it:
        many = await it.driver.request_many([(data, 16), (b"0123456", 16)])

    assert many == [
        data[:first] + b"|" + data[first:],
        b"0123456"[:first] + b"|" + b"0123456"[first:],
    ]
