"""What the doctor says about this host, its files and its QEMU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.cli._programs import find_program
from paravirt.cli.doctor._files import check_mke2fs, check_nowait
from paravirt.cli.doctor._host import (
    check_core,
    check_cpus,
    check_eventfd,
    check_huge_pages,
    check_sealing,
)
from paravirt.cli.doctor._qemu import check_program, find_programs, qemu_checks

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def program(folder: Path, name: str, script: str) -> Path:
    """Make a program that is a shell script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def pool(folder: Path, kib: int, free: int) -> None:
    """Make a pool of huge pages as sysfs shows it."""
    (folder / f"hugepages-{kib}kB").mkdir()
    (folder / f"hugepages-{kib}kB" / "free_hugepages").write_text(f"{free}\n")


def test_core_that_runs_these_tests_is_built() -> None:
    assert check_core().available


def test_core_that_cannot_be_loaded_says_how_to_build_it() -> None:
    check = check_core("paravirt.no_such_core")

    assert not check.available
    assert "make install" in check.reason


def test_one_cpu_is_too_few() -> None:
    assert not check_cpus({3}).available
    assert check_cpus({0, 3}).available


def test_host_that_runs_these_tests_has_eventfds_and_seals() -> None:
    assert check_eventfd().available
    assert check_sealing().available


def test_missing_eventfd_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.eventfd", refuse)

    assert check_eventfd().reason == "Too many open files: raise the limit, ulimit -n"


def test_free_huge_pages_are_counted(tmp_path: Path) -> None:
    pool(tmp_path, 1048576, 2)
    pool(tmp_path, 2048, 7)

    assert check_huge_pages(tmp_path).reason == "7 free of 2 MiB each"


def test_larger_huge_pages_do_as_well(tmp_path: Path) -> None:
    pool(tmp_path, 1048576, 2)
    pool(tmp_path, 2048, 0)

    assert check_huge_pages(tmp_path).reason == "2 free of 1024 MiB each"


def test_no_free_huge_page_says_how_to_get_some(tmp_path: Path) -> None:
    pool(tmp_path, 2048, 0)

    check = check_huge_pages(tmp_path)
    assert not check.available
    assert "sysctl vm.nr_hugepages" in check.reason


def test_kernel_without_huge_pages_is_told_so(tmp_path: Path) -> None:
    assert not check_huge_pages(tmp_path).available


def test_read_without_waiting_is_tried_and_leaves_nothing(tmp_path: Path) -> None:
    assert check_nowait("nowait", tmp_path).reason.startswith(("RWF_NOWAIT", "no RWF_NOWAIT"))
    assert not list(tmp_path.iterdir())


def test_folder_that_takes_no_files_cannot_be_tried(tmp_path: Path) -> None:
    check = check_nowait("nowait", tmp_path / "none")

    assert not check.available
    assert "run it elsewhere" in check.reason


def test_programs_are_found_beside_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paravirt.cli._programs.ADMIN_FOLDERS", (str(tmp_path),))
    monkeypatch.setenv("PATH", "")
    wanted = program(tmp_path, "mke2fs", "")

    assert find_program("mke2fs") == str(wanted)
    assert check_mke2fs().available


def test_emulators_of_all_machines_are_found(tmp_path: Path) -> None:
    program(tmp_path / "a", "qemu-system-riscv64", "echo QEMU emulator version 9.1.2")
    program(tmp_path / "b", "qemu-system-riscv64", "echo QEMU emulator version 8.0.0")

    found = {check.name: check for check in qemu_checks(f"{tmp_path / 'a'}:{tmp_path / 'b'}")}

    assert found["qemu-system-riscv64"].reason.startswith("9.1.2, ")
    assert not found["qemu-storage-daemon"].available
    assert "apt-get install" in found["qemu-storage-daemon"].reason


def test_file_that_is_no_program_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "qemu-system-x86_64").write_text("")

    assert find_programs([str(tmp_path)]) == {}


def test_broken_program_is_told_so(tmp_path: Path) -> None:
    path = program(tmp_path, "qemu-system-x86_64", "exit 1")

    check = check_program(path.name, path)
    assert not check.available
    assert "install it again" in check.reason
