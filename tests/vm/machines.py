"""Guests that stay up for many tests, since a start takes seconds."""

from __future__ import annotations

import queue
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from paravirt.hostside import Block
from paravirt.hostside.testing import LinuxGuest, Result
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence
    from pathlib import Path

    from paravirt.hostside.testing import Guest

T = TypeVar("T")
SECONDS = 60  # for one thing that a guest does, which takes a few
CPUS = 4


class Setting(NamedTuple):
    """A machine, how its driver kicks, and a kernel."""

    machine: str
    notify: str
    kernel: str

    def __str__(self) -> str:
        return "-".join(self)

    def guest(self, devices: Sequence[Block], files: dict[str, Path | bytes]) -> LinuxGuest:
        """Describe the guest."""
        return LinuxGuest(
            devices=devices,
            machine="microvm" if self.machine == "microvm" else "q35",
            notify="pio" if self.notify == "pio" else "mmio",
            kernel=self.kernel,
            cpus=CPUS,
            files=files,
            programs=["fio", "taskset"],
        )


SETTINGS = [
    Setting("q35", "mmio", "6.1"),
    Setting("q35", "pio", "6.12"),
    Setting("microvm", "mmio", "6.1"),
    Setting("q35", "mmio", "6.12"),
    Setting("q35", "pio", "6.1"),
    Setting("microvm", "mmio", "6.12"),
]
REBOOTED = SETTINGS[:3]
"""Each machine once: a restart takes as long as a start."""


class Disks(NamedTuple):
    """What is attached to a guest, in this order: vda, vdb and so on."""

    tree: Block
    """Has a file system with files in it."""
    fixed: Block
    """Can only be read."""
    scratch: Block
    """Nothing of worth on it."""
    growing: Block
    """Made larger by its test."""

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Generator[Disks]:
        """Open the images in a folder."""
        with ExitStack() as stack:
            yield cls(
                stack.enter_context(Block(folder / "tree.img", queues=CPUS)),
                stack.enter_context(Block(folder / "fixed.img", read_only=True)),
                stack.enter_context(Block(folder / "scratch.img", queues=CPUS)),
                stack.enter_context(Block(folder / "growing.img")),
            )


class Booted:
    """A guest with its disks, for tests outside of trio; it lives in a thread of its own."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting = setting
        self.folder = folder
        self.guest: Guest
        self.disks: Disks
        self._token: trio.lowlevel.TrioToken
        self._over = trio.Event()
        self._up: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    @contextmanager
    def up(self) -> Generator[Booted]:
        """Start it, and end it."""
        thread = threading.Thread(target=self._live)
        thread.start()
        error = self._up.get()
        if error is None:
            yield self
            self._token.run_sync_soon(self._over.set)
        thread.join()
        if error is not None:
            raise error

    def call(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Call a function in the thread of the guest."""

        async def limited() -> T:
            with trio.fail_after(SECONDS):
                return await function(*arguments)

        return trio.from_thread.run(limited, trio_token=self._token)

    def result(self, script: str) -> Result:
        """Run a script in the guest."""
        return self.call(self.guest.run, script)

    def run(self, script: str) -> str:
        """Run a script in the guest, where it has to go well; returns what it printed."""
        result = self.result(f"set -e\n{script}")
        assert result.status == 0, result.output
        return result.output

    def check_clean(self) -> None:
        """Let e2fsck look for faults of the file system, which is not mounted."""
        command = [need("e2fsck", "e2fsprogs"), "-fn", str(self.folder / "tree.img")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _live(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as error:  # noqa: BLE001  (raised in the thread of the tests)
            self._up.put(error)

    async def _run(self) -> None:
        with Disks.opened(self.folder) as self.disks, trio.fail_after(SECONDS) as limit:
            files: dict[str, Path | bytes] = {"/bin/scatter": self.folder / "scatter"}
            async with self.setting.guest(self.disks, files) as self.guest:
                limit.deadline = float("inf")
                self._token = trio.lowlevel.current_trio_token()
                self._up.put(None)
                await self._over.wait()
