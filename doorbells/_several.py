"""Waiting at several doorbells at once, as while one takes another's place."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._base import Doorbell


async def wait_for_any(bells: Sequence[Doorbell]) -> None:
    """Wait until one of several doorbells is rung, or is one that never is; always a checkpoint.

    Raises what the first that fails raises. Cancelled, it has consumed nothing: what was taken in
    the same moment is rung again.
    """
    for bell in bells:
        if not bell.notifies:  # whoever waits at it looks, so the others need not be heard
            await bell.wait()
            return
    rung: list[Doorbell] = []
    errors: list[Exception] = []

    async def wait(bell: Doorbell) -> None:
        try:
            await bell.wait()
            rung.append(bell)
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for bell in bells:
                nursery.start_soon(wait, bell)
    except BaseException:
        for bell in rung:
            with suppress(trio.ClosedResourceError):
                bell.ring()
        raise
    if errors and not rung:
        raise errors[0]
