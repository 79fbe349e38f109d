"""A real Linux guest mounts our disk."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import Block
from paravirt.hostside.testing import LinuxGuest, Result
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("kernels")]

SCRIPT = """
set -e
cat /sys/block/vda/size
mount -t ext4 /dev/vda /mnt
cat /mnt/hello
cp /bin/busybox /mnt/copy
dd if=/dev/urandom of=/mnt/random bs=64k count=100 2>/dev/null
sum() { md5sum "$1" | cut -c1-32; }
before=$(sum /mnt/random)
umount /mnt
cd /sys/bus/virtio/drivers/virtio_blk
disk=$(ls -d virtio*)
echo $disk > unbind
echo $disk > bind
mount -t ext4 /dev/vda /mnt
[ "$(sum /mnt/random)" = "$before" ] && echo same
[ "$(sum /mnt/copy)" = "$(sum /bin/busybox)" ] && echo equal
umount /mnt
"""


def file_system(folder: Path) -> Path:
    """Make an image with an ext4 file system that has one file."""
    tree, path = folder / "tree", folder / "disk.img"
    tree.mkdir()
    (tree / "hello").write_text("hello from the host\n")
    mke2fs = need("mke2fs", "e2fsprogs")
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-d", tree, path, "64M"], check=True)
    return path


async def test_linux_mounts_the_disk_and_leaves_it_clean(tmp_path: Path) -> None:
    path = file_system(tmp_path)
    with Block(path, queues=2) as disk:
        async with LinuxGuest(devices=[disk], kernel="6.1", cpus=2) as guest:
            result = await guest.run(SCRIPT)

    assert result == Result(0, "131072\nhello from the host\nsame\nequal\n")
    check = [need("e2fsck", "e2fsprogs"), "-fn", str(path)]
    assert (await trio.run_process(check, capture_stdout=True)).returncode == 0
