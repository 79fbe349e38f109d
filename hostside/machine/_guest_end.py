"""The guest's end of a queue's kick: told by its boot page which doorbell it is to ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.doorbells.kvm import DoorbellRefused
from paravirt.transport import SwapRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.doorbells import Doorbell
    from paravirt.doorbells.kvm import BootPage, GuestKick

    from ._plug import Plug

__all__ = ()  # of use to this room only


class GuestEnd:
    """A `DriverEnd`, see transport/_swap.py: a guest rings without asking us."""

    def __init__(
        self, plug: Plug, boot: BootPage, queue: int, first_bell: int, runs: Callable[[], bool]
    ) -> None:
        self._plug = plug
        self._boot = boot
        self._queue = queue
        self._index = first_bell + queue
        self._runs = runs
        self._kicks: dict[Doorbell, GuestKick] = {}
        self._generation = 0
        self.rung_by: set[str] = set()
        """The kinds that the guest could ring since `begin`."""

    def begin(self) -> None:
        """Forget the kinds that are gone: the guest begins to run."""
        self.rung_by = {bell.name for bell in self._kicks}

    def admit(self, bell: Doorbell) -> None:
        """Register it with KVM; SwapRefused where one is there already and this cannot join it."""
        try:
            self._kicks[bell] = self._plug.attach(bell, self._queue)
        except (DoorbellRefused, ValueError, OSError) as error:
            if not self._kicks:
                raise
            raise SwapRefused(str(error)) from error
        self.rung_by.add(bell.name)

    def tell(self, bell: Doorbell) -> None:
        """Write it into the boot page."""
        self.kick = self._kicks[bell]
        self.repeat()

    def repeat(self) -> None:
        """Write it again: the page was made anew."""
        self._generation = self._boot.put_bell(self._index, self.kick)

    def moved(self) -> bool:
        """Say whether the guest has acknowledged, or has no queue that it could kick.

        Before DRIVER_OK it may not kick (virtio 1.4, 3.1.1), and reads its bell after that.
        """
        return not self._runs() or self._boot.follows(self._index, self._generation)

    def drop(self, bell: Doorbell) -> None:
        """Take it from KVM."""
        self._plug.detach(bell, self._queue, self._kicks.pop(bell))
