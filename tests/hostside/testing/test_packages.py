"""Fetching packages, with programs that stand in for Debian's."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside.testing import GuestError, fetch_kernel
from paravirt.hostside.testing._packages import fetch

if TYPE_CHECKING:
    from pathlib import Path

APT_GET = """#!/bin/sh
for package in "$@"; do :; done
echo "$package" >>"$FOLDER/asked"
[ "$package" != gone ] || { echo "E: Unable to locate package gone"; exit 100; }
echo "dlstatus:1:25.0000:Retrieving file 1 of 1"
echo "dlstatus:1:75.5000:Retrieving file 1 of 1"
[ "$package" != slow ] || exec sleep 100
echo "$package" >"${package}_1_amd64.deb"
"""
DPKG = """#!/bin/sh
mkdir -p "$3/boot" && cp "$2" "$3/boot/vmlinuz-$(cat "$2" | cut -d- -f3-)"
"""
APT_CACHE = """#!/bin/sh
case $2 in
linux-image-cloud-amd64) echo "  Depends: linux-image-6.1.0-9-cloud-amd64" ;;
linux-image-6.12-cloud-amd64) echo "  Depends: linux-image-6.12.3-cloud-amd64" ;;
*) echo "E: No packages found" >&2; exit 100 ;;
esac
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-ins on the path, and give the folder for what is fetched."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in ("apt-get", APT_GET), ("dpkg", DPKG), ("apt-cache", APT_CACHE):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setenv("PARAVIRT_VM", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir()]


def asked(cache: Path) -> list[str]:
    return (cache.parent / "asked").read_text().split()


async def test_package_is_fetched_once_and_its_way_is_told(cache: Path) -> None:
    told: list[tuple[str, float]] = []

    def report(what: str, percent: float) -> None:
        told.append((what, percent))

    for _ in range(2):
        assert await fetch("a-b-c", report) == cache / "a-b-c"

    assert asked(cache) == ["a-b-c"]
    assert told == [("a-b-c", percent) for percent in (0.0, 25.0, 75.5, 100.0)]
    assert kept(cache) == ["a-b-c"]


async def test_package_that_cannot_be_had_is_told_in_apts_words(cache: Path) -> None:
    with pytest.raises(GuestError, match="Unable to locate package gone") as caught:
        await fetch("gone")

    assert "\n" not in str(caught.value)
    assert not kept(cache)


async def test_cancelled_download_leaves_nothing(cache: Path) -> None:
    with trio.CancelScope() as scope:

        def report(what: str, percent: float) -> None:
            if percent > 50:
                scope.cancel()

        await fetch("slow", report)

    assert scope.cancelled_caught
    assert not kept(cache)


async def test_series_names_the_kernel_that_its_package_depends_on(cache: Path) -> None:
    for name, version in ((None, "6.1.0-9"), ("6.1", "6.1.0-9"), ("6.12", "6.12.3")):
        kernel = await fetch_kernel(name)
        assert kernel.version == f"{version}-cloud-amd64"
        assert kernel.image.is_file()
        assert await fetch_kernel(name) == kernel._replace(
            image=cache / f"kernel-{name or 'default'}" / "boot" / kernel.image.name,
            modules=cache / f"kernel-{name or 'default'}" / "lib" / "modules" / kernel.version,
        )

    assert len(asked(cache)) == 2


async def test_kernel_that_was_removed_is_fetched_again(cache: Path) -> None:
    await fetch_kernel("6.12")
    await trio.to_thread.run_sync(shutil.rmtree, cache / "linux-image-6.12.3-cloud-amd64")

    await fetch_kernel("6.12")

    assert len(asked(cache)) == 2


async def test_series_that_debian_does_not_have_is_refused() -> None:
    with pytest.raises(GuestError, match=r"Debian's 6\.13 kernel is not among the packages here"):
        await fetch_kernel("6.13")


async def test_without_apt_it_is_said_that_debian_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(GuestError, match="no apt-cache here"):
        await fetch_kernel()
