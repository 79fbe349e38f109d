"""A disk image for QEMU, over vhost-user: python -m examples.qemu_block disk.img disk.sock."""

from __future__ import annotations

import sys

import trio

from paravirt.hostside import Block
from paravirt.hostside.vhost_user import serve_vhost_user

ATTACH = """serving; now run, with more options of yours:
qemu-system-x86_64 -m 1G -machine q35,memory-backend=mem \\
    -object memory-backend-memfd,id=mem,size=1G,share=on \\
    -chardev socket,id=disk0,path={} -device vhost-user-blk-pci,chardev=disk0"""


async def main(image: str, path: str) -> None:
    """Serve an image until Ctrl-C."""
    with Block(image) as disk:
        async with trio.open_nursery() as nursery:
            where = await nursery.start(serve_vhost_user, disk, path)
            print(ATTACH.format(where), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
