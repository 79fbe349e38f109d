"""Which QEMU runs a guest, with programs and folders that stand in for Debian's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.hostside.testing import GuestError
from paravirt.hostside.testing._emulator import find_emulator, needed, unpacked
from paravirt.hostside.testing._packages import say_nothing

if TYPE_CHECKING:
    from pathlib import Path

APT_GET = """#!/bin/sh
[ "$*" = "-q --simulate --no-install-recommends install qemu-system-x86" ] || exit 1
echo "Reading package lists..."
echo "Inst libslirp0 (4.7.0-1 Debian:12.5/stable [amd64])"
echo "Inst qemu-system-common [7.1] (7.2 Debian:12.5/stable [amd64])"
echo "Conf libslirp0 (4.7.0-1 Debian:12.5/stable [amd64])"
"""


def program(path: Path, text: str = "") -> Path:
    """Make a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


async def test_qemu_of_the_host_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = program(tmp_path / "qemu-system-x86_64")

    assert await find_emulator(say_nothing) == ((str(path),), None)


async def test_what_apt_would_install_is_needed_and_qemu_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be installed where no path leads to it."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program(tmp_path / "apt-get", APT_GET)

    assert await needed() == ["libslirp0", "qemu-system-common", "qemu-system-x86"]


async def test_without_apt_it_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PARAVIRT_VM", str(tmp_path))

    with pytest.raises(GuestError, match="no apt-get to fetch it with: install QEMU") as caught:
        await find_emulator(say_nothing)

    assert "\n" not in str(caught.value)


async def test_fetched_qemu_finds_its_own_files_before_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    tree, host = tmp_path / "tree", tmp_path / "host"
    path = program(tree / "usr" / "bin" / "qemu-system-x86_64")
    libraries = tree / "usr" / "lib" / "x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    modules = host / "usr" / "lib" / "x86_64-linux-gnu" / "qemu"
    modules.mkdir(parents=True)
    for root in host, tree:
        (root / "usr" / "share" / "seabios").mkdir(parents=True)

    found = unpacked(tree, host)

    firmware = [str(root / "usr" / "share" / "seabios") for root in (tree, host)]
    assert found.command == (str(path), "-L", firmware[0], "-L", firmware[1])
    assert found.environment is not None
    assert found.environment["LD_LIBRARY_PATH"] == f"{libraries}:/before"
    assert found.environment["QEMU_MODULE_DIR"] == str(modules)


def test_folder_without_qemu_is_told_to_be_removed(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="remove it, and try again"):
        unpacked(tmp_path)
