"""The boot page in Python and in C are the same bytes."""

from __future__ import annotations

import importlib
import re
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from paravirt.doorbells.kvm import BellKind, BootPage, GuestKick, Vendor
from tests.tools import need

GUEST = Path(str(resources.files("paravirt.doorbells"))) / "guest"
TWIN = importlib.import_module("paravirt.doorbells.kvm._boot_page")

# Each constant of the Python module, and what the C header says about it.
SAME = {
    "MAGIC": "PV_BOOT_MAGIC",
    "VERSION": "PV_BOOT_VERSION",
    "BELLS": "PV_BELLS",
    "ARGUMENTS": "sizeof((struct pv_boot_page *)0)->arguments / 8",
    "_BELL_SIZE": "sizeof(struct pv_bell)",
    "_BELL_KIND": "offsetof(struct pv_bell, kind)",
    "_BELL_WIDTH": "offsetof(struct pv_bell, width)",
    "_BELL_ADDRESS": "offsetof(struct pv_bell, address)",
    "_BELL_VALUE": "offsetof(struct pv_bell, value)",
    "_BELL_TAKEN": "offsetof(struct pv_bell, taken)",
    "_BELL_KICKING": "offsetof(struct pv_bell, kicking)",
    **{
        f"_{field.upper()}": f"offsetof(struct pv_boot_page, {field})"
        for field in (
            *("magic", "version", "generation", "vendor", "cpl", "kinds", "console", "device"),
            *("pool", "pool_size", "interrupts", "vector", "queues", "arguments", "bells"),
            *("picked", "undefined_handler"),
        )
    },
}


PROGRAM = """
#include <stddef.h>
#include <stdio.h>
#include "doorbell.h"
int main(void)
{
    %s
    return sizeof(struct pv_boot_page) > 4096;
}
"""
KICK = """
#include "doorbell.h"
void kick(struct pv_boot_page *boot);
void kick(struct pv_boot_page *boot) { pv_bell_ring(boot, 1); }
"""
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes")
FREESTANDING = ("-O2", "-ffreestanding", "-nostdlib", "-fno-stack-protector", "-fno-pic")


def compile_with(compiler: str, source: Path, *options: str) -> None:
    command = [need(compiler, compiler), "-std=c11", *WARNINGS, "-Werror", "-I", str(GUEST)]
    subprocess.run([*command, str(source), *options], check=True)


@pytest.mark.parametrize("compiler", ["gcc", "clang-14"])
def test_both_have_the_same_numbers(tmp_path: Path, compiler: str) -> None:
    numbers = {**SAME, **{f"PV_BELL_{kind.name}": f"PV_BELL_{kind.name}" for kind in BellKind}}
    numbers |= {f"PV_VENDOR_{vendor.name}": f"PV_VENDOR_{vendor.name}" for vendor in Vendor}
    lines = [f'printf("{name} %lu\\n", (unsigned long)({c}));' for name, c in numbers.items()]
    source, program = tmp_path / "numbers.c", tmp_path / "numbers"
    source.write_text(PROGRAM % "\n    ".join(lines))
    compile_with(compiler, source, "-o", str(program))
    said = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout

    in_c = {name: int(number) for name, number in re.findall(r"(\S+) (\d+)\n", said)}
    in_python = {name: int(getattr(TWIN, name)) for name in SAME}
    in_python |= {f"PV_BELL_{kind.name}": int(kind) for kind in BellKind}
    in_python |= {f"PV_VENDOR_{vendor.name}": int(vendor) for vendor in Vendor}
    assert in_c == in_python


@pytest.fixture
def page() -> BootPage:
    return BootPage(memoryview(bytearray(BootPage.SIZE)))


def test_a_bell_reads_back_as_it_was_put(page: BootPage) -> None:
    kick = GuestKick(BellKind.PIO, 2, 0xC004, 7)

    page.put_bell(63, kick)

    assert page.bell(63) == kick
    assert page.bell(62) == GuestKick(BellKind.NONE)


def test_each_bell_has_a_new_even_generation(page: BootPage) -> None:
    kick = GuestKick(BellKind.MMIO, 4, 0xD0100000, 0)

    assert [page.put_bell(0, kick) for _ in range(3)] == [2, 4, 6]
    assert page.put_bell(1, kick) == 2
    assert page.taken(0) == 0


@pytest.mark.parametrize(
    ("taken", "kicking", "follows"),
    [(4, 0, True), (4, 1, True), (4, 0x10000, False), (2, 0, False), (6, 0, False)],
    ids=["moved", "kicks by the new", "still kicks by the old", "not yet", "a lie"],
)
def test_guest_follows_once_none_of_its_vcpus_kicks_by_the_old_bell(
    taken: int, kicking: int, follows: bool
) -> None:
    """Several vCPUs may kick one queue: see `struct pv_bell` in doorbell.h."""
    memory = memoryview(bytearray(BootPage.SIZE))
    page = BootPage(memory)
    page.put_bell(3, GuestKick(BellKind.NONE))
    generation = page.put_bell(3, GuestKick(BellKind.NONE))
    words = memory.cast("I")
    bell = TWIN._BELLS + 3 * TWIN._BELL_SIZE
    words[(bell + TWIN._BELL_TAKEN) // 4] = taken
    words[(bell + TWIN._BELL_KICKING) // 4] = kicking

    assert page.follows(3, generation) is follows


def test_arguments_that_are_not_given_are_zero(page: BootPage) -> None:
    page.arguments = range(1, 17)
    page.arguments = [5]

    assert page.arguments == (5, *[0] * 15)


def test_a_new_life_has_another_generation(page: BootPage) -> None:
    before = page.generation

    page.begin_life()

    assert page.generation != before


@pytest.mark.parametrize("queue", [-1, 64])
def test_a_queue_without_a_bell_is_refused(page: BootPage, queue: int) -> None:
    with pytest.raises(ValueError, match="queues 0 to 63"):
        page.put_bell(queue, GuestKick(BellKind.NONE))


def test_the_memory_is_given_back() -> None:
    memory = bytearray(BootPage.SIZE)
    page = BootPage(memoryview(memory))

    with pytest.raises(BufferError):
        memory.append(0)  # as long as a view is left
    page.close()
    page.close()
    memory.append(7)

    assert memory[BootPage.SIZE] == 7


@pytest.mark.parametrize("compiler", ["gcc", "clang-14"])
def test_the_header_needs_no_library(tmp_path: Path, compiler: str) -> None:
    """The payload has no libc, and uses no vector registers."""
    source, made = tmp_path / "kick.c", tmp_path / "kick.o"
    source.write_text(KICK)
    compile_with(compiler, source, *FREESTANDING, "-c", "-o", str(made))
    symbols = [need("nm", "binutils"), "-u", str(made)]

    assert subprocess.run(symbols, check=True, capture_output=True, text=True).stdout == ""
