"""The threads of a machine's vCPUs, from the start of a run to its end."""

from __future__ import annotations

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
        self._limiter = trio.CapacityLimiter(len(vcpus))
        self._ends: list[int | Exception] = []
        self._ended = trio.Event()
        self._stalled = False
        self._over = False

    async def run(self, stall: float | None, task_status: trio.TaskStatus[None]) -> int:
        """Run all vCPUs; returns the guest's code when every thread has left the guest."""
        async with trio.open_nursery() as nursery:
            try:
                for vcpu in self._vcpus:
                    await nursery.start(self._drive, vcpu)
                task_status.started()
                if stall is not None:
                    nursery.start_soon(self._watch, stall)
                await self._ended.wait()
            finally:  # the nursery then waits for the threads, which nothing can interrupt
                self._over = True
                for vcpu in self._vcpus:
                    vcpu.stop()
            nursery.cancel_scope.cancel()
        if self._stalled:
            raise self._stall(stall)
        end = self._ends[0]
        if isinstance(end, Exception):
            raise end
        return end

    async def _drive(
        self, vcpu: Vcpu, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        token = trio.lowlevel.current_trio_token()

        def thread() -> int | None:
            token.run_sync_soon(task_status.started)
            return self._live(vcpu)

        with trio.CancelScope(shield=True):
            try:
                end = await trio.to_thread.run_sync(thread, limiter=self._limiter)
            except Exception as error:  # noqa: BLE001
                self._ends.append(error)
            else:
                if end is None:
                    return  # stopped
                self._ends.append(end)
        self._ended.set()

    def _live(self, vcpu: Vcpu) -> int | None:
        """Run a vCPU in this thread; returns the code that it ended with, None if stopped."""
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

    async def _watch(self, stall: float) -> None:
        """End a run in which for `stall` seconds no vCPU left the guest."""
        before = [-1]
        while (now := [vcpu.entries for vcpu in self._vcpus]) != before:
            before = now
            await trio.sleep(stall)
        self._stalled = True
        self._ended.set()

    def _stall(self, stall: float | None) -> GuestStalled:
        asleep = all(vcpu.halted() for vcpu in self._vcpus)
        what = "sleeps and nothing wakes it" if asleep else "runs on without an exit"
        first = self._vcpus[0].registers()
        return GuestStalled(f"the guest {what}, for {stall} s", first)
