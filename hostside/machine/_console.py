"""What the guest prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ._kvm import ffi, lib

if TYPE_CHECKING:
    from ._vm import Vm


class Console:
    """The guest's text, which comes byte by byte and is read as a whole or by lines.

    64 KiB are kept for a reader; what comes when that is full is dropped and counted
    (`MachineStatistics.console_lost`).
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._text = bytearray()
        self._buffer = ffi.new("char[]", lib.PV_CONSOLE_SIZE)
        self._ended = False

    def read(self) -> str:
        """Take all that was printed and not read yet."""
        self._fetch()
        text = self._text.decode("utf-8", "backslashreplace")
        self._text.clear()
        return text

    async def line(self) -> str:
        """Wait for the next line and take it, without its end.

        Cancelled, it has taken nothing. Raises `trio.EndOfChannel` when the run ended and no whole
        line is left; what is left then is `read`'s; `trio.BusyResourceError` if another task waits.
        """
        await trio.lowlevel.checkpoint()
        while True:
            ended = self._ended
            self._fetch()
            head, end, rest = self._text.partition(b"\n")
            if end:
                self._text = rest
                return head.decode("utf-8", "backslashreplace")
            if ended:
                raise trio.EndOfChannel
            await trio.lowlevel.wait_readable(self._vm.console_event)

    def _fetch(self) -> None:
        self._vm.clear_console_event()
        count = lib.pv_console_take(self._vm.c, self._buffer, len(self._buffer))
        self._text += ffi.buffer(self._buffer, count)

    def set_ended(self, ended: bool) -> None:
        """Note that a run ended or began, and wake who waits for a line."""
        self._ended = ended
        if ended:
            self._vm.ring_console_event()
