"""`paravirt bench idle`: what a process pays for vhost-user connections that nobody uses."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from paravirt.guestside.vhost_user import connect_vhost_user
from paravirt.hostside.vhost_user import serve_vhost_user

from ._idle import Idle
from ._report import OURS, Case, bench_options, run_cases, show

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECTIONS = 1000
SECONDS = 2.0
"""How long nothing is done: a process's CPU time is told in ticks of 10 ms."""
TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = resource.getpagesize()


@click.command(
    epilog="""
    \b
    Examples:
      paravirt bench idle
      paravirt bench idle --connections 5000 --json
    """
)
@click.option("--connections", default=CONNECTIONS, show_default=True, type=click.IntRange(1))
@bench_options
def idle(*, connections: int, runs: int, as_json: bool) -> None:
    """Measure a server whose frontends have all but started their queues.

    A process of its own serves them, with a device for each. `rss_kib` is all that it has in
    memory, `cpu_percent` its share of a CPU while nothing happens.
    """

    def once() -> Mapping[str, float]:
        return trio.run(measure, connections)

    case = Case(f"{connections} connections", OURS, 0, 0, once)
    show(run_cases("idle", [case], runs), as_json=as_json)


async def measure(connections: int) -> Mapping[str, float]:
    """Start a server, connect, and look at it from outside while nothing happens."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "idle.sock")
        command = [sys.executable, "-c", f"from {__name__} import main; main()", path]
        server = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert server.stdout is not None
        try:
            await server.stdout.receive_some()  # it listens now
            return await _look(path, connections, Path("/proc") / str(server.pid))
        finally:
            server.kill()
            with trio.CancelScope(shield=True):
                await server.stdout.aclose()
                await server.wait()


async def _look(path: str, connections: int, process: Path) -> Mapping[str, float]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    leave = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            await nursery.start(_connect, path, leave)
        before = _cpu_seconds(process)
        await trio.sleep(SECONDS)
        spent = _cpu_seconds(process) - before
        resident = int((process / "statm").read_text().split()[1]) * PAGE
        leave.set()
    return {"rss_kib": resident / 1024, "cpu_percent": 100 * spent / SECONDS}


async def _connect(
    path: str, leave: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Do the handshake, accept all features, and do nothing more."""
    async with connect_vhost_user(path, queues=1, memory_size=1 << 20) as link:
        await link.set_features(link.device_features)
        task_status.started()
        await leave.wait()


def _cpu_seconds(process: Path) -> float:
    """Return the CPU time of a process in seconds (proc(5))."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def main() -> None:
    """Be the server, until killed."""
    trio.run(_serve, sys.argv[1])


async def _serve(path: str) -> None:
    async with trio.open_nursery() as nursery:
        where = await nursery.start(partial(serve_vhost_user, None, path, make_device=Idle))
        print(where, flush=True)
