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
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path

VERSION_1 = 1 << 32
NOTHING = ProtocolFeature(0)
INFLIGHT = Inflight(4096, 0, 2, 64)
"""What it says of the file for what is in flight."""


async def hear(stream: trio.abc.ReceiveStream | None, words: bytes) -> None:
    """Read what a program says until it says this; fails if it ends instead."""
    assert stream is not None
    said = b""
    while words not in said:
        more = await stream.receive_some()
        assert more, f"the program ended; it had said {said!r}"
        said += more


@contextlib.contextmanager
def storage_daemon(
    image: Path, path: Path, queues: int = 1, *, writable: bool = True
) -> Generator[Path]:
    """Export an image by QEMU's storage daemon; yields the socket's path.

    It gets a socket that listens already, so nobody has to wait for it.
    """
    program = need("qemu-storage-daemon", "qemu-system-common")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        export = f"type=vhost-user-blk,id=e0,node-name=d0,addr.type=fd,addr.str={fd}"
        options = f"writable={'on' if writable else 'off'},num-queues={queues}"
        blockdev = f"--blockdev=driver=file,node-name=d0,filename={image}"
        process = subprocess.Popen(
            [program, blockdev, f"--export={export},{options}"], pass_fds=[fd]
        )
    with process:
        try:
            yield path
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def network_card(path: Path) -> AsyncGenerator[Path]:
    """Run DPDK's vhost as a network card that sends back what it is sent; yields the socket."""
    program = need("dpdk-testpmd", "dpdk-dev librte-net-vhost23 librte-mempool-ring23")
    memory = ["--no-huge", "-m", "128", f"--file-prefix=paravirt-{path.parent.name}"]
    card = ["--no-pci", "--lcores", "0@0,1@0", "--vdev", f"net_vhost0,iface={path},queues=1"]
    lines = ["stdbuf", "-oL", program]  # or it would keep them back, since it writes to a pipe
    forward = ["--forward-mode=io", "--total-num-mbufs=4096", "--no-mlockall", "--stats-period=60"]
    process = await trio.lowlevel.open_process(
        [*lines, *memory, *card, "--", *forward],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        await hear(process.stdout, b"Checking link statuses")  # of ports that were started
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
