"""Backends of vhost-user for the frontend's tests: QEMU's, DPDK's, and one that obeys."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import EventFd
from paravirt.transport.vhost_user import (
    BACKEND_REQUESTS,
    PROTOCOL_FEATURES,
    REQUESTS,
    Channel,
    Incoming,
    ProtocolFeature,
    Reply,
    Request,
)
from paravirt.transport.vhost_user.payloads import EMPTY, Inflight, Number, Payload, VringState
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

VERSION_1 = 1 << 32
NOTHING = ProtocolFeature(0)
INFLIGHT = Inflight(4096, 0, 2, 64)
"""What it says of the file for what is in flight."""


async def ready(process: trio.Process, path: Path) -> None:
    """Wait until a program made a file; fails if it ended instead."""
    while not await trio.Path(path).exists():
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def storage_daemon(image: Path, path: Path, queues: int = 1) -> AsyncGenerator[Path]:
    """Export an image by QEMU's storage daemon; yields the socket's path."""
    program = need("qemu-storage-daemon", "qemu-system-common")
    export = "type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,writable=on"
    command = [
        program,
        f"--blockdev=driver=file,node-name=d0,filename={image}",
        f"--export={export},addr.path={path},num-queues={queues}",
        f"--pidfile={path}.pid",  # written once the export listens
    ]
    process = await trio.lowlevel.open_process(command)
    try:
        await ready(process, path.with_name(f"{path.name}.pid"))
        yield path
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


@contextlib.asynccontextmanager
async def network_card(path: Path) -> AsyncGenerator[Path]:
    """Run DPDK's vhost as a network card that sends back what it is sent; yields the socket."""
    program = need("dpdk-testpmd", "dpdk-dev librte-net-vhost23 librte-mempool-ring23")
    memory = ["--no-huge", "-m", "128", f"--file-prefix=paravirt-{path.parent.name}"]
    card = ["--no-pci", "--lcores", "0@0,1@0", "--vdev", f"net_vhost0,iface={path},queues=1"]
    forward = ["--forward-mode=io", "--total-num-mbufs=4096", "--no-mlockall", "--stats-period=60"]
    process = await trio.lowlevel.open_process(
        [program, *memory, *card, "--", *forward],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await ready(process, path)
        yield path
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


@dataclass
class Scripted:
    """A backend that notes what it is asked, and answers from a dictionary."""

    path: Path
    protocol: ProtocolFeature = NOTHING
    answers: dict[int, Payload] = field(default_factory=dict[int, Payload])
    asked: list[int] = field(default_factory=list[int])
    acknowledged: set[int] = field(default_factory=set[int])
    """Those of them that were to be acknowledged."""
    values: dict[int, Payload] = field(default_factory=dict[int, Payload])
    back: Channel | None = None
    errors: list[EventFd] = field(default_factory=list[EventFd])
    leaves_at: int = 0
    """The request at which it closes the connection."""
    stalls_at: int = 0
    """The request that it never answers."""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncGenerator[Path]:
        """Serve one connection; yields the socket's path."""
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(self.path))
            listener.listen(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve, listener)
                try:
                    yield self.path
                finally:
                    nursery.cancel_scope.cancel()

    async def _serve(self, listener: trio.socket.SocketType) -> None:
        sock, _ = await listener.accept()
        channel = Channel(sock, REQUESTS)
        try:
            while (incoming := await channel.receive()) is not None:
                with incoming:
                    if incoming.header.request == self.leaves_at:
                        return
                    if incoming.header.request == self.stalls_at:
                        await trio.sleep_forever()
                    await self._answer(channel, incoming)
        finally:
            channel.close()
            for bell in self.errors:
                bell.close()
            if self.back is not None:
                self.back.close()

    async def _answer(self, channel: Channel, incoming: Incoming) -> None:
        request = incoming.header.request
        self.asked.append(request)
        if incoming.need_reply:
            self.acknowledged.add(request)
        self.values[request] = incoming.payload
        if request == Request.SET_BACKEND_REQ_FD:
            sock = socket.socket(fileno=incoming.fds.take())
            self.back = Channel(trio.socket.from_stdlib_socket(sock), BACKEND_REQUESTS)
            self.back.acknowledges = True
        elif request == Request.SET_VRING_ERR:
            self.errors.append(EventFd.adopt(incoming.fds.take()))
        own = incoming.message is not None and incoming.message.reply is Reply.OWN
        if request == Request.GET_INFLIGHT_FD:
            with os.fdopen(os.memfd_create("inflight"), "wb") as file:
                file.truncate(INFLIGHT.size)
                await channel.reply(request, INFLIGHT, [file.fileno()])
        elif own:
            await channel.reply(request, self._own(request, incoming.payload))
        else:
            answer = self.answers.get(request, Number(0))
            assert isinstance(answer, Number)
            await channel.acknowledge(incoming, answer.value)

    def _own(self, request: int, payload: Payload) -> Payload:
        usual: dict[int, Payload] = {
            Request.GET_FEATURES: Number(VERSION_1 | PROTOCOL_FEATURES),
            Request.GET_PROTOCOL_FEATURES: Number(int(self.protocol)),
            Request.GET_QUEUE_NUM: Number(2),
            Request.GET_STATUS: self.values.get(Request.SET_STATUS, Number(0)),
            Request.GET_VRING_BASE: VringState(0, 0),
            Request.GET_CONFIG: payload,
        }
        return {**usual, **self.answers}.get(request, EMPTY)
