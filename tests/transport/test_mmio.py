"""The virtio-mmio register block without any machine (virtio 1.4, 4.2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.transport import DeviceState, Feature, Status
from paravirt.transport.mmio import (
    CONFIG,
    Access,
    Answer,
    ConfigWritten,
    Interrupt,
    Kicked,
    MmioState,
    QueueStopped,
    Refusal,
    Register,
    ResetBegun,
    Started,
    access,
)

if TYPE_CHECKING:
    import random

R = Register
OFFERED = int(Feature.VERSION_1 | Feature.RING_EVENT_IDX)
MEMORY = (range(0x10000), range(0x10000, 0x20000), range(1 << 32, (1 << 32) + 0x1000))
UP = Status.ACKNOWLEDGE | Status.DRIVER
ACCEPTED = UP | Status.FEATURES_OK
SPACE = bytes(range(1, 11))


class Block:
    """A register block with its state, as a driver meets it."""

    def __init__(self) -> None:
        device = DeviceState(42, OFFERED, (256, 16), SPACE)
        self.state = MmioState.create(device, MEMORY)

    def do(self, offset: int, value: int | None = None, width: int = 4) -> Answer:
        answer = access(self.state, Access(offset, width, value))
        self.state = answer.state
        return answer

    def read(self, offset: int) -> int:
        answer = self.do(offset)
        assert answer.refusal is None
        return answer.value

    def write(self, *pairs: tuple[int, int]) -> None:
        for offset, value in pairs:
            assert self.do(offset, value).refusal is None, R(offset).name

    def accept(self, features: int = OFFERED) -> None:
        """Go as far as FEATURES_OK."""
        self.write((R.STATUS, Status.ACKNOWLEDGE), (R.STATUS, UP))
        for half in (0, 1):
            part = features >> 32 * half & 0xFFFFFFFF
            self.write((R.DRIVER_FEATURES_SEL, half), (R.DRIVER_FEATURES, part))
        self.write((R.STATUS, ACCEPTED))

    def set_up(self, queue: int = 0, *, size: int = 16, at: int = 0x1000) -> Answer:
        """Write a queue's size and addresses and make it ready."""
        self.write((R.QUEUE_SEL, queue), (R.QUEUE_SIZE, size))
        for register, address in (
            (R.QUEUE_DESC_LOW, at),
            (R.QUEUE_DRIVER_LOW, at + 16 * size),
            (R.QUEUE_DEVICE_LOW, at + 20 * size),
        ):
            self.write((register, address & 0xFFFFFFFF), (register + 4, address >> 32))
        return self.do(R.QUEUE_READY, 1)

    def start(self) -> Answer:
        """Run queue 0."""
        self.accept()
        assert self.set_up().refusal is None
        return self.do(R.STATUS, ACCEPTED | Status.DRIVER_OK)


@pytest.fixture
def block() -> Block:
    return Block()


def test_driver_can_tell_what_it_has_found(block: Block) -> None:
    """4.2.2.1: the magic value, version 2, the device type."""
    assert block.read(R.MAGIC_VALUE).to_bytes(4, "little") == b"virt"
    assert block.read(R.VERSION) == 2
    assert block.read(R.DEVICE_ID) == 42
    assert block.read(R.STATUS) == 0
    assert block.read(R.INTERRUPT_STATUS) == 0


def test_features_come_in_halves_and_there_are_two(block: Block) -> None:
    halves: list[int] = []
    for sel in (0, 1, 2, 0xFFFFFFFF):
        block.write((R.DEVICE_FEATURES_SEL, sel))
        halves.append(block.read(R.DEVICE_FEATURES))

    assert halves == [OFFERED & 0xFFFFFFFF, OFFERED >> 32, 0, 0]


def test_negotiation_ends_in_a_started_device(block: Block) -> None:
    answer = block.start()

    assert answer.effect == Started()
    assert block.state.device.features == OFFERED
    queue = block.state.device.queues[0]
    assert (queue.size, queue.desc, queue.driver, queue.device) == (16, 0x1000, 0x1100, 0x1140)
    assert block.read(R.QUEUE_READY) == 1


