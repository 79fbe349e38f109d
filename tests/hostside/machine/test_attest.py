"""The digest of a payload's executable memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.guestside import payload
from paravirt.hostside.machine import TextReport, measure
from paravirt.hostside.machine._elf import load, read
from paravirt.transport import Memory, Region

if TYPE_CHECKING:
    from collections.abc import Generator

SIZE = 8 << 20


@pytest.fixture
def memory() -> Generator[Memory, None, None]:
    memory = Memory([Region.create(SIZE, addr=0)])
    load(payload.path(), memory, SIZE)
    yield memory
    memory.close()


def report(memory: Memory, address: int) -> TextReport:
    """Measure, change the byte at an address, measure again."""
    before = measure(payload.path(), memory)
    memory.write(address, bytes([memory.read(address, 1)[0] ^ 1]))
    return TextReport(before, measure(payload.path(), memory))


def test_changed_instruction_changes_the_digest(memory: Memory) -> None:
    (text,) = [segment for segment in read(payload.path())[1] if segment.executable]

    assert report(memory, text.start).changed
    assert report(memory, text.end - 1).changed
    assert not report(memory, text.end).changed


def test_data_may_change(memory: Memory) -> None:
    data = [segment for segment in read(payload.path())[1] if not segment.executable]

    assert data
    assert not any(report(memory, segment.start).changed for segment in data)


def test_digest_depends_on_the_payload_only(memory: Memory) -> None:
    elf = payload.path()
    digest = measure(elf, memory)
    memory.write(SIZE - 4096, b"pool")

    assert measure(elf.read_bytes(), memory) == digest
