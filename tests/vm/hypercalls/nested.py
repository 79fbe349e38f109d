"""An ordinary KVM for tests, where this machine's own has no hypercalls: inside an emulated Linux.

QEMU's TCG emulates a CPU with AMD's virtualization, and Debian's 6.12 cloud kernel on it is a host
like any other. The file system of this machine is mounted there, so that the same Python runs the
same tests; what it reports comes back line by line. Timings from in there mean nothing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from paravirt.hostside.testing import GuestError, LinuxGuest, fetch_kernel
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

INSIDE: Final = "PARAVIRT_NESTED"
"""Set for the tests that run in there."""
REPORT: Final = "@report "
"""Begins a line with a report of a test, as JSON."""
SAID: Final = "said"
"""Names a property of a test (`record_property`) that is printed in the end."""
ROOT: Final = Path(__file__).parents[3]
KERNEL: Final = "6.12"  # the first of Debian's with Xen's hypercalls in KVM
# A run takes some 60 s; the tests are killed after this, and whatever they have reported counts.
SECONDS: Final = 240
MEMORY: Final = 1024  # MiB: Python, pytest and the guests of the tests need 300
DEBIAN: Final = "/usr/lib/qemu"  # where Debian has virtiofsd, off the path

# pytest-trio would import Hypothesis, if it could: that is 10 s there.
START: Final = (
    "import sys; sys.modules['hypothesis'] = None; import pytest; sys.exit(pytest.main())"
)
SETTINGS: Final = "TMPDIR=/dev/shm PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"
# The host's own files, and what a program needs beside them.
MOUNTS: Final = """
set -e
mkdir /dev/shm
mount -t virtiofs -o ro host /mnt
mount -t devtmpfs dev /mnt/dev
mount -t tmpfs none /mnt/dev/shm
mount -t proc proc /mnt/proc
mount -t sysfs sys /mnt/sys
"""


class Outcome(NamedTuple):
    """What came out of the machine."""

    reports: dict[str, list[dict[str, Any]]]
    """Of each test, by its node's id."""
    said: str
    """All else that was printed."""

    def complete(self, node: str) -> bool:
        """Tell whether a test has reported up to its end."""
        return any(report["when"] == "teardown" for report in self.reports.get(node, ()))


def find_virtiofsd() -> str:
    """Return the path of QEMU's file server, or skip."""
    if os.geteuid() != 0:
        missing("virtiofsd shares the whole file system as root only")
    path = os.pathsep.join((DEBIAN, "/usr/libexec", os.environ["PATH"]))
    return shutil.which("virtiofsd", path=path) or need("virtiofsd", "qemu-system-common")


@contextlib.contextmanager
def file_server(folder: Path) -> Generator[Path, None, None]:
    """Serve this machine's files, to be read only; gives the socket."""
    program, path = find_virtiofsd(), folder / "files.sock"
    with socket.socket(socket.AF_UNIX) as listener, (folder / "virtiofsd.log").open("wb") as log:
        listener.bind(str(path))
        listener.listen(1)
        options = ["-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"]
        command = [program, f"--fd={listener.fileno()}", *options]
        server = subprocess.Popen(command, pass_fds=[listener.fileno()], stdout=log, stderr=log)
        try:
            yield path
        finally:
            server.kill()
            server.wait()


def inside(nodes: Sequence[str]) -> str:
    """Return the script that runs tests in there."""
    plain = ("-p", "pytest_trio.plugin", "-p", "no:cacheprovider", "-q", "--no-header")
    command = shlex.join((sys.executable, "-c", START, *plain, *nodes))
    settings = f"{INSIDE}=1 {SETTINGS} PARAVIRT_SEED={os.environ.get('PARAVIRT_SEED', '')}"
    script = f"cd {shlex.quote(str(ROOT))} && {settings} exec {command}"
    return f"{MOUNTS}\ntimeout {SECONDS} chroot /mnt /bin/sh -c {shlex.quote(script)}"


async def run_nested(nodes: Sequence[str], folder: Path) -> Outcome:
    """Boot, run tests, and return what they reported.

    Raises GuestError if it does not come up; skips the test if something for it is missing.
    """
    need("qemu-system-x86_64", "qemu-system-x86")
    try:
        kernel = await fetch_kernel(KERNEL)
    except GuestError as error:
        missing(str(error))
    with file_server(folder) as path:
        device = ["-chardev", f"socket,id=files,path={path}"]
        device += ["-device", "vhost-user-fs-pci,chardev=files,tag=host"]
        async with LinuxGuest(
            kernel=kernel,
            accelerator="tcg",
            memory=MEMORY,
            modules=["kvm_amd", "virtiofs"],
            arguments=["-cpu", "max,+svm", *device],
        ) as guest:
            done = await guest.run(inside(nodes))
            return sort(f"{done.output}\n(its exit status was {done.status})")


def sort(output: str) -> Outcome:
    """Tell reports from what else was printed."""
    reports: dict[str, list[dict[str, Any]]] = {}
    said: list[str] = []
    for line in output.splitlines():
        if line.startswith(REPORT):
            report = msgspec.json.decode(line.removeprefix(REPORT))
            reports.setdefault(report["nodeid"], []).append(report)
        else:
            said.append(line)
    return Outcome(reports, "\n".join(said))
