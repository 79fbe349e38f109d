"""The messages of vhost-user, as data (QEMU, docs/interop/vhost-user.rst).

Left out is what only a GPU (33) or Xen has. Both ends parse, check, encode and document by this
table, and the tests make their hostile messages from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import payloads as p
from ._features import ProtocolFeature as Needs
from ._messages import Message, Reply, When, table
from ._requests import BackendRequest, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("BACKEND_REQUESTS", "REQUESTS", "document")


_NOTHING = Needs(0)


def _row(
    which: Request | BackendRequest,
    text: str,
    payload: type[p.Payload] = p.Empty,
    *,
    fds: tuple[int, int] = (0, 0),
    needs: Needs = _NOTHING,
    when: When = When.ANY,
) -> Message:
    """Return the row of a message that is acknowledged at most."""
    return Message(
        id=which, name=which.name, text=text, payload=payload, fds=fds, needs=needs, when=when
    )


def _ask(
    which: Request | BackendRequest,
    text: str,
    answer: type[p.Payload],
    payload: type[p.Payload] = p.Empty,
    *,
    fds: tuple[int, int] = (0, 0),
    answer_fds: tuple[int, int] = (0, 0),
    needs: Needs = _NOTHING,
    when: When = When.ANY,
    refusable: bool = False,
) -> Message:
    """Return the row of a message that has a reply of its own."""
    return Message(
        id=which,
        name=which.name,
        text=text,
        payload=payload,
        fds=fds,
        reply=Reply.OWN,
        answer=answer,
        answer_fds=answer_fds,
        refusable=refusable,
        needs=needs,
        when=when,
    )


_R = Request
_ONE = (1, 1)
_MAYBE = (0, 1)
_INBAND = Needs.INBAND_NOTIFICATIONS

REQUESTS: Mapping[int, Message] = table(
    _ask(_R.GET_FEATURES, "What virtio features are offered?", p.Number),
    _row(_R.SET_FEATURES, "These virtio features were negotiated.", p.Number),
    _row(_R.SET_OWNER, "This frontend owns the device from now on."),
    _row(_R.RESET_OWNER, "Deprecated: disable all queues; may be ignored."),
    _row(_R.SET_MEM_TABLE, "This is all of guest memory.", p.MemoryTable, fds=(0, p.MAX_REGIONS)),
    _ask(
        _R.SET_LOG_BASE,
        "Log what is written into this file.",
        p.Number,
        p.LogArea,
        fds=_ONE,
        needs=Needs.LOG_SHMFD,
    ),
    _row(_R.SET_LOG_FD, "Ring this when something was logged.", fds=_ONE),
    _row(_R.SET_VRING_NUM, "A queue has this size.", p.VringState, when=When.RING_STOPPED),
    _row(_R.SET_VRING_ADDR, "A queue lies here.", p.VringAddress, when=When.LOG_ONLY),
    _row(
        _R.SET_VRING_BASE,
        "A queue starts at this available index.",
        p.VringState,
        when=When.RING_STOPPED,
    ),
    _ask(
        _R.GET_VRING_BASE,
        "Stop a queue; which available index is next?",
        p.VringState,
        p.VringState,
    ),
    _row(_R.SET_VRING_KICK, "The driver rings this; starts a queue.", p.VringFile, fds=_MAYBE),
    _row(_R.SET_VRING_CALL, "Ring this to call the driver.", p.VringFile, fds=_MAYBE),
    _row(_R.SET_VRING_ERR, "Ring this when a queue breaks.", p.VringFile, fds=_MAYBE),
    _ask(_R.GET_PROTOCOL_FEATURES, "What protocol features are offered?", p.Number),
    _row(_R.SET_PROTOCOL_FEATURES, "These protocol features are agreed on.", p.Number),
    _ask(_R.GET_QUEUE_NUM, "How many queues are there?", p.Number, needs=Needs.MQ),
    _row(_R.SET_VRING_ENABLE, "A queue is enabled (1) or disabled (0).", p.VringState),
    _row(_R.SEND_RARP, "Announce this MAC address by RARP.", p.Number, needs=Needs.RARP),
    _row(_R.NET_SET_MTU, "The host's side has this MTU.", p.Number, needs=Needs.MTU),
    _row(_R.SET_BACKEND_REQ_FD, "This is the back channel.", fds=_ONE, needs=Needs.BACKEND_REQ),
    _row(_R.IOTLB_MSG, "A translation is given or taken back.", p.IotlbMessage),
    _row(
        _R.SET_VRING_ENDIAN,
        "A queue of a legacy device is little (0) or big (1) endian.",
        p.VringState,
        needs=Needs.CROSS_ENDIAN,
        when=When.RING_STOPPED,
    ),
    _ask(
        _R.GET_CONFIG,
        "What is in the configuration space?",
        p.ConfigAccess,
        p.ConfigAccess,
        needs=Needs.CONFIG,
        refusable=True,
    ),
    _row(_R.SET_CONFIG, "Write to the configuration space.", p.ConfigAccess, needs=Needs.CONFIG),
    _ask(
        _R.CREATE_CRYPTO_SESSION,
        "Open a session of a crypto device.",
        p.Opaque,
        p.Opaque,
        needs=Needs.CRYPTO_SESSION,
    ),
    _row(
        _R.CLOSE_CRYPTO_SESSION,
        "Close a session of a crypto device.",
        p.Number,
        needs=Needs.CRYPTO_SESSION,
    ),
    _ask(
        _R.POSTCOPY_ADVISE,
        "Prepare for postcopy; where can page faults be answered?",
        p.Empty,
        answer_fds=_MAYBE,
        needs=Needs.PAGEFAULT,
    ),
    _row(_R.POSTCOPY_LISTEN, "Register guest memory for page faults.", needs=Needs.PAGEFAULT),
    _ask(_R.POSTCOPY_END, "Postcopy is over.", p.Number, needs=Needs.PAGEFAULT),
    _ask(
        _R.GET_INFLIGHT_FD,
        "Make a file for inflight descriptors.",
        p.Inflight,
        p.Inflight,
        answer_fds=_MAYBE,
        needs=Needs.INFLIGHT_SHMFD,
    ),
    _row(
        _R.SET_INFLIGHT_FD,
        "Use this file for inflight descriptors.",
        p.Inflight,
        fds=_ONE,
        needs=Needs.INFLIGHT_SHMFD,
        when=When.DEVICE_STOPPED,
    ),
    _row(_R.RESET_DEVICE, "Reset the device and disable its queues.", needs=Needs.RESET_DEVICE),
    _row(_R.VRING_KICK, "Look at a queue.", p.VringState, needs=_INBAND),
    _ask(
        _R.GET_MAX_MEM_SLOTS,
        "How many memory regions can be added?",
        p.Number,
        needs=Needs.CONFIGURE_MEM_SLOTS,
    ),
    _row(
        _R.ADD_MEM_REG,
        "Guest memory has one more region.",
        p.MemoryRegion,
        fds=_ONE,
        needs=Needs.CONFIGURE_MEM_SLOTS,
    ),
    _row(
        _R.REM_MEM_REG,
        "Guest memory has one region less; a descriptor may come along.",
        p.MemoryRegion,
        fds=_MAYBE,
        needs=Needs.CONFIGURE_MEM_SLOTS,
    ),
    _row(_R.SET_STATUS, "The driver writes the device status.", p.Number, needs=Needs.STATUS),
    _ask(_R.GET_STATUS, "What is the device status?", p.Number, needs=Needs.STATUS),
    _ask(
        _R.GET_SHARED_OBJECT,
        "Give the shared object of this name.",
        p.Empty,
        p.ObjectName,
        answer_fds=_MAYBE,
        needs=Needs.SHARED_OBJECT,
    ),
    _ask(
        _R.SET_DEVICE_STATE_FD,
        "Save or load the device's state through this pipe.",
        p.StateAnswer,
        p.StateTransfer,
        fds=_ONE,
        answer_fds=_MAYBE,
        needs=Needs.DEVICE_STATE,
        when=When.DEVICE_STOPPED,
    ),
    _ask(
        _R.CHECK_DEVICE_STATE,
        "Was the device's state transferred?",
        p.Number,
        needs=Needs.DEVICE_STATE,
    ),
    _ask(
        _R.GET_SHMEM_CONFIG,
        "What shared memory regions are there?",
        p.SharedMemoryConfig,
        needs=Needs.SHMEM,
    ),
)
"""What a frontend may send."""

_B = BackendRequest
_BACK = Needs.BACKEND_REQ
_OBJECT = Needs.SHARED_OBJECT

BACKEND_REQUESTS: Mapping[int, Message] = table(
    _row(_B.IOTLB_MSG, "A translation is missing.", p.IotlbMessage, needs=_BACK),
    _row(_B.CONFIG_CHANGE_MSG, "The configuration space changed.", needs=Needs.CONFIG),
    _row(
        _B.VRING_HOST_NOTIFIER_MSG,
        "A queue can be kicked by a store here.",
        p.VringArea,
        fds=_MAYBE,
        needs=Needs.HOST_NOTIFIER,
    ),
    _row(_B.VRING_CALL, "Something came back on a queue.", p.VringState, needs=_INBAND),
    _row(_B.VRING_ERR, "A queue broke.", p.VringState, needs=_INBAND),
    _row(_B.SHARED_OBJECT_ADD, "This object is shared.", p.ObjectName, needs=_OBJECT),
    _row(_B.SHARED_OBJECT_REMOVE, "This object is not shared now.", p.ObjectName, needs=_OBJECT),
    _ask(
        _B.SHARED_OBJECT_LOOKUP,
        "Give the shared object of this name.",
        p.Number,
        p.ObjectName,
        answer_fds=_MAYBE,
        needs=_OBJECT,
    ),
    _row(
        _B.SHMEM_MAP,
        "Map this file into a shared memory region.",
        p.SharedMemoryMap,
        fds=_ONE,
        needs=Needs.SHMEM,
    ),
    _row(
        _B.SHMEM_UNMAP,
        "Take a mapping out of a shared memory region.",
        p.SharedMemoryMap,
        needs=Needs.SHMEM,
    ),
)
"""What a backend may send over the back channel."""


def document() -> str:
    """Return both tables as Markdown, for `docs/vhost-user.md`; a test holds that it is current."""
    lines: list[str] = []
    for title, rows in ("Frontend to backend", REQUESTS), ("Backend to frontend", BACKEND_REQUESTS):
        lines += [f"### {title}", "", *_HEAD, *map(_document_row, rows.values()), ""]
    return "\n".join(lines)


_HEAD = (
    "| id | message | carries | answered with | needs | legal |",
    "|---|---|---|---|---|---|",
)


def _document_row(row: Message) -> str:
    answer = "0 or an error, if asked"
    if row.reply is Reply.OWN:
        answer = _carried(row.answer, row.answer_fds) + (", or nothing" if row.refusable else "")
    needs = " or ".join(one.name or "" for one in Needs if one in row.needs)
    cells = (
        str(row.id),
        f"`{row.name}`: {row.text}",
        _carried(row.payload, row.fds),
        answer,
        needs,
        "" if row.when is When.ANY else row.when.value,
    )
    return f"| {' | '.join(cells)} |"


def _carried(payload: type[p.Payload], fds: tuple[int, int]) -> str:
    """Say what bytes and descriptors there are."""
    sizes = payload.sizes()
    least, most = sizes.start, sizes.stop - 1
    size = f"{least}" if least == most else f"{least} to {most}"
    parts = [] if payload is p.Empty else [f"{payload.__name__}, {size} bytes"]
    if fds[1]:
        count = f"{fds[0]}" if fds[0] == fds[1] else f"{fds[0]} to {fds[1]}"
        parts.append(f"{count} descriptor{'' if fds[1] == 1 else 's'}")
    return " and ".join(parts) or "nothing"
