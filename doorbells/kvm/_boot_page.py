"""The page by which the host tells a guest its doorbells: the twin of `guest/doorbell.h`."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ("BellKind", "BootPage", "GuestKick", "Vendor")

MAGIC: Final = 0x62767670  # "pvvb"
VERSION: Final = 1
BELLS: Final = 64
ARGUMENTS: Final = 16

# Offsets in bytes; tests/doorbells/kvm/test_boot_page.py asks a C compiler for the same numbers.
_MAGIC: Final = 0
_VERSION: Final = 4
_GENERATION: Final = 8
_VENDOR: Final = 12
_CPL: Final = 16
_KINDS: Final = 20
_CONSOLE: Final = 24
_DEVICE: Final = 32
_POOL: Final = 40
_POOL_SIZE: Final = 48
_INTERRUPTS: Final = 56
_VECTOR: Final = 64
_QUEUES: Final = 68
_ARGUMENTS: Final = 72
_BELLS: Final = 200
_BELL_SIZE: Final = 32
_BELL_KIND: Final = 4
_BELL_WIDTH: Final = 5
_BELL_ADDRESS: Final = 8
_BELL_VALUE: Final = 16
_BELL_TAKEN: Final = 24
_BELL_KICKING: Final = 28
_PICKED: Final = 2248
_UNDEFINED_HANDLER: Final = 2256


class BellKind(enum.IntEnum):
    """What the guest does to kick; `enum pv_bell_kind`, which says what the fields mean."""

    NONE = 0
    PIO = 1
    MMIO = 2
    HYPERV = 3
    XEN = 4
    MAP_GPA = 5
    VMPORT = 6


class Vendor(enum.IntEnum):
    """Which hypercall instruction a CPU has; `enum pv_vendor`."""

    INTEL = 0
    AMD = 1


class GuestKick(msgspec.Struct, frozen=True):
    """What the guest must do to ring one doorbell; `struct pv_bell` without its generations."""

    kind: BellKind
    width: int = 0
    """Bytes that PIO and MMIO write."""
    address: int = 0
    """A port, a guest-physical address, a connection or an event channel."""
    value: int = 0


class BootPage:
    """The page of one guest, in memory that the guest shares.

    Each store is one machine store. Bells may be put while the guest runs where stores are seen in
    order (x86); elsewhere only while it is stopped. `close` gives the memory back.
    """

    SIZE: Final = 4096

    def __init__(self, memory: memoryview) -> None:
        """Take `memory`, `SIZE` writable bytes, aligned to 8; what is there stays."""
        page = memory.cast("B")
        if page.nbytes != self.SIZE:
            raise ValueError(f"a boot page has {self.SIZE} bytes, not {page.nbytes}")
        self._bytes = page
        self._words = page.cast("I")
        self._longs = page.cast("Q")

    def close(self) -> None:
        """Let go of the memory; idempotent."""
        for view in (self._longs, self._words, self._bytes):
            view.release()

    def describe_machine(
        self,
        *,
        vendor: Vendor,
        cpl: int,
        kinds: Iterable[BellKind],
        console: int,
        device: int,
        pool: int,
        pool_size: int,
        vector: int,
        queues: int,
    ) -> None:
        """Fill in all that does not change while the guest runs, before it starts."""
        if not 0 <= queues <= BELLS:
            raise ValueError(f"a boot page has room for {BELLS} queues, not {queues}")
        words = {_MAGIC: MAGIC, _VERSION: VERSION, _VENDOR: vendor, _CPL: cpl, _VECTOR: vector}
        words |= {_QUEUES: queues, _KINDS: sum(1 << kind for kind in set(kinds))}
        longs = {_CONSOLE: console, _DEVICE: device, _POOL: pool, _POOL_SIZE: pool_size}
        for offset, value in words.items():
            self._words[offset // 4] = value
        for offset, value in longs.items():
            self._longs[offset // 8] = value

    @property
    def generation(self) -> int:
        """Which life of the guest this is; changes when it was restored."""
        return self._words[_GENERATION // 4]

    def begin_life(self) -> None:
        """Make the guest pick its hypercall instruction anew; call after a restore."""
        self._words[_GENERATION // 4] = (self.generation + 1) & 0xFFFFFFFF

    @property
    def vendor(self) -> Vendor:
        """Whose hypercall instruction the guest uses; in ring 0 it says so itself."""
        return Vendor.AMD if self._words[_VENDOR // 4] == Vendor.AMD else Vendor.INTEL

    @property
    def interrupts(self) -> int:
        """How many interrupts the guest has taken."""
        return self._longs[_INTERRUPTS // 8]

    @property
    def arguments(self) -> tuple[int, ...]:
        """What the payload is told to run."""
        return tuple(self._longs[_ARGUMENTS // 8 : _ARGUMENTS // 8 + ARGUMENTS])

    @arguments.setter
    def arguments(self, values: Sequence[int]) -> None:
        if len(values) > ARGUMENTS:
            raise ValueError(f"a boot page has room for {ARGUMENTS} arguments, not {len(values)}")
        for index in range(ARGUMENTS):
            value = values[index] if index < len(values) else 0
            self._longs[_ARGUMENTS // 8 + index] = value

    def put_bell(self, queue: int, kick: GuestKick) -> int:
        """Tell the guest how to kick a queue from now on; returns the bell's new generation.

        A guest that kicks at this moment waits until the bell is whole. `follows` tells when it is
        the only one that it kicks by. x86 keeps stores in their order, and no other CPU runs this.
        """
        at = self._bell(queue)
        generation = self._words[at // 4] & ~1
        self._words[at // 4] = generation | 1
        self._bytes[at + _BELL_KIND] = kick.kind
        self._bytes[at + _BELL_WIDTH] = kick.width
        self._longs[(at + _BELL_ADDRESS) // 8] = kick.address
        self._longs[(at + _BELL_VALUE) // 8] = kick.value
        generation = (generation + 2) & 0xFFFFFFFF
        self._words[at // 4] = generation
        return generation

    def bell(self, queue: int) -> GuestKick:
        """Return what the guest does now to kick a queue."""
        at = self._bell(queue)
        return GuestKick(
            BellKind(self._bytes[at + _BELL_KIND]),
            self._bytes[at + _BELL_WIDTH],
            self._longs[(at + _BELL_ADDRESS) // 8],
            self._longs[(at + _BELL_VALUE) // 8],
        )

    def taken(self, queue: int) -> int:
        """Return the generation of the bell that the guest kicked last, stored after the kick."""
        return self._words[(self._bell(queue) + _BELL_TAKEN) // 4]

    def follows(self, queue: int, generation: int) -> bool:
        """Say whether the guest kicks by the bell of this generation, and by none before.

        The order of the two looks matters: see doorbell.h. A guest that writes something else there
        only keeps its own doorbells from being changed.
        """
        at = self._bell(queue)
        taken = self._words[(at + _BELL_TAKEN) // 4]
        before = 0xFFFF if generation // 2 % 2 else 0xFFFF0000  # the turn before this one
        return taken == generation and self._words[(at + _BELL_KICKING) // 4] & before == 0

    @property
    def undefined_handler(self) -> int:
        """Where the guest wants an invalid opcode to go in ring 0; 0: nowhere."""
        return self._longs[_UNDEFINED_HANDLER // 8]

    def _bell(self, queue: int) -> int:
        if not 0 <= queue < BELLS:
            raise ValueError(f"a boot page has bells for queues 0 to {BELLS - 1}, not {queue}")
        return _BELLS + _BELL_SIZE * queue
