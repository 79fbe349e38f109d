"""Where regions come from, what a peer may send as one, and how long bytes stay mapped."""

from __future__ import annotations

import fcntl
import gc
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from paravirt.transport._errors import AddressError, PeerError
from paravirt.transport._memory import Memory
from paravirt.transport._region import ADDRESSES, SEALS, Region
from tests.tools import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PAGE = 4096
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")


def memfd(size: int, seals: int = 0) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def is_mapped(inode: int) -> bool:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return any(line.split()[4] == str(inode) and "/memfd:" in line for line in lines)


def is_open(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()


def test_own_memory_is_zeroed_and_can_never_shrink() -> None:
    with Region.create(3 * PAGE, addr=PAGE) as region:
        assert (region.sealed, region.guarded) == (True, False)
        assert Memory([region]).read(PAGE, 3 * PAGE) == bytes(3 * PAGE)
        for size in (0, 4 * PAGE):
            with pytest.raises(PermissionError):
                os.ftruncate(region.fd, size)


@pytest.mark.parametrize(
    ("size", "addr"),
    [(0, 0), (-1, 0), (PAGE, -1), (PAGE, ADDRESSES - PAGE + 1), (1, ADDRESSES), (1 << 63, 0)],
)
def test_a_region_that_cannot_be_is_refused(size: int, addr: int) -> None:
    with pytest.raises(ValueError):
        Region.create(size, addr=addr)
    fd = memfd(PAGE)
    with pytest.raises(PeerError):
        Region.foreign(fd, addr=addr, size=size)
    assert not is_open(fd)


def test_a_region_may_end_at_the_last_address() -> None:
    with Region.create(PAGE, addr=ADDRESSES - PAGE) as region:
        memory = Memory([region])
        memory.write(ADDRESSES - 1, b"x")

        assert memory.read(ADDRESSES - 2, 2) == b"\0x"
        with pytest.raises(AddressError):
            memory.read(ADDRESSES - 1, 2)


def huge_pages_free() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("HugePages_Free")), 0)


def test_missing_huge_pages_say_what_to_do() -> None:
    size = (huge_pages_free() + 1) << 30  # more than there can be, whatever their size

    with pytest.raises(OSError, match=r"huge pages.*sysctl vm\.nr_hugepages=N"):
        Region.create(size, addr=0, huge=True)


@pytest.fixture
def huge_page() -> Generator[int]:
    """Have a huge page set aside, which only root can; gives its size."""
    if not os.access(HUGE_PAGES, os.W_OK):
        missing("huge pages cannot be set aside here: run the tests as root")
    with HUGE_PAGES.open("r+") as pool:
        fcntl.flock(pool, fcntl.LOCK_EX)  # against another run of the tests
        before = int(pool.read())
        HUGE_PAGES.write_text(str(before + 1))
        try:
            if not huge_pages_free():
                missing("no memory to set a huge page aside from")
            fd = os.memfd_create("huge", os.MFD_HUGETLB)
            size = os.fstatvfs(fd).f_bsize
            os.close(fd)
            yield size
        finally:
            HUGE_PAGES.write_text(str(before))


def test_foreign_huge_pages_are_guarded_in_spite_of_a_seal(huge_page: int) -> None:
    """Their owner can punch a hole and use up all pages: the next touch is SIGBUS."""
    with Region.create(huge_page, addr=0, huge=True) as own:
        foreign = Region.foreign(os.dup(own.fd), addr=0, size=PAGE, offset=PAGE + 16)
        Memory([own]).write(PAGE + 16, b"same file")

        assert (own.sealed, own.guarded) == (True, False)
        assert (foreign.sealed, foreign.guarded) == (True, True)
        assert Memory([foreign]).read(0, 9) == b"same file"
        foreign.close()
        with pytest.raises(ValueError, match="multiple"):
            Region.create(huge_page + 1, addr=0, huge=True)


@pytest.mark.parametrize(
    ("size", "offset"),
    [(PAGE + 1, 0), (PAGE, 1), (1, PAGE), (1, 1 << 63), (ADDRESSES - 1, 1), (1, -1)],
)
def test_a_piece_beyond_the_end_of_the_file_is_the_peers_lie(size: int, offset: int) -> None:
    """Mapping it would work; touching it would be SIGBUS."""
    fd = memfd(PAGE)

    with pytest.raises(PeerError, match="too few"):
        Region.foreign(fd, addr=0, size=size, offset=offset)
    assert not is_open(fd)


def test_any_offset_can_be_mapped() -> None:
    fd = memfd(3 * PAGE, SEALS)
    os.pwrite(fd, b"here", PAGE + 123)
    with Region.foreign(fd, addr=0, size=PAGE, offset=PAGE + 123) as region:
        memory = Memory([region])

        assert memory.read(0, 4) == b"here"
        assert bytes(memory.view(0, 4)[0]) == b"here"
        assert len(memory.view(0, PAGE)[0]) == PAGE


