"""The least device there can be."""

from __future__ import annotations

from paravirt.hostside import Device, Request


class Upper(Device):
    """Answer every request in capitals."""

    device_id = 42
    queue_sizes = (128,)

    async def handle(self, request: Request) -> None:
        text = request.read()
        request.reply(text.upper())
