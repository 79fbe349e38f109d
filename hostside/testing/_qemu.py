"""QEMU's command line: a machine, its memory, its processors and what is attached."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from ._setup import PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._attach import Type

    MachineName: TypeAlias = Literal["q35", "microvm"]
    Notify: TypeAlias = Literal["mmio", "pio"]
    Accelerator: TypeAlias = Literal["kvm", "tcg"]

__all__ = ()  # of use to this room only

KVM = Path("/dev/kvm")
ORDINARY = (Path("/sys/module/kvm_intel"), Path("/sys/module/kvm_amd"))
"""The kernel's modules for hardware that runs a guest's kernel. Others (kvm-pvm, in a virtual
machine without nested virtualization) interpret it, a microsecond an instruction, and not all."""
TSC_KHZ = 2_000_000
"""Where the host does not tell. On microvm Linux may calibrate the time stamp counter against
nothing, and hang; with this it does not try."""


class Machine(msgspec.Struct, frozen=True):
    """What a guest runs on."""

    name: MachineName
    cpus: int
    memory: int
    """In MiB."""
    notify: Notify
    accelerator: Accelerator

    @property
    def pci(self) -> bool:
        """Whether devices are on a PCI bus; otherwise they are on virtio-mmio."""
        return self.name != "microvm"

    def options(self) -> list[str]:
        """Return the options for the machine itself."""
        size = f"{self.memory}M"
        return [
            *("-accel", self.accelerator, "-cpu", "max", "-smp", str(self.cpus), "-m", size),
            *("-M", f"{self.name},memory-backend=mem"),
            *("-object", f"memory-backend-memfd,id=mem,size={size},share=on"),
            *("-global", "virtio-mmio.force-legacy=false"),  # else its devices are virtio 0.9's
            *("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"),
        ]

    def parameters(self) -> str:
        """Return the parameters for the kernel; a panic ends QEMU."""
        given = "console=ttyS0 panic=-1 quiet"
        return given if self.pci else f"{given} tsc_early_khz={_tsc_khz()}"

    def agent(self, fd: int) -> list[str]:
        """Return the options for the port of the guest's first process."""
        bus = "virtio-serial-pci" if self.pci else "virtio-serial-device"
        return [
            *("-chardev", f"socket,id={PORT},fd={fd}", "-device", bus),
            *("-device", f"virtserialport,chardev={PORT},name={PORT}"),
        ]

    def monitor(self, fd: int) -> list[str]:
        """Return the options for a conversation with QEMU itself."""
        return [
            *("-chardev", f"socket,id={PORT}-monitor,fd={fd}"),
            *("-mon", f"chardev={PORT}-monitor,mode=control"),
        ]

    def attach(self, number: int, fd: int, kind: Type, queues: int) -> list[str]:
        """Return the options for a vhost-user device."""
        name, chardev = f"paravirt{number}", f"paravirt{number}-socket"
        options = ["-chardev", f"socket,id={chardev},fd={fd}"]
        owner = f"chardev={chardev}"
        if kind.backend is not None:
            options += [
                "-netdev",
                f"{kind.backend},id={name}-net,{owner},queues={queues // 2 or 1}",
            ]
            owner = f"netdev={name}-net"
        suffix = "-pci" if self.pci else "-device" if kind.backend else ""
        parts = [f"{kind.name}{suffix}", owner, f"id={name}", kind.options.format(queues=queues)]
        parts.append(kind.pci_options if self.pci else kind.mmio_options)
        if self.notify == "pio":
            parts.append("modern-pio-notify=on")
        return [*options, "-device", ",".join(filter(None, parts))]


def best_accelerator(kvm: Path = KVM, ordinary: Sequence[Path] = ORDINARY) -> Accelerator:
    """Return "kvm" where it can boot Linux, else "tcg"."""
    usable = os.access(kvm, os.R_OK | os.W_OK) and any(path.exists() for path in ordinary)
    return "kvm" if usable else "tcg"


def _tsc_khz() -> int:
    """Return the rate of the host's time stamp counter, which the guest's has too."""
    mhz = re.search(r"cpu MHz\s*: ([0-9.]+)", Path("/proc/cpuinfo").read_text())
    return round(float(mhz[1]) * 1000) if mhz else TSC_KHZ