@pytest.mark.parametrize(
    ("seals", "guarded"),
    [(0, True), (fcntl.F_SEAL_GROW, True), (fcntl.F_SEAL_SHRINK, False), (SEALS, False)],
)
def test_only_a_seal_against_shrinking_is_trusted(seals: int, guarded: bool) -> None:
    with Region.foreign(memfd(PAGE, seals), addr=0, size=PAGE) as region:
        assert (region.sealed, region.guarded) == (not guarded, guarded)
        assert Memory([region]).guarded == guarded


def test_a_seal_that_comes_after_the_size_was_read_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the peer could shrink in between."""
    fd, fstat = memfd(PAGE), os.fstat

    def shrink_and_seal(asked: int) -> os.stat_result:
        found = fstat(asked)
        os.ftruncate(fd, 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", shrink_and_seal)
        region = Region.foreign(fd, addr=0, size=PAGE)

    with region:
        assert region.guarded


def test_a_plain_file_is_guarded(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(b"x" * PAGE)
    fd = os.open(tmp_path / "memory", os.O_RDWR)
    with Region.foreign(fd, addr=0, size=PAGE) as region:
        assert region.guarded
        assert Memory([region]).read(0, 2) == b"xx"


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(b"x" * PAGE)
    fd = os.open(tmp_path / "memory", os.O_RDONLY)

    with pytest.raises(PeerError, match="cannot be mapped"):
        Region.foreign(fd, addr=0, size=PAGE)
    assert not is_open(fd)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH])
def test_what_is_no_file_is_refused(tmp_path: Path, flags: int) -> None:
    fd = os.open(tmp_path, flags)

    with pytest.raises(PeerError):
        Region.foreign(fd, addr=0, size=1)
    assert not is_open(fd)


def test_a_descriptor_that_is_not_open_is_an_os_error() -> None:
    fd = memfd(PAGE)
    os.close(fd)

    with pytest.raises(OSError, match="Bad file descriptor"):
        Region.foreign(fd, addr=0, size=PAGE)


def test_close_closes_the_file_once() -> None:
    fd = memfd(PAGE)
    region = Region.foreign(fd, addr=0, size=PAGE)
    region.close()
    assert not is_open(fd)
    other = memfd(PAGE)  # most likely the same number
    region.close()

    assert is_open(other)
    os.close(other)


def test_a_forgotten_region_gives_everything_back() -> None:
    region = Region.create(PAGE, addr=0)
    fd, inode = region.fd, os.fstat(region.fd).st_ino
    assert is_mapped(inode)
    del region
    gc.collect()

    assert not is_open(fd)
    assert not is_mapped(inode)


def test_views_of_guarded_memory_are_refused() -> None:
    with (
        Region.create(PAGE, addr=0) as safe,
        Region.foreign(memfd(PAGE), addr=PAGE, size=PAGE) as unsafe,
    ):
        memory = Memory([safe, unsafe])

        assert memory.guarded
        assert [piece.guarded for piece in memory.translate(PAGE - 1, 2)] == [False, True]
        assert len(memory.view(0, PAGE)) == 1
        for addr in (PAGE - 1, PAGE):
            with pytest.raises(BufferError, match="no view"):
                memory.view(addr, 2)


@pytest.mark.parametrize("holder", ["view", "view of view", "slice", "table"])
def test_a_removed_region_stays_mapped_for_its_last_holder(holder: str) -> None:
    region = Region.create(PAGE, addr=0)
    inode = os.fstat(region.fd).st_ino
    memory = Memory([region])
    memory.write(0, b"kept")
    holders: dict[str, Callable[[], object]] = {
        "view": lambda: memory.view(0, 4)[0],
        "view of view": lambda: memory.view(0, PAGE)[0][:8].cast("I")[:1],
        "slice": lambda: memory.translate(0, 4)[0],
        "table": lambda: memory.table,
    }
    held = holders[holder]()
    memory.remove(region)
    region.close()
    assert is_mapped(inode)
    if isinstance(held, memoryview):
        assert held.tobytes() == b"kept"
    del held
    gc.collect()

    assert not is_mapped(inode)


def test_a_running_copy_keeps_its_memory() -> None:
    """Else this process would end here."""
    size = 8 << 20
    region = Region.create(size, addr=0)
    memory, begun = Memory([region]), threading.Event()
    ended: list[Exception] = []

    def copy() -> None:
        try:
            while True:
                memory.read(0, size)
                begun.set()
        except AddressError as error:
            ended.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    begun.wait()
    memory.close()
    thread.join()

    assert len(ended) == 1
    assert region.closed
