"""How a virtual machine is attached to a backend."""

from __future__ import annotations


def attach_options(path: str, queues: int, queue_size: int, *, connect: bool = False) -> str:
    """Return the options of QEMU and Cloud Hypervisor for a disk at a socket.

    With `connect` it is QEMU that listens; Cloud Hypervisor does so for no disk.
    """
    if connect:
        return f"waiting for QEMU at {path}; start it with\n\n" + qemu_options(
            f"path={path},server=on", queues, queue_size
        )
    return f"""\
serving at {path}; attach it with

{qemu_options(f"path={path},reconnect=1", queues, queue_size)}
  cloud-hypervisor --memory size=1G,shared=on \\
      --disk vhost_user=true,socket={path},num_queues={queues},queue_size={queue_size}
"""


def qemu_options(socket: str, queues: int, queue_size: int) -> str:
    """Return the options of QEMU for a disk at the socket of such a chardev."""
    return f"""\
  qemu-system-x86_64 -m 1G -machine q35,memory-backend=mem \\
      -object memory-backend-memfd,id=mem,size=1G,share=on \\
      -chardev socket,id=disk0,{socket} \\
      -device vhost-user-blk-pci,chardev=disk0,num-queues={queues},queue-size={queue_size}
"""
