"""How a frontend takes the state of a device from one backend to the next."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import ProtocolFeature, Request, StatePipe
from paravirt.transport.vhost_user.payloads import StateAnswer, StateDirection, StateTransfer

if TYPE_CHECKING:
    from ._session import Session

__all__ = ()  # of use to this room only


async def save_state(session: Session) -> bytes:
    """Return the state that a backend saves."""
    with await _open(session, StateDirection.SAVE) as pipe:
        data = await pipe.receive()
    await _check(session, "saved")
    return data


async def load_state(session: Session, state: bytes) -> None:
    """Have a backend load what another one saved."""
    with await _open(session, StateDirection.LOAD) as pipe:
        try:
            await pipe.send(state)
        except BrokenPipeError:
            pass  # it has seen enough, and says of what
    await _check(session, "loaded")


async def _open(session: Session, direction: StateDirection) -> StatePipe:
    """Return our end of a pipe, or the one that the backend would rather use."""
    if ProtocolFeature.DEVICE_STATE not in session.agreed:
        raise NegotiationError("the backend's state cannot be moved: it lacks DEVICE_STATE")
    reading, writing = os.pipe()
    ours, theirs = (reading, writing) if direction is StateDirection.SAVE else (writing, reading)
    with ExitStack() as stack:
        pipe = stack.enter_context(StatePipe(ours))
        stack.callback(os.close, theirs)
        try:
            reply = await session.channel.request(
                Request.SET_DEVICE_STATE_FD, StateTransfer(direction, 0), [theirs]
            )
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("the backend's connection was closed") from None
        with reply:
            assert isinstance(reply.payload, StateAnswer)
            if reply.payload.value & 0xFF:
                raise NegotiationError("the backend does not move its state now")
            if len(reply.fds):
                return StatePipe(reply.fds.take())
        stack.pop_all()
        os.close(theirs)
    return pipe


async def _check(session: Session, what: str) -> None:
    if await session.number(Request.CHECK_DEVICE_STATE):
        raise NegotiationError(f"the backend could not be {what}: its log says why")
