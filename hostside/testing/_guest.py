"""A guest that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from ._agent import Agent
    from ._monitor import Monitor
    from ._result import Result

__all__ = ("Guest",)

CONSOLE = 1 << 20
"""Bytes that are kept of the console: a guest can print for ever."""
LAST_LINES = 8
"""Lines of the console that are shown when the guest ended."""
GRACE = 2.0
"""Seconds for QEMU to be gone after it closed its connections."""


class Guest:
    """A running virtual machine; made by `LinuxGuest`."""

    def __init__(self, process: trio.Process, agent: Agent, monitor: Monitor) -> None:
        self.process = process
        """QEMU."""
        self._agent = agent
        self._monitor = monitor
        self._console = bytearray()
        self._gone = trio.Event()

    @property
    def console(self) -> str:
        """What the kernel, and QEMU itself, printed so far; the last MiB of it."""
        return self._console.decode(errors="replace").replace("\r", "")

    async def run(self, script: str) -> Result:
        """Run a script with `sh` in the guest and return its exit status and its output.

        It has a session of its own and no input, and several may run at once. It ends when its
        output is closed: one that leaves something running in the background has to send that
        one's output elsewhere. Raises `GuestError` if the guest ends meanwhile. Cancelled, the
        script is killed with all that it started, and what it had said is one line of the log.
        """
        return await self._agent.run(script)

    async def reboot(self) -> None:
        """Start the guest again, without a word to what runs in it, and wait until it is up.

        Raises `GuestError` if it does not come up. Cancelled, it may be in the middle of its start.
        """
        await self.qmp("set-action", reboot="reset")
        self._agent.expect_ready()
        await self.qmp("system_reset")
        await self._agent.ready()
        await self.qmp("set-action", reboot="shutdown")

    async def qmp(self, command: str, **arguments: object) -> Any:
        """Have QEMU carry out a command of its machine protocol, and return the answer.

        What has a - in QEMU's name is written with a _. Raises `GuestError` if QEMU refuses, or has
        ended. Cancelled, the command may be carried out or not.
        """
        plain = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await self._monitor.execute(command, plain)

    async def ready(self) -> None:
        """Wait until the guest can be told what to do. Raises `GuestError` if it ends instead."""
        await self._agent.ready()

    async def watch(self) -> None:
        """Keep what the console says, until QEMU ends; then fail what waits for the guest."""
        assert self.process.stdout is not None
        async for piece in self.process.stdout:
            self._console += piece
            del self._console[:-CONSOLE]
        status = await self.process.wait()
        self._gone.set()
        self._agent.end(f"the guest has ended (QEMU's status {status}): {self._last_words()}")

    async def lose(self, what: str) -> None:
        """Fail what waits for the guest, unless QEMU has ended: a device was given up."""
        with trio.move_on_after(GRACE):
            await self._gone.wait()
            return
        self._agent.end(f"{what} was given up in mid-use: the log of paravirt.vhost_user says why")

    def _last_words(self) -> str:
        """Return what the console said of the end, in one line."""
        lines = [line.strip() for line in self.console.splitlines() if line.strip()]
        panic = [line for line in lines if "Kernel panic" in line]
        return " | ".join(panic or lines[-LAST_LINES:]) or "it said nothing"
