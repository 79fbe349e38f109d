"""Which doorbells a guest can ring here, found out without ever hanging."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from importlib import resources
from typing import TYPE_CHECKING

import pytest

from paravirt.doorbells.kvm import GUEST_KINDS, probe, why_closed
from paravirt.doorbells.kvm._probe import refusal, try_all
from tests.tools import need_kvm

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from paravirt.doorbells import Capability

NAMES = tuple(kind.name for kind in GUEST_KINDS)
CHILD = "import sys; sys.path.insert(0, sys.argv.pop(1))"
# A host on which the second of three kinds hangs, as the child sees it.
HANGS = f"""
{CHILD}
import signal
from trial import _child

def hang(kvm):
    signal.setitimer(signal.ITIMER_PROF, 0.01)
    while True:
        pass

_child._open = lambda device: 0
well = dict.fromkeys(sys.argv, lambda kvm: "well")
_child.trials = lambda architecture: {{**well, "vmport": hang}}
_child.main()
"""
# A guest that jumps to itself.
LOOPS = f"""
{CHILD}
import os
from trial._page import PageMachine
PageMachine(os.open("/dev/kvm", os.O_RDWR), limit=0.05).execute(b"\\xeb\\xfe", {{}})
"""


@pytest.fixture
def device() -> str:
    need_kvm()
    return "/dev/kvm"


def rows(found: Iterable[Capability]) -> dict[str, Capability]:
    return {row.name: row for row in found}


def test_each_kind_is_probed_once_and_gives_a_reason() -> None:
    found = probe()

    assert tuple(row.name for row in found) == NAMES
    assert all(row.reason and "\n" not in row.reason for row in found)


def test_it_is_found_out_once_a_process() -> None:
    assert probe() is probe()


def test_refusal_is_the_reason_of_a_row() -> None:
    for row in probe():
        assert refusal(row.name) == ("" if row.available else row.reason)


@pytest.mark.kvm
def test_writes_of_a_guest_are_heard_where_kvm_is(device: str) -> None:
    """KVM_CAP_IOEVENTFD is in every KVM of x86 since Linux 2.6.32."""
    found = rows(probe())

    assert found["mmio-ioeventfd"].available, found
    assert found["pio-exit"].available, found


def test_without_the_device_all_are_refused_for_that() -> None:
    device = "/nonexistent/kvm"
    found = try_all(device)

    assert {row.reason for row in found} == {why_closed(device, OSError(errno.ENOENT, ""))}
    assert not any(row.available for row in found)


def test_without_permission_all_are_refused_for_that(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch(0o000)
    try:
        os.close(os.open(device, os.O_RDWR))
    except PermissionError:
        reason = f"{device} is not yours to open: sudo usermod -aG kvm $USER, then log in again"
    else:
        reason = f"{device} is no KVM: look into dmesg"  # root may open everything

    assert {row.reason for row in try_all(str(device))} == {reason}


def test_a_device_that_is_no_kvm_is_refused() -> None:
    reasons = {row.reason for row in try_all("/dev/null")}

    assert reasons == {"/dev/null is no KVM: look into dmesg"}


@pytest.mark.kvm
def test_without_port_io_the_stores_are_left(device: str) -> None:
    """On architectures without PIO, PIO is refused with that reason."""
    found = rows(try_all(architecture="aarch64"))

    stores = {name for name in NAMES if name.startswith("mmio")}
    assert {name for name, row in found.items() if row.available} == stores
    assert found["pio-ioeventfd"].reason == "aarch64 has no port I/O: use mmio-ioeventfd"
    assert "a hypercall of x86" in found["hypercall-exit"].reason


def test_a_kind_that_hangs_is_refused_and_the_rest_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Necessary, not sufficient: a KVM may offer what it then hangs in."""
    monkeypatch.setattr("paravirt.doorbells.kvm._probe._CHILD", HANGS)

    found = try_all(names=("pio-exit", "vmport", "mmio-exit"))

    assert [(row.name, row.available) for row in found] == [
        ("pio-exit", True),
        ("vmport", False),
        ("mmio-exit", True),
    ]
    assert "hangs" in found[1].reason


@pytest.mark.kvm
def test_a_guest_that_never_comes_out_is_killed(device: str) -> None:
    folder = str(resources.files("paravirt.doorbells.kvm"))

    ended = subprocess.run([sys.executable, "-c", LOOPS, folder], check=False, timeout=20)

    assert ended.returncode == -signal.SIGPROF


def test_a_fault_of_the_child_itself_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paravirt.doorbells.kvm._probe._CHILD", "raise SystemError('ours')")

    with pytest.raises(RuntimeError, match="ours"):
        try_all()
