"""What a payload's file may be."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

import pytest

from paravirt.hostside.machine._elf import Program, read
from paravirt.transport import Memory, Region
from tests.hostside.machine.guests import ends

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tests.hostside.machine.conftest import Guest

SIZE = 8 << 20
PLACE = 0x200000
_PROGRAM_HEADER = 64  # right behind the file header, in what ld makes of our guests
_MACHINE, _TYPE = 18, 16  # offsets in the file header (System V ABI, figure 4-3)
_PADDR, _FILESZ, _MEMSZ = 24, 32, 40  # offsets in a program header (figure 5-1)


@pytest.fixture
def memory() -> Generator[Memory, None, None]:
    region = Region.create(SIZE, addr=0)
    memory = Memory([region])
    yield memory
    memory.close()


@pytest.fixture
def elf(guest: Guest) -> bytearray:
    return bytearray(guest(ends(1)).read_bytes())


def load(elf: Path | bytes, memory: Memory, size: int) -> Program:
    """Read a payload and put it into memory."""
    program = read(elf, size)
    program.put(memory)
    return program


def put(elf: bytearray, offset: int, value: int, form: str = "<Q") -> bytes:
    """Return the file with one field changed."""
    struct.pack_into(form, elf, offset, value)
    return bytes(elf)


def test_payload_lies_where_it_was_linked(elf: bytearray, memory: Memory) -> None:
    loaded = load(bytes(elf), memory, SIZE)

    assert loaded.entry == PLACE
    assert loaded.end > PLACE
    assert memory.read(PLACE, 1) == b"\xba", "mov imm32, %edx"


def test_memory_beyond_the_file_is_zeroed(elf: bytearray, memory: Memory) -> None:
    memory.write(PLACE, b"\xff" * 4096)
    loaded = load(put(elf, _PROGRAM_HEADER + _MEMSZ, 4096), memory, SIZE)

    assert loaded.end == PLACE + 4096
    assert memory.read(PLACE + 2048, 2048) == bytes(2048)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (_PADDR, 0x1000),  # over the machine's own pages
        (_PADDR, SIZE),
        (_PADDR, (1 << 64) - 4096),
        (_MEMSZ, SIZE),
        (_MEMSZ, 1 << 63),
        (_MEMSZ, 1),  # less than there is in the file
    ],
)
def test_payload_that_does_not_fit_is_refused(
    elf: bytearray, memory: Memory, field: int, value: int
) -> None:
    with pytest.raises(ValueError, match="a payload has"):
        load(put(elf, _PROGRAM_HEADER + field, value), memory, SIZE)


@pytest.mark.parametrize(
    ("field", "value"), [(_MACHINE, 183), (_TYPE, 3)], ids=["aarch64", "position-independent"]
)
def test_other_program_is_refused(elf: bytearray, memory: Memory, field: int, value: int) -> None:
    with pytest.raises(ValueError, match="no static program"):
        load(put(elf, field, value, "<H"), memory, SIZE)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF" + bytes(60)])
def test_file_that_is_no_program_is_refused(content: bytes, memory: Memory) -> None:
    with pytest.raises(ValueError, match="the payload"):
        load(content, memory, SIZE)


def test_program_with_nothing_to_load_is_refused(elf: bytearray, memory: Memory) -> None:
    with pytest.raises(ValueError, match="nothing to load"):
        load(put(elf, _PROGRAM_HEADER, 0, "<I"), memory, SIZE)


def test_cut_file_is_refused(elf: bytearray, memory: Memory) -> None:
    offset, filesz = (struct.unpack_from("<Q", elf, _PROGRAM_HEADER + at)[0] for at in (8, _FILESZ))
    for length in range(offset + filesz):
        with pytest.raises(ValueError, match="no whole ELF"):
            load(bytes(elf[:length]), memory, SIZE)


def test_file_that_is_not_there_is_an_error_of_the_world(tmp_path: Path, memory: Memory) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.elf", memory, SIZE)


def test_missing_library_is_named(
    elf: bytearray, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "elftools.elf.elffile", None)
    with pytest.raises(RuntimeError, match=r"paravirt\[kvm\]"):
        load(bytes(elf), memory, SIZE)