def test_features_that_were_not_offered_leave_features_ok_off(block: Block) -> None:
    """2.2.2: the driver reads the status again."""
    block.accept(OFFERED | Feature.RING_PACKED)

    assert block.read(R.STATUS) == UP


def test_features_beyond_bit_63_are_refused(block: Block) -> None:
    block.write((R.STATUS, Status.ACKNOWLEDGE), (R.STATUS, UP), (R.DRIVER_FEATURES_SEL, 2))

    assert block.do(R.DRIVER_FEATURES, 0).refusal is None
    assert block.do(R.DRIVER_FEATURES, 1).refusal is Refusal.VALUE


def test_function_changes_no_state_that_it_was_given(block: Block) -> None:
    before = block.state
    snapshot, registers = before.device.snapshot(), before.registers
    block.start()

    assert before.device.snapshot() == snapshot
    assert before.registers == registers


@pytest.mark.parametrize("offset", [0x18, 0x2C, 0x40, 0x54, 0x74, 0xA8, 0xC0, 0xF8])
@pytest.mark.parametrize("value", [None, 1])
def test_unknown_register_is_refused_and_reads_0(
    block: Block, offset: int, value: int | None
) -> None:
    answer = block.do(offset, value)

    assert answer.refusal is Refusal.UNKNOWN
    assert answer.value == 0


@pytest.mark.parametrize("width", [0, 1, 2, 3, 8, 16])
@pytest.mark.parametrize("value", [None, 1])
def test_register_of_another_width_is_refused(block: Block, width: int, value: int | None) -> None:
    """4.2.2.2: control registers are 32 bits wide."""
    answer = block.do(R.STATUS, value, width)

    assert answer.refusal is Refusal.WIDTH
    assert answer.value == 0
    assert block.read(R.STATUS) == 0


@pytest.mark.parametrize("offset", [1, 2, 3, R.STATUS + 1, R.STATUS + 2])
def test_access_across_registers_is_refused(block: Block, offset: int) -> None:
    assert block.do(offset).refusal is Refusal.WIDTH


@pytest.mark.parametrize("register", [R.MAGIC_VALUE, R.QUEUE_SIZE_MAX, R.CONFIG_GENERATION])
def test_store_to_a_read_only_register_is_refused(block: Block, register: int) -> None:
    before = block.read(register)

    assert block.do(register, 7).refusal is Refusal.READ_ONLY
    assert block.read(register) == before


@pytest.mark.parametrize("register", [R.QUEUE_SEL, R.QUEUE_NOTIFY, R.QUEUE_DESC_LOW])
def test_load_of_a_write_only_register_is_refused(block: Block, register: int) -> None:
    assert block.do(register) == Answer(block.state, refusal=Refusal.WRITE_ONLY)


def test_queue_that_does_not_exist_has_size_0_and_cannot_be_set_up(block: Block) -> None:
    block.accept()
    block.write((R.QUEUE_SEL, 2))

    assert block.read(R.QUEUE_SIZE_MAX) == 0
    assert block.read(R.QUEUE_READY) == 0
    for register in (R.QUEUE_SIZE, R.QUEUE_DESC_HIGH, R.QUEUE_READY):
        assert block.do(register, 1).refusal is Refusal.NO_QUEUE


@pytest.mark.parametrize(
    "at",
    [
        0x1FF80,  # its end is outside
        0x20000,
        (1 << 32) - 0x100,  # its start is
        1 << 33,
        (1 << 64) - 0x1000,
        (1 << 64) - 16,  # it would wrap around
    ],
)
def test_queue_outside_of_memory_does_not_get_ready(block: Block, at: int) -> None:
    block.accept()
    block.write((R.QUEUE_SEL, 0), (R.QUEUE_SIZE, 16))
    for register in (R.QUEUE_DESC_LOW, R.QUEUE_DRIVER_LOW, R.QUEUE_DEVICE_LOW):
        block.write((register, at & 0xFFFFFFFF), (register + 4, at >> 32))

    assert block.do(R.QUEUE_READY, 1).refusal is Refusal.ADDRESS
    assert block.read(R.QUEUE_READY) == 0


