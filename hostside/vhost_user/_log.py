"""Whether, and where, the rings of one connection log the pages that they write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport import PeerError

if TYPE_CHECKING:
    from paravirt.doorbells import EventFd
    from paravirt.transport import DeviceRing, DirtyLog
    from paravirt.transport.vhost_user.payloads import VringAddress

    from ._regions import Regions

__all__ = ()  # of use to this room only


class Log:
    """What a frontend said of its log. It changes only while no ring runs."""

    def __init__(self) -> None:
        self.on = False
        """Whether the frontend accepted LOG_ALL."""
        self._pages: DirtyLog | None = None
        self._bell: EventFd | None = None

    @property
    def lacks_base(self) -> bool:
        """Whether it is on, and has nowhere to log to."""
        return self.on and self._pages is None

    def set_base(self, pages: DirtyLog) -> None:
        """Log there from now on."""
        self._pages = pages
        pages.ring_after_marks(self._bell)

    def set_bell(self, bell: EventFd | None) -> None:
        """Ring this after each mark; the one before is closed."""
        old, self._bell = self._bell, bell
        if self._pages is not None:
            self._pages.ring_after_marks(bell)
        if old is not None:
            old.close()

    def attach(self, ring: DeviceRing, address: VringAddress, regions: Regions) -> None:
        """Have a ring log what it writes, if that is asked for.

        Raises `PeerError` if the log has not a bit for each page that the ring may write.
        """
        if not self.on or self._pages is None:
            return
        check_covers(self._pages, regions)
        ring.log_to(self._pages, address.log if address.flags & address.LOG else None)

    def close(self) -> None:
        """Close the doorbell; idempotent."""
        self.set_bell(None)


def check_covers(pages: DirtyLog, regions: Regions) -> None:
    """Raise `PeerError` for a log that is too short: what has no bit would be lost in silence."""
    if regions.end > pages.end:
        raise PeerError(
            f"the log of dirty pages ends at {pages.end:#x}, guest memory at {regions.end:#x}"
        )
