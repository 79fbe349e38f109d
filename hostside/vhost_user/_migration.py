"""What a frontend asks while it migrates its guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport import DirtyLog
from paravirt.transport.vhost_user import Request, payloads as p

from ._bells import adopt
from ._log import check_covers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paravirt.transport.vhost_user import Incoming

    from ._rings import Rings
    from ._session import Handler

__all__ = ()  # of use to this room only


class Migration:
    """Answers those messages, for a `Session`."""

    def __init__(self, rings: Rings) -> None:
        self._rings = rings

    @property
    def handlers(self) -> Mapping[int, Handler]:
        """What is answered here, by request."""
        return {
            Request.SET_LOG_BASE: self._set_log_base,
            Request.SET_LOG_FD: self._set_log_fd,
        }

    async def _set_log_base(self, incoming: Incoming) -> p.Payload:
        area = incoming.payload
        assert isinstance(area, p.LogArea)
        pages = DirtyLog(incoming.fds.take(), size=area.size, offset=area.offset)
        check_covers(pages, self._rings.regions)
        async with self._rings.paused():  # nobody marks in the old one once this is answered
            self._rings.log.set_base(pages)
        await self._rings.refresh()
        return p.Number(0)

    async def _set_log_fd(self, incoming: Incoming) -> None:
        bell = adopt(incoming.fds)
        async with self._rings.paused():
            self._rings.log.set_bell(bell)
