"""Driver, device and model against each other, over random operations.

The machine keeps its own books: which chain is where, and what its bytes must be. Every chain has
to come back once, in the order in which the device returned it, with the bytes that the device
wrote. A notification is asked for exactly when 2.7.7.2 and 2.7.10.1 say so, never by who does not
want any, and always by who sleeps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paravirt.transport._device_ring import BATCH
from paravirt.transport._features import Feature

from .ring_pair import CELL, CELLS, HOLE, RingPair, cell

if TYPE_CHECKING:
    from .ring_model import Segment

SIZES = [1, 2, 4, 8, 8, 16, 64, 64, 256, 2048, 32768]
STARTS = st.sampled_from([0, 32766, 65530, 65534, 65535])
LENGTHS = st.lists(st.integers(0, CELL), max_size=4)
STALE = 8  # tokens remembered to be tried again


@dataclass
class Chain:
    """What the machine knows of one chain."""

    head: int
    cells: list[int]
    buffers: int
    request: bytes
    writable: list[Segment]
    reply: bytearray
    """What must be in the writable buffers."""
    bad: bool = False
    used: int = 0


class RingMachine(RuleBasedStateMachine):
    """A queue between two ends; subclasses say which of them is the model's."""

    model_driver = False
    model_device = False

    @initialize(
        size=st.sampled_from(SIZES),
        indirect=st.booleans(),
        event_idx=st.booleans(),
        start=STARTS,
    )
    def begin(self, size: int, indirect: bool, event_idx: bool, start: int) -> None:
        features = Feature.RING_INDIRECT_DESC * indirect | Feature.RING_EVENT_IDX * event_idx
        self.pair = RingPair(
            size, features, model_driver=self.model_driver, model_device=self.model_device
        )
        self.size = size
        self.generation = 0
        self.late: list[int] = []
        self.seen: set[int] = set()
        self.reset(start)

    @rule(start=STARTS)
    def reset(self, start: int) -> None:
        """2.4: everything is forgotten; tokens of the time before are worth nothing."""
        self.generation += 1
        if self.generation > 1:
            self.late = [*self.late, *self.held][-STALE:]
        self.avail = self.used = start
        self.free = self.size
        self.cells = list(range(CELLS))
        self.added: list[Chain] = []
        self.offered: deque[Chain] = deque()
        self.held: dict[int, Chain] = {}
        self.returned: deque[Chain] = deque()
        self.device_sleeps = self.driver_sleeps = False
        self.device_disarmed = self.driver_disarmed = False
        self.driver = self.pair.start_driver(start)
        self.device = self.pair.start_device(start, start, self.generation)

    @precondition(lambda self: not self.held)
    @rule()
    def restart_the_device(self) -> None:
        """As a backend does that takes a queue over: it goes on where the other one stopped."""
        self.generation += 1
        avail, used = self.device.indices
        self.device = self.pair.start_device(avail, used, self.generation)

    # The driver.

    @rule(data=st.data(), readable=LENGTHS, writable=LENGTHS)
    def add(self, data: st.DataObject, readable: list[int], writable: list[int]) -> None:
        lengths = readable + writable
        if not 0 < len(lengths) <= min(self.size, len(self.cells)):
            return
        cells = [self.cells.pop() for _ in lengths]
        request = data.draw(st.binary(min_size=sum(readable), max_size=sum(readable)))
        segments = [(cell(at), n) for at, n in zip(cells, lengths, strict=True)]
        split = len(readable)
        self._fill(segments[:split], request)
        reply = bytearray(b"\xee" * sum(writable))
        self._fill(segments[split:], reply)
        self._add(Chain(0, cells, len(lengths), request, segments[split:], reply), segments[:split])

    @precondition(lambda self: self.cells)
    @rule(buffers=st.integers(1, 64), times=st.integers(1, 40))
    def add_long(self, buffers: int, times: int) -> None:
        """Add chains of many buffers that all lie in one place; enough to stall the device."""
        buffers = min(buffers, self.size)
        at = cell(self.cells[0])
        for _ in range(times):
            request = self.pair.memory.read(at, 1) * buffers
            self._add(Chain(0, [], buffers, request, [], bytearray()), [(at, 1)] * buffers)

    @rule(good=st.integers(0, 3))
    def add_bad(self, good: int) -> None:
        """End a chain outside memory, which the driver does not check."""
        if good < self.size:
            readable = [(cell(0), 1)] * good + [(HOLE, 4)]
            self._add(Chain(0, [], good + 1, b"", [], bytearray(), bad=True), readable)

    def _add(self, chain: Chain, readable: list[Segment]) -> None:
        head = self.driver.add(readable, chain.writable)
        needed = self.pair.needed(chain.buffers)
        assert (head is None) == (needed > self.free)
        if head is None:
            self.cells += chain.cells
            return
        chain.head = head
        self.free -= needed
        self.added.append(chain)

    def _fill(self, segments: list[Segment], data: bytes | bytearray) -> None:
        for at, n in segments:
            self.pair.memory.write(at, data[:n])
            data = data[n:]

    @precondition(lambda self: self.added)
    @rule()
    def publish(self) -> None:
        """2.7.10.1."""
        new = (self.avail + len(self.added)) % 65536
        needed = self.pair.words.kick_needed(self.avail, new)

        assert self.driver.publish() == needed
        assert not (needed and self.device_disarmed)
        self.avail = new
        self.offered += self.added
        self.added = []
        self.device_sleeps = self.device_sleeps and not needed

    @precondition(lambda self: self.returned)
    @rule()
    def reap(self) -> None:
        self.driver_sleeps = False
        flat = self.driver.reap()
        chains = [self.returned.popleft() for _ in flat[::2]]

        assert flat[::2] == [chain.head for chain in chains]
        assert flat[1::2] == [chain.used for chain in chains]
        assert len(chains) == BATCH or not self.returned
        for chain in chains:
            written = [self.pair.memory.read(at, n) for at, n in chain.writable]
            assert b"".join(written) == chain.reply
            self.cells += chain.cells
            self.free += self.pair.needed(chain.buffers)

    # The device.

    @precondition(lambda self: self.offered or self.held or self.late)
    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        """Complete some of what is held, and perhaps what is not; take what there is."""
        done = data.draw(st.permutations(list(self.held)), label="held")
        done = done[: data.draw(st.integers(0, len(done)), label="of these")]
        late = data.draw(st.lists(st.sampled_from(self.late), max_size=2)) if self.late else []
        lengths = [data.draw(st.integers(0, 3 * CELL)) for _ in done]
        self._turn(done, lengths, late)

    def _turn(self, done: list[int], lengths: list[int], late: list[int]) -> None:
        """2.7.7.2; 2.7.8.2: the used length is at most what is writable."""
        self.device_sleeps = False
        before, _ = self.device.indices
        flat = self.device.cycle(late + done, [1] * len(late) + lengths)
        count = (self.device.indices[0] - before) % 65536
        back: list[Chain] = []
        for token, length in zip(done, lengths, strict=True):
            chain = self.held.pop(token)
            chain.used = min(length, len(chain.reply))
            back.append(chain)
        back += self._taken(count, flat)
        self.returned += back
        self.late = [*self.late, *done][-STALE:]
        old, self.used = self.used, (self.used + len(back)) % 65536

        assert self.device.call_due == self.pair.words.call_needed(old, self.used)
        assert not (self.device.call_due and self.driver_disarmed)
        self.driver_sleeps = self.driver_sleeps and not self.device.call_due

    def _taken(self, count: int, flat: list[int]) -> list[Chain]:
        """Check what was taken; return the bad chains, which went back at once."""
        chains = [self.offered.popleft() for _ in range(count)]
        good = [chain for chain in chains if not chain.bad]

        assert flat[1::2] == [len(chain.request) << 32 | len(chain.reply) for chain in good]
        assert self.seen.isdisjoint(flat[::2])
        self.held.update(zip(flat[::2], good, strict=True))
        self.seen.update(flat[::2])
        assert chains or not self.offered or self.device.stalled
        assert self.held or not self.device.stalled
        return [chain for chain in chains if chain.bad]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), offset=st.integers(0, 2 * CELL), size=st.integers(0, 4 * CELL))
    def read(self, data: st.DataObject, offset: int, size: int) -> None:
        token = data.draw(st.sampled_from(list(self.held)))

        expected = self.held[token].request[offset : offset + size]
        assert self.device.read(token, offset, size) == expected

    @precondition(lambda self: self.held)
    @rule(data=st.data(), offset=st.integers(0, 2 * CELL), written=st.binary(max_size=2 * CELL))
    def write(self, data: st.DataObject, offset: int, written: bytes) -> None:
        token = data.draw(st.sampled_from(list(self.held)))
        reply = self.held[token].reply
        count = min(len(written), max(0, len(reply) - offset))

        assert self.device.write(token, offset, written) == count
        reply[offset : offset + count] = written[:count]

    # Both.

    @rule(length=st.integers(0, 3 * CELL))
    def exchange(self, length: int) -> None:
        """Let all that is under way come one step nearer to its end."""
        self.publish()
        self._turn(list(self.held), [length] * len(self.held), [])
        self.reap()

    @rule(device=st.booleans(), wanted=st.booleans())
    def ask(self, device: bool, wanted: bool) -> None:
        """Ask for notifications and go to sleep if there is nothing; or ask for none."""
        end, work = (self.device, self.offered) if device else (self.driver, self.returned)
        sleeps = False
        if wanted:
            found = end.arm()
            assert found == bool(work)
            sleeps = not found
        else:
            end.disarm()
        if device:
            self.device_sleeps, self.device_disarmed = sleeps, not wanted
        else:
            self.driver_sleeps, self.driver_disarmed = sleeps, not wanted

    # What holds at any time.

    @invariant()
    def each_end_sees_what_there_is(self) -> None:
        assert self.device.pending() == bool(self.offered)
        assert self.driver.pending() == bool(self.returned)

    @invariant()
    def nothing_comes_of_nothing(self) -> None:
        assert self.added or not self.driver.publish()
        assert self.returned or self.driver.reap() == []

    @invariant()
    def nobody_sleeps_over_work(self) -> None:
        assert not (self.device_sleeps and self.offered)
        assert not (self.driver_sleeps and self.returned)

    def teardown(self) -> None:
        """Let everything come back."""
        if not hasattr(self, "device"):
            return
        self.publish()
        while work := len(self.offered) + len(self.held) + len(self.returned):
            self._turn(list(self.held), [0] * len(self.held), [])
            self.reap()
            left = len(self.offered) + len(self.held) + len(self.returned)
            assert left < work or self.held

        assert self.free == self.size
        self.pair.memory.close()


class ModelDriverMachine(RingMachine):
    """The model drives the real device."""

    model_driver = True


class ModelDeviceMachine(RingMachine):
    """The model serves the real driver."""

    model_device = True


@pytest.mark.parametrize("machine", [RingMachine, ModelDriverMachine, ModelDeviceMachine])
def test_every_chain_comes_back_once_as_it_was_filled(machine: type[RingMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=60))
