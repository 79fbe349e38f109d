"""What is said to the guest's first process, and to QEMU."""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing

from paravirt.hostside.testing import GuestError, Result
from paravirt.hostside.testing._agent import Agent
from paravirt.hostside.testing._monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping


def wire() -> tuple[trio.SocketStream, trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


@asynccontextmanager
async def agent() -> AsyncGenerator[tuple[Agent, trio.SocketStream]]:
    """Give an agent, and the end that a guest would have."""
    ours, theirs = wire()
    async with ours, theirs, trio.open_nursery() as nursery:
        agent = Agent(ours)
        nursery.start_soon(agent.listen)
        nursery.start_soon(agent.talk)
        yield agent, theirs
        nursery.cancel_scope.cancel()


async def told(stream: trio.SocketStream) -> list[str]:
    """Return the words of the next line to the guest."""
    line = (await stream.receive_some()).decode()
    assert line.endswith("\n")
    return line.split()


def out(number: str, text: bytes) -> bytes:
    return f"out {number} {base64.b64encode(text).decode()}\n".encode()


async def test_pieces_of_output_are_put_together(nursery: trio.Nursery) -> None:
    results: list[Result] = []

    async def run(agent: Agent) -> None:
        results.append(await agent.run("echo äh"))

    async with agent() as (ours, guest):
        nursery.start_soon(run, ours)
        verb, number, script = await told(guest)
        assert (verb, base64.b64decode(script).decode()) == ("run", "echo äh")
        text = "äh\n".encode()
        whole = out(number, text[:1]) + out(number, text[1:]) + f"end {number} 3\n".encode()
        for byte in whole:
            await guest.send_all(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()

    assert results == [Result(3, "äh\n")]


async def test_cancelled_command_is_killed_and_what_it_said_is_logged(
    caplog: pytest.LogCaptureFixture, nursery: trio.Nursery
) -> None:
    scope = trio.CancelScope()

    async def run(agent: Agent) -> None:
        with scope:
            await agent.run("sleep 9")

    async with agent() as (ours, guest):
        nursery.start_soon(run, ours)
        _, number, _ = await told(guest)
        await guest.send_all(out(number, b"so far"))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()

        assert await told(guest) == ["kill", number]
        await guest.send_all(out(number, b"late") + f"end {number} 137\n".encode())
        await trio.testing.wait_all_tasks_blocked()

    assert "given up: sleep 9: it said: so far" in caplog.text


async def test_end_of_the_guest_fails_commands_now_and_later(nursery: trio.Nursery) -> None:
    failures: list[str] = []

    async def run(agent: Agent) -> None:
        with pytest.raises(GuestError) as caught:
            await agent.run("true")
        failures.append(str(caught.value))

    async with agent() as (ours, guest):
        nursery.start_soon(run, ours)
        await told(guest)
        ours.end("it is gone")
        await run(ours)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(GuestError, match="it is gone"):
            await ours.ready()

    assert failures == ["it is gone"] * 2


async def answer(stream: trio.SocketStream, *lines: Mapping[str, object]) -> dict[str, object]:
    """Take one command of QMP and write lines, the id of the command in those that want it."""
    asked = msgspec.json.decode(await stream.receive_some(), type=dict[str, object])
    for line in lines:
        said = {**line, "id": asked["id"]} if "id" in line else line
        await stream.send_all(msgspec.json.encode(said) + b"\n")
    return asked


async def test_monitor_finds_its_answer_among_events(nursery: trio.Nursery) -> None:
    ours, qemu = wire()
    found: list[object] = []

    async def ask() -> None:
        found.append(await Monitor(ours).execute("query-status", {}))

    async with ours, qemu:
        await qemu.send_all(b'{"QMP": {"version": {}}}\n')
        nursery.start_soon(ask)
        first = await answer(qemu, {"return": {}, "id": 0})
        second = await answer(qemu, {"event": "STOP"}, {"return": {"running": True}, "id": 0})
        await trio.testing.wait_all_tasks_blocked()

    assert (first["execute"], second["execute"]) == ("qmp_capabilities", "query-status")
    assert found == [{"running": True}]


async def test_refusal_of_qemu_is_raised(nursery: trio.Nursery) -> None:
    ours, qemu = wire()
    async with ours, qemu:
        nursery.start_soon(answer, qemu, {"error": {"class": "X", "desc": "no"}, "id": 0})
        with pytest.raises(GuestError, match="QEMU refused qmp_capabilities: no"):
            await Monitor(ours).execute("stop", {})


async def test_monitor_of_a_qemu_that_ended_says_so() -> None:
    ours, qemu = wire()
    await qemu.aclose()
    async with ours:
        with pytest.raises(GuestError, match="QEMU has ended before it carried out stop"):
            await Monitor(ours).execute("stop", {})
