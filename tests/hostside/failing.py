"""Devices that fail when they are asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from paravirt.hostside import Device, Request, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .serving import Hand


class Typed(Device, abstract=True):
    """A type with a status byte: 0, the error's, or 255 for a bug."""

    device_id = 42
    queue_sizes: Sequence[int] = (16, 16)

    def __init__(self) -> None:
        self.failed: list[BaseException] = []

    def fail(self, request: Request, error: BaseException) -> bool:
        self.failed.append(error)
        status = error.status if isinstance(error, RequestError) else 255
        request.write(bytes([status]))
        return True

    def act(self, data: bytes) -> None:
        match data:
            case b"refuse":
                raise RequestError(5, "not today")
            case b"bug":
                raise ZeroDivisionError
            case b"second bug":
                raise LookupError
            case b"interrupt":
                raise KeyboardInterrupt
            case _:
                pass


class InLine(Typed):
    def handle(self, request: Request) -> None:
        data = request.read()
        self.act(data)
        request.reply(b"\0" + data)


class Suspends(Typed):
    """Waits at the gate if it is asked to, and does then what the request says."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()

    async def handle(self, request: Request) -> None:
        data = request.read()
        if data.startswith(b"wait "):
            await self.gate.wait()
            data = data.removeprefix(b"wait ")
        self.act(data)
        request.reply(b"\0" + data)


class InBatches(Typed):
    def handle_batch(self, requests: Sequence[Request]) -> None:
        for request in requests:
            data = request.read()
            self.act(data)
            request.reply(b"\0" + data)


class InAsyncBatches(InBatches):
    async def handle_batch(self, requests: Sequence[Request]) -> None:  # type: ignore[override]
        await trio.lowlevel.checkpoint()
        super().handle_batch(requests)


KINDS = [InLine, Suspends, InBatches, InAsyncBatches]


def replies(hand: Hand, rooms: Sequence[int]) -> list[bytes]:
    """Return the first bytes of each reply's room."""
    return [hand.memory.read(address, 4) for address in rooms]
