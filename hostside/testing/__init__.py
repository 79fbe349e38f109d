"""A real Linux guest for tests: Debian's kernel under QEMU, with devices of yours.

async with LinuxGuest(devices=[Block("disk.img")]) as guest:
    result = await guest.run("mount /dev/vda /mnt && ls /mnt")
"""

from __future__ import annotations

from ._errors import GuestError as GuestError
from ._guest import Guest as Guest
from ._kernel import Kernel as Kernel, fetch_kernel as fetch_kernel
from ._linux import LinuxGuest as LinuxGuest
from ._packages import Report as Report
from ._result import Result as Result
