"""A host that has no KVM for a machine: one clear line each."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from paravirt.hostside.machine import KvmUnavailable, Machine
from paravirt.hostside.machine._host import (
    READONLY,
    check_architecture,
    check_capabilities,
    check_version,
    open_kvm,
)
from paravirt.hostside.machine._ioctl import ioctl
from paravirt.hostside.machine._kvm import lib
from tests.tools import missing

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


NEEDED = (
    *("KVM_CAP_USER_MEMORY", "KVM_CAP_SET_TSS_ADDR", "KVM_CAP_EXT_CPUID", "KVM_CAP_IRQCHIP"),
    *("KVM_CAP_IRQ_ROUTING", "KVM_CAP_IRQFD", "KVM_CAP_IOEVENTFD", "KVM_CAP_IMMEDIATE_EXIT"),
)
NOBODY = 65534


@contextlib.contextmanager
def nobody() -> Generator[None, None, None]:
    """Take this thread's rights on files away, and with them root's to open any (setfsuid(2))."""
    libc = ctypes.CDLL(None)
    user = libc.setfsuid(NOBODY)
    try:
        if user != os.geteuid() or libc.setfsuid(-1) != NOBODY:
            missing("a user who may act as another: run the tests as root")
        yield
    finally:
        libc.setfsuid(user)


def line(error: BaseException) -> str:
    """Return what is said, which has to be one line."""
    text = str(error)
    assert "\n" not in text
    return text


def test_missing_device_says_what_to_load(tmp_path: Path) -> None:
    with pytest.raises(KvmUnavailable) as caught:
        open_kvm(str(tmp_path / "kvm"))

    assert "load kvm_intel or kvm_amd" in line(caught.value)
    assert caught.value.errno == errno.ENOENT


async def test_device_that_another_user_may_not_open_says_which_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel itself refuses a thread with the file system rights of nobody."""
    device = tmp_path / "kvm"
    device.touch(0o600)
    monkeypatch.setattr("paravirt.hostside.machine._vm.open_kvm", lambda: open_kvm(str(device)))
    with nobody(), pytest.raises(KvmUnavailable) as caught:
        async with Machine():
            pass

    assert caught.value.errno == errno.EACCES
    assert line(caught.value) == (
        f"{device} is not yours to open: sudo usermod -aG kvm $USER, then log in again"
    )


def test_file_that_is_no_kvm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kvm"
    path.touch()
    with pytest.raises(KvmUnavailable) as caught:
        open_kvm(str(path))

    assert "is no KVM" in line(caught.value)


@pytest.mark.parametrize("version", [0, 11, 13])
def test_other_interface_is_refused(version: int) -> None:
    with pytest.raises(KvmUnavailable, match="update the kernel") as caught:
        check_version(version)

    assert f"version {version}" in line(caught.value)


@pytest.mark.parametrize("lacking", NEEDED)
def test_missing_capability_is_named(lacking: str) -> None:
    with pytest.raises(KvmUnavailable) as caught:
        check_capabilities(lambda name: int(name != lacking))

    assert lacking in line(caught.value)


def test_kvm_without_read_only_memory_is_taken_until_it_is_asked_for() -> None:
    def ask(name: str) -> int:
        return int(name != "KVM_CAP_READONLY_MEM")

    check_capabilities(ask)
    with pytest.raises(KvmUnavailable, match="cannot make memory read-only") as caught:
        check_capabilities(ask, READONLY)

    assert "KVM_CAP_READONLY_MEM" in line(caught.value)


def test_kvm_with_all_capabilities_is_taken() -> None:
    check_capabilities(lambda _: 1)
    check_version(12)


@pytest.mark.parametrize("name", ["aarch64", "riscv64", "i686"])
def test_other_cpu_is_told_that_there_is_no_ring_0_code_for_it(name: str) -> None:
    with pytest.raises(KvmUnavailable, match="x86-64 only") as caught:
        check_architecture(name)

    assert name in line(caught.value)


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("request_name", "answer", "said"),
    [
        ("KVM_GET_API_VERSION", 11, "KVM's interface has version 11, not 12: update the kernel"),
        *(("KVM_CHECK_EXTENSION", name, f"({name}): update the kernel") for name in NEEDED),
    ],
    ids=lambda value: str(value) if str(value).startswith("KVM_CAP") else "",
)
async def test_machine_on_an_old_kernel_says_what_it_lacks_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, request_name: str, answer: int | str, said: str
) -> None:
    """The real KVM but for one answer, which is that of a kernel without it."""

    def old(fd: int, name: str, *rest: int) -> int:
        if name != request_name:
            return ioctl(fd, name, *rest)
        if isinstance(answer, int):
            return answer
        return 0 if rest == (getattr(lib, answer),) else ioctl(fd, name, *rest)

    monkeypatch.setattr("paravirt.hostside.machine._host.ioctl", old)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(KvmUnavailable) as caught:
        async with Machine():
            pass

    assert line(caught.value).endswith(said)
    assert line(caught.value).startswith(("KVM's", "this KVM "))
    assert set(os.listdir("/proc/self/fd")) == before


async def test_machine_without_kvm_raises_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "paravirt.hostside.machine._vm.open_kvm", lambda: open_kvm(str(tmp_path / "kvm"))
    )
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(KvmUnavailable):
        async with Machine():
            pass

    assert set(os.listdir("/proc/self/fd")) == before


def test_failed_ioctl_is_named(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="KVM_CREATE_VM"):
        ioctl(file.fileno(), "KVM_CREATE_VM", 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_size": 0},
        {"memory_size": 3 << 20},
        {"memory_size": (4 << 20) + 4096},
        {"memory_size": 4 << 30},
        {"vcpus": 0},
        {"vcpus": 17},
        {"ring": 1},
    ],
    ids=str,
)
def test_machine_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Machine(**wrong)
