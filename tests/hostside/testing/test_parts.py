"""What a guest is made of, without one."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from paravirt.hostside import Device, Request
from paravirt.hostside.testing import GuestError, LinuxGuest
from paravirt.hostside.testing._attach import TYPES, type_of
from paravirt.hostside.testing._image import ELF, unpack, unwrapped
from paravirt.hostside.testing._initramfs import Archive
from paravirt.hostside.testing._modules import read_modules
from paravirt.hostside.testing._programs import libraries, with_libraries
from paravirt.hostside.testing._qemu import Machine, best_accelerator
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KERNEL = ELF + bytes(range(256)) * 40


class Unknown(Device):
    """Of a type that QEMU has no frontend for."""

    device_id = 42

    def handle(self, request: Request) -> None:
        request.reply(b"")


def module(depends: str) -> bytes:
    """Make what is read of a module."""
    return b"\x7fELF..\0license=GPL\0depends=" + depends.encode() + b"\0"


def bz_image(payload: bytes, size: int) -> bytes:
    """Wrap a payload as Linux does: a boot sector, a sector of set-up, the payload, its size."""
    head = bytearray(1024)
    head[0x1F1] = 1
    struct.pack_into("<II", head, 0x248, 0x40, len(payload) + 4)
    return bytes(head) + bytes(0x40) + payload + struct.pack("<I", size)


def test_modules_come_after_those_they_depend_on(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "virtio-blk.ko").write_bytes(module("virtio,ring"))
    (tmp_path / "deep" / "ring.ko.xz").write_bytes(lzma.compress(module("virtio")))
    (tmp_path / "virtio.ko").write_bytes(module(""))

    found = list(read_modules(tmp_path, ["virtio_blk", "built_in", "virtio"]))

    assert [name for name, _ in found] == ["virtio", "ring", "virtio_blk"]
    assert dict(found)["ring"] == module("virtio")


def test_archive_is_one_that_cpio_unpacks(tmp_path: Path) -> None:
    archive = Archive()
    archive.add("/a/b/odd", b"12345")
    archive.add_link("/a/link", "b/odd")
    command = [need("busybox", "busybox-static"), "cpio", "-i", "-d"]
    subprocess.run(command, input=archive.to_bytes(), cwd=tmp_path, check=True, capture_output=True)

    assert (tmp_path / "a" / "link").read_bytes() == b"12345"
    assert (tmp_path / "a" / "b" / "odd").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_kernel_is_unpacked_once(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz-6"
    image.write_bytes(bz_image(compress(KERNEL), len(KERNEL)))

    path = unwrapped(image)

    assert path == tmp_path / "vmlinux-6"
    assert path.read_bytes() == KERNEL
    image.write_bytes(b"")
    assert unwrapped(image) == path


def test_kernel_of_lz4_is_unpacked() -> None:
    """A block of literals only, in the frame of the lz4 program's old format."""
    literals = KERNEL[:100]
    block = bytes([0xF0, len(literals) - 15]) + literals
    frame = b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block

    assert unpack(bz_image(frame, len(literals))) == literals


@pytest.mark.parametrize("payload", [b"unknown", b"\x28\xb5\x2f\xfdbroken", b"\x1f\x8bbroken"])
def test_kernel_that_cannot_be_unpacked_is_left_to_itself(payload: bytes, tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz-6"
    image.write_bytes(bz_image(payload, 100))

    assert unwrapped(image) == image
    assert list(tmp_path.iterdir()) == [image]


def test_every_device_that_is_attached_is_one_of_qemus() -> None:
    program = need("qemu-system-x86_64", "qemu-system-x86")
    done = subprocess.run([program, "-device", "help"], capture_output=True, text=True, check=True)

    for kind in TYPES.values():
        assert f'name "{kind.name}-pci"' in done.stdout


def test_device_that_qemu_cannot_attach_is_refused() -> None:
    with pytest.raises(
        GuestError, match="QEMU attaches no Unknown: it has no vhost-user frontend for"
    ):
        type_of(Unknown())


def test_port_without_pci_is_refused_before_anything_starts() -> None:
    guest = LinuxGuest(machine="microvm", notify="pio")

    with pytest.raises(ValueError, match="no PCI bus"):
        guest.__aenter__().send(None)


@pytest.mark.parametrize(("module", "chosen"), [("kvm_intel", "kvm"), ("kvm_pvm", "tcg")])
def test_only_an_ordinary_kvm_is_used(module: str, chosen: str, tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    (tmp_path / module).touch()

    assert best_accelerator(tmp_path / "kvm", [tmp_path / "kvm_intel"]) == chosen


def test_without_kvm_there_is_tcg(tmp_path: Path) -> None:
    assert best_accelerator(tmp_path / "none", [tmp_path]) == "tcg"


def test_network_device_is_behind_a_netdev() -> None:
    options = Machine("q35", 1, 512, "pio", "tcg").attach(0, 7, TYPES[1], 2)

    assert options[1] == "socket,id=paravirt0-socket,fd=7"
    assert options[3] == "vhost-user,id=paravirt0-net,chardev=paravirt0-socket,queues=1"
    assert options[5].startswith("virtio-net-pci,netdev=paravirt0-net,id=paravirt0,vectors=0")
    assert options[5].endswith("modern-pio-notify=on")


def test_program_comes_with_its_libraries() -> None:
    files = with_libraries(["e2fsck"])

    assert "/bin/e2fsck" in files
    assert any("libc.so" in name for name in files)
    assert any("ld-linux" in name for name in files)


def test_static_program_has_no_libraries() -> None:
    assert not libraries(need("busybox", "busybox-static"))


def test_program_that_is_not_there_is_named() -> None:
    with pytest.raises(GuestError, match="no such-program here"):
        with_libraries(["such-program"])
