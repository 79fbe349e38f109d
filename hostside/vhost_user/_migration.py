"""What a frontend asks while it migrates its guest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from paravirt.transport import DirtyLog, PeerError
from paravirt.transport.vhost_user import Request, StatePipe, payloads as p

from ._bells import adopt
from ._log import check_covers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paravirt.transport.vhost_user import Incoming

    from ._rings import Rings
    from ._session import Handler
    from ._state import Transfer

__all__ = ()  # of use to this room only

REFUSED = 1

_log = logging.getLogger("paravirt.vhost_user")


class Migration:
    """Answers those messages, for a `Session`."""

    def __init__(self, rings: Rings, transfer: Transfer) -> None:
        self._rings = rings
        self._transfer = transfer

    @property
    def handlers(self) -> Mapping[int, Handler]:
        """What is answered here, by request."""
        return {
            Request.SET_LOG_BASE: self._set_log_base,
            Request.SET_LOG_FD: self._set_log_fd,
            Request.SET_DEVICE_STATE_FD: self._set_device_state_fd,
            Request.CHECK_DEVICE_STATE: self._check_device_state,
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
        async with self._rings.paused():
            self._rings.log.set_bell(adopt(incoming.fds))

    async def _set_device_state_fd(self, incoming: Incoming) -> p.Payload:
        try:
            self._begin(incoming)
        except PeerError as refusal:
            _log.warning("refused: %s", refusal)
            return p.StateAnswer(p.StateAnswer.NO_FD | REFUSED)
        return p.StateAnswer(p.StateAnswer.NO_FD)

    def _begin(self, incoming: Incoming) -> None:
        wanted = incoming.payload
        assert isinstance(wanted, p.StateTransfer)
        try:
            direction = p.StateDirection(wanted.direction)
        except ValueError:
            raise PeerError(f"a device's state in direction {wanted.direction}") from None
        if wanted.phase:
            raise PeerError(f"a device's state in phase {wanted.phase}")
        self._transfer.begin(direction, StatePipe(incoming.fds.take()))

    async def _check_device_state(self, _: Incoming) -> p.Payload:
        return p.Number(0 if await self._transfer.ended_well() else REFUSED)
