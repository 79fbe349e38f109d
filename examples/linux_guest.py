"""A device of one's own in a real Linux: python -m examples.linux_guest."""

from __future__ import annotations

import trio

from paravirt.hostside import Device, Request
from paravirt.hostside.testing import LinuxGuest


class Entropy(Device):
    """An entropy device (virtio 1.4, 5.4), of which more is known than should be."""

    device_id = 4
    queue_sizes = (8,)

    def handle(self, request: Request) -> None:
        request.reply(b"paravirt"[: request.writable])


async def test_linux_reads_entropy() -> None:
    with trio.fail_after(60):
        async with LinuxGuest(devices=[Entropy()]) as guest:
            result = await guest.run("head -c 8 /dev/hwrng")
            assert result.output == "paravirt"
            result = await guest.run("cat /sys/class/misc/hw_random/rng_current")
            assert (result.status, result.output) == (0, "virtio_rng.0\n")


if __name__ == "__main__":
    trio.run(test_linux_reads_entropy)
    print("Linux read what the device gave it")
