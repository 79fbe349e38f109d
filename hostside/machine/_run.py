"""The threads of a machine's vCPUs, from the start of a run to its end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from ._errors import GuestStalled
from ._faults import raise_for
from ._kvm import lib

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paravirt.transport import Memory

    from ._vcpu import Vcpu

__all__ = ()  # of use to this room only


class Run:
    """One run: a thread a vCPU, until one of them ends it or it is cancelled."""

    def __init__(
        self, vcpus: Sequence[Vcpu], memory: Memory, access: Callable[[Vcpu], None]
    ) -> None:
        self._vcpus = vcpus
        self._memory = memory
        self._access = access
        self._token = trio.lowlevel.current_trio_token()
        self._ends: list[int | Exception] = []
        self._started = 0
        self._begun = 0
        self._out = 0
        self._all_begun = trio.Event()
        self._ended = trio.Event()
        self._one_out = trio.Event()
        self._over = False

    @trio.lowlevel.enable_ki_protection
    async def run(self, stall: float | None, task_status: trio.TaskStatus[None]) -> int:
        """Run all vCPUs; returns the guest's code when every thread has left the guest.

        A guest that ends just when the run is cancelled has ended.
        """
        await trio.lowlevel.checkpoint()
        stalled = False
        try:
            self._start()
            await self._all_begun.wait()
            task_status.started()
            stalled = await self._wait(stall)
        except BaseException as error:
            await self._leave()
            if not self._ends or not isinstance(error, trio.Cancelled):
                raise
        else:
            await self._leave()
        if stalled:
            raise self._stall(stall)
        end = self._ends[0]
        if isinstance(end, Exception):
            raise end
        return end

    def _start(self) -> None:
        for vcpu in self._vcpus:
            thread = partial(self._thread, vcpu)
            trio.lowlevel.start_thread_soon(thread, lambda end: self._deliver(end.unwrap()))
            self._started += 1

    async def _wait(self, stall: float | None) -> bool:
        """Wait for the end; True if for `stall` seconds no vCPU left the guest."""
        if stall is None:
            await self._ended.wait()
        before: list[int] = []
        while not self._ended.is_set():
            now = [vcpu.entries for vcpu in self._vcpus]
            if now == before:
                return True
            before = now
            with trio.move_on_after(stall or 0):
                await self._ended.wait()
        return False

    async def _leave(self) -> None:
        """Get every thread out of the guest; nothing can interrupt that."""
        self._over = True
        for vcpu in self._vcpus:
            vcpu.stop()
        with trio.CancelScope(shield=True):
            while self._out < self._started:
                await self._one_out.wait()

    def _stall(self, stall: float | None) -> GuestStalled:
        asleep = all(vcpu.halted() for vcpu in self._vcpus)
        what = "sleeps and nothing wakes it" if asleep else "runs on without an exit"
        first = self._vcpus[0].registers()
        return GuestStalled(f"the guest {what}, for {stall} s", first)

    # In the thread of a vCPU.

    def _live(self, vcpu: Vcpu) -> int | None:
        """Run a vCPU in this thread; returns the code that it ended with, None if stopped."""
        self._token.run_sync_soon(self._note_begun)
        while True:
            vcpu.allow()
            vcpu.do_chores()
            if self._over:  # looked at after `allow`, which undoes a stop
                return None
            while (left := vcpu.enter()) != lib.PV_LEFT_STOPPED:
                if left == lib.PV_LEFT_ACCESS:
                    self._access(vcpu)
                elif left == lib.PV_LEFT_CODE:
                    code: int = vcpu.exit.data
                    return code
                else:
                    raise_for(left, vcpu, self._memory)

    def _thread(self, vcpu: Vcpu) -> int | Exception | None:
        try:
            return self._live(vcpu)
        except Exception as error:  # noqa: BLE001
            return error

    def _deliver(self, end: int | Exception | None) -> None:
        self._token.run_sync_soon(self._note_out, end)

    # Back in trio.

    def _note_begun(self) -> None:
        self._begun += 1
        if self._begun == len(self._vcpus):
            self._all_begun.set()

    def _note_out(self, end: int | Exception | None) -> None:
        if end is not None:
            self._ends.append(end)
            self._ended.set()
        self._out += 1
        self._one_out.set()
        self._one_out = trio.Event()
