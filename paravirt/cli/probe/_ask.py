"""Ask a backend what it offers, without starting anything."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import msgspec
import trio

from paravirt.guestside.vhost_user import VhostUserLink, connect_vhost_user
from paravirt.transport import NegotiationError
from paravirt.transport.wire.block import BlockConfig

from ._words import feature_names, feature_words, protocol_names, protocol_words

PAGE = 4096
"""Bytes of memory for a link that shares none."""
SIZES = (256, 64, 32, 16, 8)
"""Bytes of configuration to ask for, until the backend says that it has so many."""


class Document(msgspec.Struct, frozen=True):
    """What `probe --json` prints."""

    features: list[str]
    protocol_features: list[str]
    queues: int | None
    config: dict[str, int | str]


@dataclass(frozen=True)
class Findings:
    """The document, and what people see in its place."""

    document: Document
    features: list[str]
    protocol_features: list[str]
    slots: int
    without_config: str
    """Why there is no configuration to show."""


async def ask(path: str, device: str, seconds: float) -> Findings:
    """Connect, ask, and leave. Raises as `connect_vhost_user`, and `trio.TooSlowError`."""
    with trio.fail_after(seconds):
        async with connect_vhost_user(path, queues=0, memory_size=PAGE) as link:
            session = link.session
            config, reason = await _config(link, device)
            return Findings(
                Document(
                    feature_names(session.wire_features, device),
                    protocol_names(session.wire_protocol),
                    session.queues,
                    config,
                ),
                feature_words(session.wire_features, device),
                protocol_words(session.wire_protocol),
                session.slots,
                reason,
            )


async def _config(link: VhostUserLink, device: str) -> tuple[dict[str, int | str], str]:
    """Return the configuration space by field, or nothing and why."""
    try:
        if device == "none":
            return {"bytes": (await _largest(link)).rstrip(b"\0").hex()}, ""
        data, _ = await link.read_config(0, BlockConfig.wire_size())
    except NegotiationError as error:
        return {}, str(error)
    fields: dict[str, int | str] = {
        name: value
        for name, value in msgspec.structs.asdict(BlockConfig.from_bytes(data)).items()
        if isinstance(value, int) and not name.startswith("unused")
    }
    return fields, "all zero"


async def _largest(link: VhostUserLink) -> bytes:
    for size in SIZES[:-1]:
        with suppress(NegotiationError):
            return (await link.read_config(0, size))[0]
    return (await link.read_config(0, SIZES[-1]))[0]
