"""A real Linux guest mounts our disk."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import Block
from paravirt.hostside.vhost_user import serve_vhost_user
from tests.tools import need
from tests.vm.linux import kernel, run_in_linux

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.qemu

SCRIPT = """
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


@pytest.fixture(scope="session", autouse=True)
def fetched() -> None:
    """Fetch the kernel before the guard against hangs counts."""
    need("qemu-system-x86_64", "qemu-system-x86")
    kernel()


async def test_linux_mounts_the_disk_and_leaves_it_clean(tmp_path: Path) -> None:
    path = file_system(tmp_path)
    socket = str(tmp_path / "disk.sock")
    device = "vhost-user-blk-pci,chardev=c0,num-queues=2"
    options = ["-smp", "2", "-chardev", f"socket,id=c0,path={socket}", "-device", device]
    async with trio.open_nursery() as nursery:
        with Block(path, queues=2) as disk:
            await nursery.start(serve_vhost_user, disk, socket)
            lines = await run_in_linux(tmp_path, SCRIPT, *options)
            nursery.cancel_scope.cancel()

    assert lines == ["131072", "hello from the host", "same", "equal"]
    check = [need("e2fsck", "e2fsprogs"), "-fn", str(path)]
    assert (await trio.run_process(check, capture_stdout=True)).returncode == 0