def test_queue_may_cross_from_one_region_into_the_next(block: Block) -> None:
    block.accept()

    assert block.set_up(at=0xFF80).refusal is None


@pytest.mark.parametrize("size", [0, 3, 512, 1 << 31])
def test_queue_of_a_wrong_size_does_not_get_ready(block: Block, size: int) -> None:
    """2.7: powers of two, and no more than the device has."""
    block.accept()
    block.write((R.QUEUE_SEL, 0), (R.QUEUE_SIZE, size), (R.QUEUE_DRIVER_LOW, 0x8000))
    block.write((R.QUEUE_DEVICE_LOW, 0x9000))

    assert block.do(R.QUEUE_READY, 1).refusal in (Refusal.NEGOTIATION, Refusal.ADDRESS)
    assert block.read(R.QUEUE_READY) == 0


@pytest.mark.parametrize("register", [R.QUEUE_SIZE, R.QUEUE_DESC_LOW, R.QUEUE_DEVICE_HIGH])
def test_queue_that_is_ready_keeps_its_geometry(block: Block, register: int) -> None:
    """4.2.2.2: nothing of a queue may be changed while it is ready."""
    block.start()
    before = block.state

    assert block.do(register, 8).refusal is Refusal.QUEUE_READY
    assert block.state is before


def test_queue_before_features_ok_is_refused(block: Block) -> None:
    """3.1.1: the order of initialization."""
    block.write((R.STATUS, Status.ACKNOWLEDGE), (R.STATUS, UP))

    assert block.set_up().refusal is Refusal.NEGOTIATION


def test_overlapping_queues_are_refused(block: Block) -> None:
    block.accept()
    assert block.set_up(0).refusal is None

    assert block.set_up(1).refusal is Refusal.NEGOTIATION


def test_queue_taken_back_before_the_start_is_free_again(block: Block) -> None:
    block.accept()
    block.set_up()
    block.write((R.QUEUE_READY, 0))

    assert block.read(R.QUEUE_READY) == 0
    assert block.set_up(at=0x4000).refusal is None


def test_running_queue_stays_ready_until_the_device_let_go_of_it(block: Block) -> None:
    """4.2.2.2: the driver reads QueueReady back to be in step."""
    block.start()

    assert block.do(R.QUEUE_READY, 0).effect == QueueStopped(0)
    assert block.read(R.QUEUE_READY) == 1
    block.state = block.state.queue_stopped(0)
    assert block.read(R.QUEUE_READY) == 0


def test_kick_reaches_a_running_queue_only(block: Block) -> None:
    assert block.do(R.QUEUE_NOTIFY, 0).refusal is Refusal.QUEUE_NOT_READY
    block.start()

    assert block.do(R.QUEUE_NOTIFY, 0).effect == Kicked(0)
    assert block.do(R.QUEUE_NOTIFY, 1).refusal is Refusal.QUEUE_NOT_READY
    assert block.do(R.QUEUE_NOTIFY, 2).refusal is Refusal.NO_QUEUE
    assert block.do(R.QUEUE_NOTIFY, 0xFFFFFFFF).refusal is Refusal.NO_QUEUE


def test_status_reads_0_only_when_the_reset_is_done(block: Block) -> None:
    """2.4.1 and 4.2.2.1: a reset clears the interrupt status and every QueueReady."""
    block.start()
    block.state = block.state.raised(Interrupt.USED)

    assert block.do(R.STATUS, 0).effect == ResetBegun()
    assert block.read(R.STATUS) != 0
    assert block.do(R.STATUS, Status.ACKNOWLEDGE).refusal is Refusal.NEGOTIATION
    assert block.do(R.QUEUE_NOTIFY, 0).refusal is Refusal.QUEUE_NOT_READY
    assert block.do(R.STATUS, 0).effect is None
    block.state = block.state.reset_done()
    assert block.read(R.STATUS) == 0
    assert block.read(R.QUEUE_READY) == 0
    assert block.read(R.INTERRUPT_STATUS) == 0
    assert block.start().effect == Started()


