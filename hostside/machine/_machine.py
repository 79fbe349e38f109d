"""A small virtual machine on KVM, for bare-metal payloads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import trio

from paravirt.doorbells.kvm import BellKind, BootPage, default_kind
from paravirt.transport import Memory, Region

from . import _elf, _layout
from ._console import Console
from ._host import READONLY, check_capabilities
from ._irqfd import Irqfd
from ._kvm import lib
from ._plug import BELLS, Plug
from ._run import Run
from ._standing import Standing
from ._statistics import MachineStatistics, Note, read_notes, read_statistics
from ._vm import Vm
from .snapshot import Snapshot, SnapshotError
from .text import Text, TextChanged, TextReport, divide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from paravirt.doorbells import DoorbellMaker
    from paravirt.doorbells.kvm import Vendor

    from .._device import Device
    from ._guest_end import GuestEnd
    from ._link import MachineLink
    from ._vcpu import Vcpu

MEMORY_SIZE: Final = 64 << 20
"""Bytes; pages that are never touched cost nothing."""
DRAIN: Final = 1.0
"""Seconds that handlers get to end before a snapshot records what they had in hand."""
_LOOK: Final = 0.001  # seconds between two looks at queues that drain
_LEAST_MEMORY: Final = 4 << 20  # the machine's own pages and stacks, and as much for the payload


class Machine:
    """A virtual machine whose memory is a Region and whose devices are served over links.

    `ring` is the privilege ring of the payload, 0 or 3. The layout of its memory, and what a
    payload finds in its registers, is in `core/layout.h` and `doorbells/guest/doorbell.h`: RDI is
    the address of the boot page, RSI the number of the vCPU.

    With `attest` a run whose end finds the guest's instructions changed raises TextChanged, in
    place of how it ended. With `readonly_text` nothing in the guest can write to them, and KVM for
    it neither: who tries ends the run with a GuestFault.

    Raises ValueError for a size or number that cannot be; `async with` raises KvmUnavailable where
    there is no KVM for it.
    """

    def __init__(
        self,
        *,
        memory_size: int = MEMORY_SIZE,
        vcpus: int = 1,
        ring: int = 3,
        attest: bool = False,
        readonly_text: bool = False,
    ) -> None:
        if memory_size % _layout.LARGE_PAGE or not _LEAST_MEMORY <= memory_size <= lib.PV_BLOCK:
            raise ValueError(
                f"a machine of {memory_size} bytes: it has a multiple of 2 MiB, 4 to 3328 MiB"
            )
        if not 0 < vcpus <= lib.PV_VCPUS:
            raise ValueError(f"a machine with {vcpus} vCPUs: it may have 1 to {lib.PV_VCPUS}")
        if ring not in (0, 3):
            raise ValueError(f"a payload in ring {ring}: it runs in ring 0 or 3")
        self.memory_size = memory_size
        self.ring = ring
        self._vcpu_count = vcpus
        self.links: list[MachineLink] = []
        """The devices, in the order in which they were plugged in."""
        self._ends: list[GuestEnd] = []
        self._end = lib.PV_PAYLOAD
        self._attest = attest
        self._readonly_text = readonly_text
        self._text: Text | None = None  # None: there is no payload
        self._running = False

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        region = Region.create(self.memory_size, addr=0)
        self.memory = Memory([region])
        """The guest's memory."""
        try:
            self._vm = Vm()
            try:
                self._make(region)
            except BaseException:
                self._vm.close()
                raise
        except BaseException:
            self.memory.close()
            raise
        return self

    def _make(self, region: Region) -> None:
        if self._readonly_text:
            check_capabilities(self._vm.ask, READONLY)
        self._vm.set_memory(region, divide(self.memory_size))
        for _ in range(self._vcpu_count):
            self._vm.add_vcpu()
        self.boot = BootPage(self.memory.view(lib.PV_BOOT, BootPage.SIZE)[0])
        """The page by which the guest learns of its doorbells."""
        self.console = Console(self._vm)
        """What the guest prints."""

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._running:
            raise RuntimeError("the machine is left while it runs: cancel `run` first")
        for link in self.links:
            link.close_driver_end()
            link.close_device_end()
        self.boot.close()
        self._vm.close()
        self.memory.close()

    @property
    def vm(self) -> Vm:
        """The virtual machine, for what else KVM can do with it."""
        return self._vm

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        """The vCPUs; their registers are theirs while they do not run."""
        return self._vm.vcpus

    @trio.lowlevel.enable_ki_protection
    def load(self, elf: Path | bytes) -> None:
        """Put a payload into memory; the next `run` starts it, whatever one before it has left.

        Raises ValueError for one that does not fit, or whose text cannot be read-only where that
        was asked for; OSError if it cannot be read, RuntimeError without pyelftools
        (`paravirt[kvm]`), trio.BusyResourceError while the machine runs.
        """
        self._check_idle()
        program = _elf.read(elf, self.memory_size)
        self._hold(Text.of(program))
        _layout.prepare(self.memory, self.memory_size)
        for end in self._ends:
            end.repeat()
        program.put(self.memory)
        self._end = program.end
        for vcpu in self._vm.vcpus:
            vcpu.reset(entry=program.entry, ring=self.ring, boot=lib.PV_BOOT)

    def _hold(self, text: Text) -> None:
        """Hold the guest to a text from now on."""
        if self._readonly_text:
            self._vm.set_memory(self.memory.regions[0], divide(self.memory_size, text))
        self._text = text

    @trio.lowlevel.enable_ki_protection
    def plug(
        self,
        device: Device,
        *,
        doorbell: DoorbellMaker | None = None,
        call_doorbell: DoorbellMaker = Irqfd,
        features: int = ~0,
    ) -> MachineLink:
        """Put a device behind a register block; serve it with `hostside.serve(device, link)`.

        `doorbell` makes the kick of each queue: PioIoeventfd if none is given, MmioIoeventfd where
        the CPU has no ports. `call_doorbell` makes the call. `features` masks what is offered. The
        link is closed with the machine.

        Raises ValueError for a device that virtio does not allow, for a doorbell that no guest can
        ring, or when there is no room for its queues; DoorbellRefused for one that this host lacks;
        trio.BusyResourceError while the machine runs.
        """
        self._check_idle()
        slot, first = len(self.links), len(self._ends)
        if slot == lib.PV_DEVICES or first + len(device.queue_sizes) > BELLS:
            raise ValueError(f"no room: {lib.PV_DEVICES} devices with {BELLS} queues in all")
        plug = Plug(self._vm, self.memory, self.boot, slot=slot, first_bell=first, ring=self.ring)
        doorbell = doorbell or default_kind(self._vm.architecture)
        link = plug.make(device, doorbell, call_doorbell, features)
        self.links.append(link)
        self._ends += plug.ends
        return link

    def _describe(self) -> None:
        """Tell the guest what it has: all that does not change while it runs."""
        pool = -(-self._end // 4096) * 4096
        always = (BellKind.NONE, BellKind.PIO, BellKind.MMIO, BellKind.VMPORT)
        self.boot.describe_machine(
            vendor=self._vm.vendor(),
            cpl=self.ring,
            kinds=(*always, *(end.kick.kind for end in self._ends)),
            console=lib.PV_CONSOLE,
            device=lib.PV_BLOCK,
            pool=pool,
            pool_size=self.memory_size - pool,
            vector=lib.PV_VECTOR,
            queues=len(self._ends),
        )

    def arguments(self, *values: int) -> None:
        """Tell the payload what to run; up to 16 numbers of 64 bits, the rest is 0."""
        self.boot.arguments = values

    @trio.lowlevel.enable_ki_protection
    async def run(
        self,
        *,
        stall: float | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> int:
        """Run the guest until it ends; returns its code.

        `started()` fires when all vCPUs have a thread that runs them. Cancelled, or met by Ctrl-C,
        it makes every vCPU leave the guest and waits for that; the registers stay, and the next
        `run` goes on from there. With `stall` it ends a guest in which no vCPU left for that many
        seconds: one that loops, or sleeps with nothing to wake it, but also one that only polls.

        Raises GuestFault, GuestStalled or another MachineError with the registers, TextChanged if
        it attests, RuntimeError without a payload, trio.BusyResourceError if it runs already.
        """
        if self._text is None:
            raise RuntimeError("there is nothing to run: load a payload first")
        self._check_idle()
        self._describe()
        self._running = True
        for end in self._ends:
            end.begin()
        self.console.set_ended(False)
        try:
            return await Run(self._vm.vcpus, self.memory, self._access).run(stall, task_status)
        finally:
            self._running = False
            self.console.set_ended(True)
            if self._attest and (report := self.attest()).changed:
                raise TextChanged(report)

    def attest(self) -> TextReport:
        """Compare the guest's instructions as they are with what was loaded.

        Raises RuntimeError without a payload, trio.BusyResourceError while the machine runs.
        """
        if self._text is None:
            raise RuntimeError("there is nothing to compare: load a payload first")
        self._check_idle()
        kinds = {name for end in self._ends for name in end.rung_by}
        return self._text.compare(self.memory, tuple(sorted(kinds)))

    @trio.lowlevel.enable_ki_protection
    async def snapshot(self, *, drain: float = DRAIN) -> Snapshot:
        """Record the machine while it stands still: memory, vCPUs, devices and queues.

        To be called between two runs, of which the first was cancelled. Requests at hand get up to
        `drain` seconds to end; what is in hand then is recorded and done again by whoever serves
        the restored machine, so handlers must be idempotent. The machine may go on afterwards. Of
        what a device keeps on its own it has what `Device.save_state` returns; the bytes of a disk
        are not in it. Cancelled, nothing was changed.

        Raises RuntimeError without a payload, SnapshotError for a device in the midst of a reset,
        with a broken queue or with too much state, trio.BusyResourceError while the machine runs.
        """
        if self._text is None:
            raise RuntimeError("there is nothing to record: load a payload first")
        self._check_idle()
        self._running = True
        try:
            with trio.move_on_after(drain):
                while not all(link.quiet for link in self.links):  # noqa: ASYNC110
                    await trio.sleep(_LOOK)
            await trio.lowlevel.checkpoint()
            return self._standing().record(end=self._end, text=self._text)
        finally:
            self._running = False

    def _standing(self) -> Standing:
        return Standing(self._vm, self.memory, self.links, self.ring)

    @trio.lowlevel.enable_ki_protection
    def restore(
        self, snapshot: Snapshot, *, vendor: Vendor | None = None, other_cpu: bool = False
    ) -> None:
        """Become what a snapshot says; the next `run` goes on from there.

        The machine is new, of the same size, and has equal devices plugged in, by whatever
        doorbells: what they offer, how large their queues are and what CPUID says is compared
        first. `vendor` has CPUID name that maker's CPU, and is then no difference; with `other_cpu`
        nothing in CPUID is, and registers that this CPU lacks are left out. Each
        device gets what its like saved, by `Device.load_state`. Each queue gets one kick and one
        interrupt, and the generation in the boot page changes. The guest's instructions are held
        against what they were when the payload was loaded, by the snapshot's word.

        Raises SnapshotError, naming what differs or cannot be: the machine is then to be left.
        RuntimeError if it has a payload already, trio.BusyResourceError while it runs.
        """
        self._check_idle()
        if self._text is not None:
            raise RuntimeError("only a new machine can be restored: this one has a payload")
        self._standing().become(snapshot, vendor=vendor, other_cpu=other_cpu)
        for end in self._ends:
            end.repeat()
        self.boot.begin_life()
        self._end = snapshot.end
        try:
            self._hold(snapshot.text)
        except (OSError, ValueError) as error:
            raise SnapshotError(f"its text: {error}") from error
        for link in self.links:
            link.wake()

    def _access(self, vcpu: Vcpu) -> None:
        """Serve an access to a register block, in the thread of the vCPU."""
        exits = vcpu.exit
        slot, offset = divmod(int(exits.address - lib.PV_BLOCK), int(lib.PV_WINDOW))
        if slot < len(self.links):
            value = exits.data if exits.write else None
            exits.data = self.links[slot].access(offset, exits.width, value)
        else:
            lib.pv_stray(self._vm.c)
            exits.data = 0

    def _check_idle(self) -> None:
        if self._running:
            raise trio.BusyResourceError("the machine runs")

    def notes(self) -> list[Note]:
        """Return what came with the latest notifications that carry data, the oldest first."""
        return read_notes(self._vm.c)

    def statistics(self) -> MachineStatistics:
        """Count what happened so far."""
        return read_statistics(self._vm.c)
