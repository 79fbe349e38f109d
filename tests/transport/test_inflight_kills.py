"""A device is killed between any two stores: what was in hand is taken up, once and in order.

`inflight_harness.c` runs the real turns of a device and writes down every state of the shared
memory on the way. Each of them is a state in which a kill can leave it.
"""

from __future__ import annotations

import functools
import random
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from paravirt.transport import PeerError
from tests.tools import need

from .inflight_scene import BYTES, GEOMETRY, SIZE, TABLE, Model, Scene, heads_of

if TYPE_CHECKING:
    from collections.abc import Callable

CORE = Path(__file__).parents[2] / "transport" / "core"
HARNESS = Path(__file__).with_name("inflight_harness.c")
WATCHED = ("split_device.c", "host/inflight.c", "host/cycle.c")
PLAIN = ("walk.c", "memory.c", "host/guard.c", "host/log.c")


def build(folder: Path, change: Callable[[str], str] = str) -> Path:
    """Compile the harness with the core; `change` alters what is said in inflight.c."""
    compiler = [need("gcc", "gcc libc6-dev"), "-std=c11", "-O1", f"-I{CORE}", f"-I{CORE}/host"]
    inflight = folder / "inflight.c"
    inflight.write_text(change((CORE / "host" / "inflight.c").read_text()))
    objects: list[str] = []
    for name in WATCHED:
        source = inflight if name.endswith("inflight.c") else CORE / name
        target = str(folder / f"{source.stem}.o")
        command = [*compiler, "-fsanitize=thread", "-c", str(source), "-o", target]
        subprocess.run(command, check=True, timeout=60)
        objects.append(target)
    program = folder / "harness"
    sources = [str(HARNESS), *objects, *(str(CORE / name) for name in PLAIN)]
    subprocess.run([*compiler, *sources, "-o", str(program)], check=True, timeout=60)
    return program


@functools.cache
def harness() -> Path:
    """Compile the core as it is, once."""
    return build(Path(tempfile.mkdtemp(prefix="paravirt-inflight-")))


def states(program: Path, start: Scene, lines: list[str]) -> list[bytes]:
    """Let a device take up a scene and do these things; returns every state on the way."""
    inflight = start.take_up()
    table = inflight.c
    places = [SIZE, GEOMETRY.driver, GEOMETRY.device, TABLE, BYTES]
    numbers = [*places, table.counter, table.last_batch_head, *inflight.heads]
    ended = subprocess.run(
        [program, *map(str, numbers)],
        input=start.data + "".join(lines).encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    out = ended.stdout
    return [out[at : at + BYTES] for at in range(0, len(out), BYTES)]


def index(state: bytes, ring: int) -> int:
    """Return the index of the driver or the device ring."""
    return int.from_bytes(state[ring + 2 : ring + 4], "little")


def progress(state: bytes, start: bytes, model: Model) -> tuple[int, int]:
    """Return how many chains had been offered and given back since a life began."""
    offered = index(state, GEOMETRY.driver) - index(start, GEOMETRY.driver) + model.inherited
    return offered & 0xFFFF, (
        index(state, GEOMETRY.device) - index(start, GEOMETRY.device)
    ) & 0xFFFF


def check(model: Model, state: bytes, start: bytes) -> None:
    """Start another device on a state, and see that it takes exactly what is due."""
    due = model.left(*progress(state, start, model))
    with Scene(state) as scene:
        ring = scene.ring(scene.take_up())
        before = scene.used()
        taken: list[int] = []
        while ring.pending():
            taken += heads_of(ring.cycle([], []))
        refused = (scene.used() - before) & 0xFFFF

        assert taken == [model.offers[place] for place in due if not model.bad[place]]
        assert refused == sum(model.bad[place] for place in due)
        assert ring.statistics().broken is None


Step = tuple[int, int, int]
steps = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 63), st.integers(0, 8)), max_size=14)


def script(model: Model, drawn: list[Step]) -> list[str]:
    """Make a story of numbers: the driver offers, the device takes and gives back."""
    lines: list[str] = []
    for kind, which, most in drawn:
        free = model.free()
        if kind < 4 and free:
            lines.append(model.offer(free[which % len(free)], bad=kind == 3))
        else:
            done = [place for bit, place in enumerate(model.taken) if which >> (bit % 6) & 1]
            lines.append(model.turn(done[:: -1 if which & 32 else 1], most))
    return lines


def live(program: Path, start: bytes, model: Model, drawn: list[Step]) -> list[bytes]:
    """Let a device live on these bytes, and check every state of its life."""
    with Scene(start) as scene:
        found = states(program, scene, script(model, drawn))
    for state in dict.fromkeys(found):
        check(model, state, start)
    return found


@settings(max_examples=40)
@given(st.lists(st.tuples(steps, st.integers(0, 1 << 16)), min_size=1, max_size=3))
def test_kill_between_any_two_stores_loses_and_doubles_nothing(
    lives: list[tuple[list[Step], int]],
) -> None:
    model, start = Model(), bytes(BYTES)
    for drawn, when in lives:
        found = live(harness(), start, model, drawn)
        if found:
            state = found[when % len(found)]
            model.killed(*progress(state, start, model))
            start = state


CHOOSE = random.Random(1)
STORY = [(CHOOSE.randrange(6), CHOOSE.randrange(64), CHOOSE.randrange(9)) for _ in range(80)]
"""Long enough for every mistake below to show."""
MISTAKES = {
    "the used index is noted too early": (
        "int call = pv_device_publish(r);",
        "table->used_idx = now; in_order(); int call = pv_device_publish(r);",
    ),
    "the batch is not listed": ("table->desc[head].next = f->last_batch_head;", ""),
    "marks are never cleared": (".inflight = 0;", ".inflight = 1;"),
    "a bad chain is not marked": ("mark(f, returned(r, used));", ";"),
    "a chain is not marked": ("mark(f, (uint16_t)popped[taken].token);", ""),
    "a mark has no order": ("desc->counter = f->counter++;", ""),
}


def test_a_long_life_may_end_anywhere() -> None:
    assert len(live(harness(), bytes(BYTES), Model(), STORY)) > len(STORY)


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=list(MISTAKES))
def test_the_harness_sees_that(tmp_path: Path, mistake: tuple[str, str]) -> None:
    def change(text: str) -> str:
        assert mistake[0] in text
        return text.replace(*mistake)

    program = build(tmp_path, change)

    with pytest.raises((AssertionError, PeerError)):
        live(program, bytes(BYTES), Model(), STORY)
