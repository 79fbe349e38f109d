"""A doorbell lent to a loop in C, which reads it anew before each kick."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from ._faults import Faulty
from ._swap import SwappableKick, SwapRefused

if TYPE_CHECKING:
    from collections.abc import Generator

    from paravirt.doorbells import Doorbell

__all__ = ()


class LentBell:
    """A `DriverEnd`: what to ring now, and by which the loop rang last."""

    def __init__(self) -> None:
        self._cell: Any = ffi.new("struct pv_host_bell *")

    @property
    def c(self) -> Any:
        """The core's `struct pv_host_bell *`, for loops in C."""
        return self._cell

    def admit(self, bell: Doorbell) -> None:
        """Take a doorbell with a descriptor, or one that is never rung."""
        if bell.notifies and bell.fileno() is None:
            raise SwapRefused(f"a loop in C cannot ring this doorbell: {bell.describe()}")

    def tell(self, bell: Doorbell) -> None:
        """Have the loop ring this one from its next kick on."""
        fd = bell.fileno() if bell.notifies else None
        lib.pv_host_bell_put(self._cell, lib.PV_NO_BELL if fd is None else fd)

    def moved(self) -> bool:
        """Say whether the loop has come by since it was told."""
        return bool(lib.pv_host_bell_taken(self._cell))

    def drop(self, bell: Doorbell) -> None:
        """Do nothing: a descriptor that nobody rings has no place to be taken out of."""


@contextmanager
def lend(bell: Doorbell) -> Generator[LentBell, None, None]:
    """Lend a driver's doorbell to a loop in C; notifications then meet no faults.

    Raises `SwapRefused` for one that cannot be rung by a descriptor.
    """
    lent = LentBell()
    while isinstance(bell, Faulty):
        bell = bell.bell
    if not isinstance(bell, SwappableKick):
        lent.admit(bell)
        lent.tell(bell)
        yield lent
        return
    bell.enrol(lent)
    try:
        yield lent
    finally:
        bell.dismiss(lent)
