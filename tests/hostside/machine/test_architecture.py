"""A CPU other than x86-64: no port is chosen there, each one is refused with its reason."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells.kvm import (
    BellKind,
    DoorbellRefused,
    MmioIoeventfd,
    PioDatamatch,
    PioExit,
    PioIoeventfd,
    PioWildcard,
    Vmport,
    default_kind,
)
from paravirt.hostside import serve
from paravirt.hostside.machine import Machine
from tests.hostside.machine.playing import Echo, echo, play

if TYPE_CHECKING:
    from paravirt.doorbells.kvm import GuestBell

CORE = Path(__file__).parents[3] / "hostside/machine/core"
OTHERS = ["aarch64", "riscv64", "s390x"]
WITH_PORTS = (PioIoeventfd, PioWildcard, PioDatamatch, PioExit, Vmport)
# What another CPU's build lacks is taken out of this one before anything else is imported.
ELSEWHERE = """
import platform, sys
from paravirt.hostside.machine import _kvm

class Lib:
    def __getattr__(self, name):
        if name in lacking:
            raise AttributeError(name)
        return getattr(whole, name)

whole, lacking = _kvm.lib, set(sys.argv[1:])
assert all(hasattr(whole, name) for name in lacking) and lacking
for name in [name for name in sys.modules if name.startswith("paravirt.hostside.machine.")]:
    if name != _kvm.__name__:
        del sys.modules[name]
del sys.modules["paravirt.hostside.machine"]
_kvm.lib = Lib()
platform.machine = lambda: "aarch64"

import trio
from paravirt.hostside.machine import KvmUnavailable, Machine

async def main():
    try:
        async with Machine():
            pass
    except KvmUnavailable as error:
        print(error)

trio.run(main)
"""


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("x86_64", PioIoeventfd), *((name, MmioIoeventfd) for name in OTHERS)],
)
def test_kind_that_nobody_chose_is_one_that_the_cpu_has(
    architecture: str, kind: type[GuestBell]
) -> None:
    assert default_kind(architecture) is kind


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("architecture", "kind"), [("x86_64", BellKind.PIO), ("aarch64", BellKind.MMIO)]
)
async def test_device_is_plugged_in_with_what_the_cpu_has(
    architecture: str, kind: BellKind
) -> None:
    device = Echo()
    async with Machine() as machine:
        machine.vm.architecture = architecture
        link = machine.plug(device)
        assert machine.boot.bell(0).kind is kind

        async with trio.open_nursery() as nursery:
            await nursery.start(serve, device, link)
            assert (await play(machine, echo(20))).ok
            nursery.cancel_scope.cancel()


@pytest.mark.kvm
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", WITH_PORTS, ids=lambda kind: kind.name)
async def test_port_is_refused_with_the_reason(kind: type[GuestBell], name: str) -> None:
    async with Machine() as machine:
        machine.vm.architecture = name
        with pytest.raises(DoorbellRefused, match=f"{kind.name}: {name} has no port I/O"):
            machine.plug(Echo(), doorbell=kind)
        assert machine.links == []


def test_machine_is_imported_and_refuses_in_one_line_without_the_parts_for_x86() -> None:
    """The extension of another CPU has the common declarations only."""
    declared = CORE.joinpath("x86_64/cdef.h").read_text()
    lacking = re.findall(r"#define (\w+)|(pv_\w+)\(", declared)
    names = {"".join(row) for row in lacking}

    command = [sys.executable, "-c", ELSEWHERE, *names]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert said == (
        "a machine runs on x86-64 only: there is no ring-0 code and no payload for aarch64\n"
    )
