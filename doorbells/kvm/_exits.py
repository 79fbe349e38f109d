"""Doorbells that end in user space, where the machine's loop writes the eventfd: the baselines."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Final

from ._boot_page import BellKind, GuestKick
from ._guest_bell import DoorbellRefused, ExitSource, GuestBell

__all__ = ("MmioExit", "PioExit", "Vmport")

# VMware's commands are small numbers; this one is none of theirs (open-vm-tools, backdoor_def.h).
VMPORT_COMMAND: Final = 0x7076


class Exit(GuestBell):
    """What the three below share."""

    x86_only: ClassVar[bool] = True

    def _assign(self, exits: ExitSource, queue: int) -> GuestKick:
        if self.x86_only and exits.architecture != "x86_64":
            raise DoorbellRefused(f"{self.name}: {exits.architecture} has no port I/O")
        kick = self._choose(exits, queue)
        exits.route(kick.kind, kick.address, self._fd, kick.width, self._matched(kick))
        return kick

    def _deassign(self, exits: ExitSource, kick: GuestKick) -> None:
        exits.unroute(kick.kind, kick.address, self._fd, kick.width, self._matched(kick))

    @abstractmethod
    def _choose(self, exits: ExitSource, queue: int) -> GuestKick:
        """Say what the guest must do."""

    def _matched(self, kick: GuestKick) -> int | None:  # noqa: ARG002
        """Give the value that an exit must have, None for any."""
        return None


class PioExit(Exit):
    """OUT of two bytes to a port that nobody in the kernel listens to."""

    name: ClassVar[str] = "pio-exit"

    def _choose(self, exits: ExitSource, queue: int) -> GuestKick:
        return GuestKick(BellKind.PIO, 2, exits.pio_port(queue, shared=False), queue)


class MmioExit(Exit):
    """A store of four bytes to an address that nobody in the kernel listens to."""

    name: ClassVar[str] = "mmio-exit"
    x86_only: ClassVar[bool] = False

    def _choose(self, exits: ExitSource, queue: int) -> GuestKick:
        return GuestKick(BellKind.MMIO, 4, exits.mmio_address(queue, shared=False), queue)


class Vmport(Exit):
    """VMware's backdoor: IN from one port, with data in six registers.

    Shows what carrying data in a notification costs: every register has to be fetched and put back.
    """

    name: ClassVar[str] = "vmport"

    def _choose(self, exits: ExitSource, queue: int) -> GuestKick:
        command = exits.identity(queue) << 16 | VMPORT_COMMAND
        return GuestKick(BellKind.VMPORT, 4, command, queue)

    def _matched(self, kick: GuestKick) -> int | None:
        return kick.value
