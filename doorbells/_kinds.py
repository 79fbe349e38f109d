"""The kinds of doorbell that we make ourselves, and which of them this host has."""

from __future__ import annotations

import os
from typing import Final

from ._base import Capability, Doorbell
from ._direct import Direct
from ._eventfd import EventFd
from ._polling import Adaptive, Polling
from ._window import usable_cpus

KINDS: Final[tuple[type[Doorbell], ...]] = (Direct, EventFd, Polling, Adaptive)
"""For test fixtures and the command line; `doorbell=` takes any other maker as well."""


def probe() -> tuple[Capability, ...]:
    """Try each kind on this host; nothing is left open."""
    refusal = _try_eventfd()
    alone = usable_cpus() == 1
    return (
        Capability(Direct.name, available=True, reason="between tasks of one trio run"),
        Capability(EventFd.name, not refusal, refusal or "between threads and processes"),
        Capability(
            Polling.name,
            available=True,
            reason="one usable CPU: looks only once between two checkpoints"
            if alone
            else "takes one CPU while it waits",
        ),
        Capability(
            Adaptive.name,
            not refusal,
            refusal
            or (
                "one usable CPU: sleeps at once like eventfd, looks only if that pays"
                if alone
                else "looks for a while, then sleeps"
            ),
        ),
    )


def _try_eventfd() -> str:
    """Give the reason why EventFd cannot work here, or an empty string."""
    try:
        # Blocking, as a peer may set it: only a kernel with RWF_NOWAIT for eventfds refuses.
        fd = os.eventfd(0, os.EFD_CLOEXEC)
    except OSError as error:
        return f"eventfd: {error.strerror}"
    try:
        os.preadv(fd, [bytearray(8)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return ""
    except OSError as error:
        return f"needs Linux 5.8 to read an eventfd with RWF_NOWAIT: {error.strerror}"
    finally:
        os.close(fd)
    return "reading an empty eventfd did not say so"
