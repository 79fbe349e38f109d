"""Which doorbells the guests of this host can ring: found out by ringing each, once a process."""

from __future__ import annotations

import functools
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from .._base import Capability

__all__ = ("probe",)

_DEVICE: Final = "/dev/kvm"
_NAMES: Final = (
    *("pio-ioeventfd", "pio-ioeventfd-wildcard", "pio-ioeventfd-datamatch", "pio-exit"),
    *("mmio-ioeventfd", "mmio-ioeventfd-wildcard", "mmio-ioeventfd-datamatch", "mmio-exit"),
    *("vmport", "hypercall-hyperv", "hypercall-xen", "hypercall-exit"),
)
# Only the folder of the trials is imported there, so that it starts in no time.
_CHILD: Final = "import sys; sys.path.insert(0, sys.argv.pop(1)); from trial import main; main()"
# The child kills itself when a guest takes 200 ms of CPU time without coming out; this is for a
# guest that sleeps, and far above the start of an interpreter on an emulated CPU (4 s).
_PATIENCE_SECONDS: Final = 30.0
_ENDS: Final = (0, -signal.SIGPROF, -signal.SIGKILL)
_once: Final = threading.Lock()


def probe() -> tuple[Capability, ...]:
    """Ring every kind once in a throw-away virtual machine of one page, in a child process.

    A capability of the kernel's is necessary, not sufficient: there are hosts that have it and hang
    in the guest's hypercall. Blocks for about 0.1 s, 0.4 s on such a host; answers from then on.
    """
    with _once:
        return _answers()


def refusal(name: str) -> str:
    """Say why this host cannot have one kind, nothing if it can."""
    (found,) = [answer for answer in probe() if answer.name == name]
    return "" if found.available else found.reason


@functools.cache
def _answers() -> tuple[Capability, ...]:
    return try_all()


def try_all(
    device: str = _DEVICE, architecture: str = "", names: tuple[str, ...] = _NAMES
) -> tuple[Capability, ...]:
    """Try kinds now; a guest that hangs takes its child along, and the next child goes on."""
    found: list[Capability] = []
    while len(found) < len(names):
        rest = names[len(found) :]
        lines = _run_child(device, architecture or platform.machine(), *rest)
        found += [_answer(line) for line in lines]
    return tuple(found)


def _run_child(*arguments: str) -> list[str]:
    """Return at least one line; only the last may be cut short, by a guest that hung."""
    command = [sys.executable, "-I", "-S", "-c", _CHILD, str(Path(__file__).parent), *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            said, errors = child.communicate(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            said, errors = child.communicate()
    if not said or child.returncode not in _ENDS:
        raise RuntimeError(f"cannot try doorbells: code {child.returncode}\n{errors}")
    return said.splitlines()


def _answer(line: str) -> Capability:
    name, verdict, reason = (*line.split("\t", 2), "", "")[:3]
    if not verdict:
        return Capability(name, False, "KVM hangs in it: a guest that kicks never comes out")
    return Capability(name, verdict == "yes", reason)
