"""Debian's Linux works with our disk, on each machine, with each doorbell and each kernel."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from paravirt.transport.wire.block import SECTOR
from tests.tools import need
from tests.vm.machines import REBOOTED, Booted

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.qemu

FIO = """
fio --name=mixed --filename=/dev/vdc --ioengine=libaio --direct=1 --rw=randrw --bsrange=512-256k \\
    --size=8m --offset_increment=8m --numjobs=4 --iodepth=16 --verify=crc32c \\
    --verify_state_save=0 --randseed={} --output-format=terse
"""
CAPABILITIES, BARS, VENDOR, NOTIFY_CFG = 0x34, 0x10, 0x09, 2
ERRORS = re.compile(r"^3;fio-[^;]*;mixed;\d+;(\d+);", re.MULTILINE)
"""The error number in a line of fio's terse format."""


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all files under a folder."""
    files = (path for path in folder.rglob("file*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def said_digests(output: str) -> dict[str, str]:
    """Read what sha256sum printed of files under the current folder."""
    pairs = (line.split() for line in output.splitlines())
    return {path.removeprefix("./"): digest for digest, path in pairs}


def kick_is_port(config: bytes) -> bool:
    """Find the first structure for notifications (4.1.4.4), and see whether its BAR has ports."""
    at = config[CAPABILITIES]
    while config[at] != VENDOR or config[at + 3] != NOTIFY_CFG:
        at = config[at + 1]
    return bool(config[BARS + 4 * config[at + 4]] & 1)


def test_guest_is_what_was_asked_for(booted: Booted) -> None:
    assert booted.run("uname -r").startswith(booted.setting.kernel + ".")
    bus = booted.run("readlink -f /sys/block/vda/device/..")
    assert ("pci" in bus) == (booted.setting.machine == "q35")


def test_driver_kicks_as_was_asked_for(booted: Booted) -> None:
    """4.1.4: a driver takes the first structure of a kind; 4.2: virtio-mmio has but one way."""
    if booted.setting.machine == "microvm":
        assert "LNRO0005" in booted.run("cat /proc/iomem")
        return
    config = booted.run("od -An -v -tx1 $(readlink -f /sys/block/vda/device/..)/config")
    assert kick_is_port(bytes.fromhex(config)) == (booted.setting.notify == "pio")


def test_tree_comes_in_and_goes_out_whole(booted: Booted, tmp_path: Path) -> None:
    inside = booted.run("mount /dev/vda /mnt; cd /mnt; find . -name 'file*' -exec sha256sum {} +")
    booted.run("cp -a /mnt /tmp/tree; rm -rf /mnt/out; mv /tmp/tree /mnt/out; umount /mnt")

    before = digests(booted.folder / "tree")
    assert said_digests(inside) == before
    booted.check_clean()
    debugfs = [need("debugfs", "e2fsprogs"), "-R", f"rdump /out {tmp_path}"]
    subprocess.run([*debugfs, booted.folder / "tree.img"], check=True, capture_output=True)
    assert digests(tmp_path / "out") == before
    booted.run("mount /dev/vda /mnt; rm -r /mnt/out; umount /mnt")
    booted.check_clean()


def test_mixed_load_of_fio_verifies(booted: Booted, seed: int) -> None:
    result = booted.result(FIO.format(seed))

    assert (result.status, ERRORS.findall(result.output)) == (0, ["0"] * 4), result.output


def test_tables_longer_than_the_queue_carry_what_they_should(booted: Booted, seed: int) -> None:
    """Linux builds them although 2.7.5.3.1 forbids it; QEMU's queue has 128 descriptors."""
    assert int(booted.run("cat /sys/block/vdc/queue/max_segments")) > 128

    assert booted.run(f"scatter /dev/vdc 4 60 {seed}") == ""


def test_each_queue_is_used(booted: Booted) -> None:
    before = [queue.requests for queue in booted.disks.scratch.statistics().queues]
    for cpu in range(4):
        booted.run(f"taskset -c {cpu} dd if=/dev/vdc of=/dev/null bs=4k count=1 iflag=direct")

    after = [queue.requests for queue in booted.disks.scratch.statistics().queues]
    assert len(after) == 4
    assert all(late > early for early, late in zip(before, after, strict=True))


def test_guest_sees_the_disk_grow(booted: Booted) -> None:
    path = booted.folder / "growing.img"
    size = path.stat().st_size + (1 << 20)
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size - SECTOR)
        file.write(b"the new end".ljust(SECTOR, b"."))

    async def resize() -> int:
        return booted.disks.growing.resize()

    assert booted.call(resize) == size
    sectors = size // SECTOR
    end = booted.run(
        f"until [ $(cat /sys/block/vdd/size) = {sectors} ]; do usleep 10000; done\n"
        f"dd if=/dev/vdd bs={SECTOR} skip={sectors - 1} iflag=direct 2>/dev/null | head -c 11"
    )
    assert end == "the new end"


def test_disk_that_is_only_read_cannot_be_written(booted: Booted) -> None:
    """5.2.3: VIRTIO_BLK_F_RO."""
    content = (booted.folder / "fixed.img").read_bytes()

    assert booted.run("cat /sys/block/vdb/ro") == "1\n"
    assert booted.result("dd if=/dev/zero of=/dev/vdb bs=4k count=1 oflag=direct").status != 0
    said = booted.run("sha256sum /dev/vdb").split()[0]
    assert said == hashlib.sha256(content).hexdigest()
    assert (booted.folder / "fixed.img").read_bytes() == content


def test_driver_lets_go_of_the_disk_and_takes_it_again(booted: Booted) -> None:
    said = booted.run("""
        mount /dev/vda /mnt; echo written before >/mnt/note; umount /mnt
        cd /sys/bus/virtio/drivers/virtio_blk
        disk=$(basename $(readlink -f /sys/block/vda/device))
        echo $disk >unbind; [ ! -e /sys/block/vda ]; echo $disk >bind
        mount /dev/vda /mnt; cat /mnt/note; umount /mnt
        """)

    assert said == "written before\n"
    booted.check_clean()


@pytest.mark.parametrize("booted", REBOOTED, indirect=True, ids=str)
def test_guest_starts_again_with_the_disk_as_it_was(booted: Booted) -> None:
    note = os.urandom(8).hex()
    booted.run(f"mount /dev/vda /mnt; echo {note} >/mnt/note; umount /mnt")

    booted.call(booted.guest.reboot)

    assert booted.run("mount /dev/vda /mnt; cat /mnt/note; umount /mnt") == f"{note}\n"
    booted.check_clean()