def test_reset_of_a_device_at_rest_has_nothing_to_wait_for(block: Block) -> None:
    assert block.do(R.STATUS, 0) == Answer(block.state)


@pytest.mark.parametrize("status", [Status.DRIVER_OK, 0x20, 0x100, 0xFFFFFFFF])
def test_status_out_of_order_is_refused(block: Block, status: int) -> None:
    assert block.do(R.STATUS, status).refusal is Refusal.NEGOTIATION
    assert block.read(R.STATUS) == 0


def test_interrupt_status_holds_an_event_until_it_is_acknowledged(block: Block) -> None:
    """4.2.2.1: from the moment it takes place until the driver acknowledges it."""
    block.state = block.state.raised(Interrupt.USED).raised(Interrupt.CONFIG)

    assert block.read(R.INTERRUPT_STATUS) == 3
    block.write((R.INTERRUPT_ACK, Interrupt.USED))
    assert block.read(R.INTERRUPT_STATUS) == Interrupt.CONFIG
    block.write((R.INTERRUPT_ACK, 0xFFFFFFFF))
    assert block.read(R.INTERRUPT_STATUS) == 0


def test_shared_memory_does_not_exist(block: Block) -> None:
    """4.2.2: the length of a region that does not exist reads -1."""
    block.write((R.SHM_SEL, 0))

    assert block.read(R.SHM_LEN_LOW) == block.read(R.SHM_LEN_HIGH) == 0xFFFFFFFF


def test_configuration_reads_in_each_width(block: Block) -> None:
    values = [
        block.do(CONFIG + offset, None, width).value
        for offset, width in ((0, 1), (2, 2), (4, 4), (0, 8))
    ]

    assert values == [0x01, 0x0403, 0x08070605, 0x0807060504030201]


@pytest.mark.parametrize(("offset", "width"), [(1, 2), (2, 4), (4, 8), (0, 3), (0, 16)])
def test_configuration_access_of_a_wrong_width_is_refused(
    block: Block, offset: int, width: int
) -> None:
    assert block.do(CONFIG + offset, None, width).refusal is Refusal.WIDTH


@pytest.mark.parametrize(("offset", "width"), [(10, 1), (10, 2), (8, 4), (8, 8), (0xEF8, 4)])
def test_access_behind_the_configuration_is_refused(block: Block, offset: int, width: int) -> None:
    for value in (None, 0):
        assert block.do(CONFIG + offset, value, width).refusal is Refusal.CONFIG


def test_generation_differs_after_a_change_of_the_configuration(block: Block) -> None:
    """4.2.2.1: so that a driver can tell a torn read."""
    before = block.read(R.CONFIG_GENERATION)
    block.state = block.state.changed(lambda device: device.set_config(bytes(10)))

    assert block.read(R.CONFIG_GENERATION) != before
    assert block.do(CONFIG, None, 8).value == 0


def test_store_to_the_configuration_is_the_devices_business(block: Block) -> None:
    block.accept()

    assert block.do(CONFIG + 2, 0x12345, 2).effect == ConfigWritten(2, b"\x45\x23")


def test_store_to_the_configuration_before_features_ok_is_refused(block: Block) -> None:
    assert block.do(CONFIG, 1, 1).refusal is Refusal.NEGOTIATION


def test_no_access_whatever_breaks_the_block(rng: random.Random) -> None:
    """Nothing is raised, a refusal changes nothing, a load changes nothing."""
    block = Block()
    steps = (None, 0, 1, UP, ACCEPTED, ACCEPTED | Status.DRIVER_OK, 0x1000, 0xFFFFFFFF)
    for _ in range(5000):
        offset = rng.choice([*R, rng.randrange(0x200)])
        value = rng.choice([*steps, rng.getrandbits(32)])
        before = block.state
        answer = block.do(offset, value, rng.choice((1, 2, 4, 4, 4, 8)))
        if answer.refusal is not None or value is None:
            assert block.state is before
        if isinstance(answer.effect, ResetBegun) and rng.random() < 0.5:
            block.state = block.state.reset_done()
        assert 0 <= answer.value < 1 << 64
