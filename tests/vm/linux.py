"""A real Linux guest: Debian's cloud kernel under QEMU, with a script for its only process."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(__file__).parents[2] / "build" / "vm"
MODULES = ("virtio_pci", "virtio_mmio", "virtio_blk")
DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt
/bin/busybox mount -t devtmpfs d /dev
/bin/busybox mount -t proc p /proc
/bin/busybox mount -t sysfs s /sys
/bin/busybox --install -s /bin
export PATH=/bin
exec </dev/console >/dev/console 2>&1
for m in $(cat /order); do insmod /$m; done
echo BEGIN
sh -e /script && echo END well || echo END badly
poweroff -f
"""


def kernel() -> Path:
    """Return the unpacked package of Debian's cloud kernel, fetched once."""
    unpacked = CACHE / "kernel"
    if not unpacked.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        need("apt-get", "apt")
        try:
            said = ran("apt-cache", "depends", "linux-image-cloud-amd64")
            (package,) = re.findall(r"Depends: (linux-image\S+)", said)
            ran("apt-get", "download", "-q", package)
        except (subprocess.CalledProcessError, ValueError) as error:
            missing(f"no kernel to be had: apt-get download linux-image-cloud-amd64 ({error})")
        (deb,) = CACHE.glob(f"{package}_*.deb")
        ran("dpkg", "-x", str(deb), "unpacking")
        (CACHE / "unpacking").rename(unpacked)
        deb.unlink()
    return unpacked


def ran(*command: str) -> str:
    """Run a program in the cache; returns what it printed."""
    done = subprocess.run(command, cwd=CACHE, check=True, capture_output=True, text=True)
    return done.stdout


def modules() -> Iterator[tuple[str, bytes]]:
    """Give the modules that a virtio disk needs, each after those it depends on."""
    found = {path.name.partition(".")[0]: path for path in kernel().rglob("*.ko")}
    seen: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in seen or name not in found:  # what is not there is built in
            return
        seen.add(name)
        data = found[name].read_bytes()
        depends = DEPENDS.search(data)
        for other in depends[1].decode().split(",") if depends else ():
            yield from visit(other)
        yield name, data

    for name in MODULES:
        yield from visit(name)


def entry(name: str, data: bytes, mode: int, device: tuple[int, int] = (0, 0)) -> bytes:
    """Return one file of a cpio archive, in the form that the kernel reads."""
    title = name.encode() + b"\0"
    numbers = (1, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(title), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + title
    return padded(head) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def initramfs(script: str) -> bytes:
    """Return an archive with busybox, the modules and the script."""
    busybox = Path(need("busybox", "busybox-static")).read_bytes()
    drivers = dict(modules())
    files = [entry(name, b"", 0o40755) for name in ("bin", "dev")]
    files.append(entry("dev/console", b"", 0o20600, (5, 1)))
    files.append(entry("bin/busybox", busybox, 0o100755))
    files.append(entry("bin/sh", b"busybox", 0o120777))
    files.append(entry("init", INIT.encode(), 0o100755))
    files.append(entry("script", script.encode(), 0o100644))
    files += [entry(f"{name}.ko", data, 0o100644) for name, data in drivers.items()]
    files.append(entry("order", " ".join(f"{name}.ko" for name in drivers).encode(), 0o100644))
    return gzip.compress(b"".join([*files, entry("TRAILER!!!", b"", 0)]), 1)


async def run_in_linux(folder: Path, script: str, *options: str) -> list[str]:
    """Boot, run a script with `sh -e`, and return the lines that it printed; it must end well."""
    program = need("qemu-system-x86_64", "qemu-system-x86")
    archive = folder / "initramfs"
    archive.write_bytes(initramfs(script))
    (image,) = kernel().glob("boot/vmlinuz-*")
    command = [
        *(program, "-accel", "tcg", "-M", "q35,memory-backend=mem", "-cpu", "max", "-m", "512"),
        *("-object", "memory-backend-memfd,id=mem,size=512M,share=on", "-nographic", "-no-reboot"),
        *("-nodefaults", "-serial", "stdio", "-kernel", str(image), "-initrd", str(archive)),
        *("-append", "console=ttyS0 panic=-1 quiet", *options),
    ]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT)
    said = done.stdout.decode(errors="replace").replace("\r", "")
    _, begun, rest = said.partition("BEGIN\n")
    lines, ended, _ = rest.partition("END well\n")
    assert begun, said
    assert ended, said
    return lines.splitlines()
