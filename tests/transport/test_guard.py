"""What happens when a peer takes memory away: `MemoryGone` inside a guard, SIGBUS outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from paravirt.transport._core import ffi, lib
from paravirt.transport._errors import Cause, MemoryGone
from paravirt.transport._memory import Memory
from paravirt.transport._region import Region

PAGE = 4096
CORE = Path(__file__).parents[2] / "transport" / "core"
HARNESS = Path(__file__).with_name("guard_harness.c")


def foreign(size: int, addr: int = 0) -> Region:
    """Return memory that its owner can shrink: by its `fd`, which is the same file."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return Region.foreign(fd, addr=addr, size=size)


def test_memory_that_stays_is_read_and_written() -> None:
    with foreign(2 * PAGE) as region:
        memory = Memory([region])
        memory.write(PAGE - 2, b"over")

        assert memory.read(PAGE - 2, 4) == b"over"


def test_truncation_is_memory_gone() -> None:
    with foreign(2 * PAGE) as region:
        memory = Memory([region])
        os.ftruncate(region.fd, PAGE)

        with pytest.raises(MemoryGone) as raised:
            memory.read(PAGE, 1)
        assert raised.value.cause is Cause.GONE
        with pytest.raises(MemoryGone):
            memory.write(PAGE - 1, b"xy")
        assert len(memory.read(0, PAGE)) == PAGE


def test_the_second_truncation_on_a_thread_is_caught_too() -> None:
    """The signal must not have stayed blocked."""
    for _ in range(3):
        with foreign(PAGE) as region:
            memory = Memory([region])
            memory.write(0, b"x")
            os.ftruncate(region.fd, 0)
            for _ in range(3):
                with pytest.raises(MemoryGone):
                    memory.read(0, 1)


def test_other_memory_goes_on() -> None:
    with foreign(PAGE) as bad, foreign(PAGE, addr=PAGE) as good:
        memory = Memory([bad, good])
        os.ftruncate(bad.fd, 0)

        with pytest.raises(MemoryGone):
            memory.read(PAGE - 1, 2)
        assert memory.read(PAGE, 1) == b"\0"


@pytest.mark.parametrize("write", [False, True])
def test_threads_lose_memory_at_the_same_time(write: bool) -> None:
    size = 64 * PAGE
    regions = [foreign(size) for _ in range(2)]
    ready = threading.Barrier(3)
    gone: list[MemoryGone] = []

    def use(memory: Memory) -> None:
        ready.wait()
        try:
            while True:
                memory.write(0, bytes(size)) if write else memory.read(0, size)
        except MemoryGone as error:
            gone.append(error)

    threads = [threading.Thread(target=use, args=(Memory([region]),)) for region in regions]
    for thread in threads:
        thread.start()
    ready.wait()
    for region in regions:
        os.ftruncate(region.fd, PAGE)
    for thread in threads:
        thread.join()
    for region in regions:
        region.close()

    assert len(gone) == 2


def test_an_inner_guard_ends_alone() -> None:
    with foreign(PAGE) as region:
        memory = Memory([region])
        table = memory.table
        to = ffi.new("char[]", 1)
        found: list[int] = []

        @ffi.callback("long(void *)")  # type: ignore[untyped-decorator]
        def outer(_: object) -> int:
            os.ftruncate(region.fd, 0)
            found.append(lib.pv_guarded_read(table.c, to, 0, 1))
            return 7

        assert lib.pv_guarded(table.c, outer, ffi.NULL) == 7
        assert found == [-Cause.GONE]


OUTSIDE = """
import faulthandler, os, sys
from paravirt.transport._errors import MemoryGone
from paravirt.transport._memory import Memory
from paravirt.transport._region import Region

def lost():
    fd = os.memfd_create("test")
    os.ftruncate(fd, 4096)
    memory = Memory([Region.foreign(fd, addr=0, size=4096)])
    os.ftruncate(fd, 0)
    try:
        memory.read(0, 1)
    except MemoryGone:
        print("gone", flush=True)
    return memory

BEFORE
memory = lost()
AFTER
memory.table.c.regions[0].host[0]
print("survived", flush=True)
"""


def outside(before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    """Touch, outside any guard and in a process of its own, memory that is gone."""
    program = OUTSIDE.replace("BEFORE", before).replace("AFTER", after)
    options = os.environ.get("ASAN_OPTIONS", "") + ":handle_sigbus=0"
    return subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "ASAN_OPTIONS": options},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_fault_outside_a_guard_kills() -> None:
    ended = outside()

    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "gone\n")


@pytest.mark.parametrize(
    ("before", "after", "stdout"),
    [
        ("faulthandler.enable()", "", "gone\n"),
        ("", "faulthandler.enable()", "gone\n"),
        ("", "faulthandler.enable(); lost()", "gone\ngone\n"),
        ("faulthandler.enable(); lost()", "faulthandler.disable(); faulthandler.enable(); lost()",
         "gone\ngone\ngone\n"),
    ],
    ids=["before us", "after us", "between", "again"],
)  # fmt: skip
def test_a_fault_outside_a_guard_goes_to_the_handler_before(
    before: str, after: str, stdout: str
) -> None:
    """It says its word once, and the process still dies of the signal."""
    ended = outside(before, after)

    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, stdout)
    assert ended.stderr.count("Fatal Python error: Bus error") == 1


def test_taking_turns_with_other_handlers_does_not_wear_out() -> None:
    turns = """
import signal
for _ in range(20):
    faulthandler.enable()
    lost()
    for handler in (signal.default_int_handler, signal.SIG_IGN, signal.SIG_DFL):
        signal.signal(signal.SIGBUS, handler)
        lost()
    faulthandler.disable()
"""
    ended = outside(before=turns)

    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "gone\n" * 81)


def test_a_signal_that_was_sent_is_no_fault() -> None:
    ended = outside(after="os.kill(os.getpid(), 7)")

    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "gone\n")


def test_an_ignored_signal_stays_ignored() -> None:
    ignore = "import signal; signal.signal(signal.SIGBUS, signal.SIG_IGN)"
    ended = outside(before=ignore, after="os.kill(os.getpid(), 7); print('ignored', flush=True)")

    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "gone\nignored\n")


@pytest.mark.parametrize("flags", ["-O2", "-O1 -g -fsanitize=address,undefined"])
def test_guards_nest_and_handlers_chain_in_c(tmp_path: Path, flags: str) -> None:
    """A C harness, since a guard that is left must have no Python inside."""
    program = tmp_path / "harness"
    sources = [HARNESS, CORE / "memory.c", CORE / "host" / "guard.c"]
    build = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pthread", *flags.split()]
    subprocess.run([*build, f"-I{CORE}", "-o", program, *sources], check=True)

    ended = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ok\n", "")
