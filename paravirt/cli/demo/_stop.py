"""Ctrl-C, turned into a question that the work asks between two pieces of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Self

from .._errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | None

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the user wants to end.

        with Stop() as stop:
            while work and not stop.asked: ...
            stop.check()

    An exception in the middle of a ring's work would lose track of what the device has; a question
    between two pieces, milliseconds apart, loses nothing. The second signal does raise
    `KeyboardInterrupt` at once. A signal that was ignored before stays so.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def check(self) -> None:
        """Raise the command's end if a signal came."""
        if self._number is not None:
            raise Interrupted(self._number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._number is not None:
            raise KeyboardInterrupt
        self._number = number
