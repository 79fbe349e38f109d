"""How a virtual machine is attached to a backend."""

from __future__ import annotations


def attach_options(path: str, queues: int, queue_size: int) -> str:
    """Return the options of QEMU and Cloud Hypervisor for a disk at a socket."""
    return f"""\
serving at {path}; attach it with

  qemu-system-x86_64 -m 1G -machine q35,memory-backend=mem \\
      -object memory-backend-memfd,id=mem,size=1G,share=on \\
      -chardev socket,id=disk0,path={path},reconnect=1 \\
      -device vhost-user-blk-pci,chardev=disk0,num-queues={queues},queue-size={queue_size}

  cloud-hypervisor --memory size=1G,shared=on \\
      --disk vhost_user=true,socket={path},num_queues={queues},queue_size={queue_size}
"""
