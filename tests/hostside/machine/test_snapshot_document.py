"""A snapshot that was cut, altered or forged gives one clear error, and nothing else."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from hypothesis import given, settings, strategies as st

from paravirt.doorbells.kvm import PioIoeventfd, Vendor
from paravirt.guestside import payload
from paravirt.hostside.machine import Machine, Snapshot, SnapshotError
from paravirt.hostside.machine._cpuid import CpuidLeaf
from paravirt.hostside.machine.snapshot import Extent
from paravirt.hostside.machine.snapshot._document import HEAD, MAGIC, VERSION
from paravirt.hostside.machine.text import Text
from tests.hostside.machine.playing import Echo, echo, echoing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = Snapshot(
    memory_size=4 << 20,
    ring=3,
    end=0x200000,
    vendor=Vendor.AMD,
    cpuid=(CpuidLeaf(1, 0, 0x800F12, 0, 1, 2),),
    vcpus=(),
    links=(),
    memory=(Extent(0x1000, b"\1" * 4096),),
    text=Text(extents=(Extent(0x1000, b"\1" * 64),), shared=0),
)


def sealed(body: bytes, version: int = VERSION) -> bytes:
    """Return a file whose length and hash are right."""
    return HEAD.pack(MAGIC, version, len(body), hashlib.sha256(body).digest()) + body


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    SMALL.save(tmp_path / "snapshot")
    return (tmp_path / "snapshot").read_bytes()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    SMALL.save(tmp_path / "snapshot")

    assert Snapshot.load(tmp_path / "snapshot") == SMALL
    assert os.listdir(tmp_path) == ["snapshot"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SMALL.save(tmp_path / "snapshot")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        msgspec.structs.replace(SMALL, ring=0).save(tmp_path / "snapshot")

    assert Snapshot.load(tmp_path / "snapshot") == SMALL
    assert os.listdir(tmp_path) == ["snapshot"]


def test_each_error_names_its_cause(data: bytes) -> None:
    bad = {
        b"": "no snapshot",
        b"x" * 100: "no snapshot",
        data[:-1]: "cut off",
        data + b"x": "bytes of",
        data[:-1] + b"x": "damaged",
        sealed(data[HEAD.size :], version=2): "version 2: this reads version 3",
        sealed(b"\x80"): "makes no sense: .*memory_size",
        sealed(msgspec.msgpack.encode({"memory_size": "x"})): "makes no sense",
    }
    for wrong, text in bad.items():
        with pytest.raises(SnapshotError, match=text):
            Snapshot.decode(wrong)


@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(at: int, bit: int) -> None:
    good = bytearray(sealed(msgspec.msgpack.encode(SMALL)))
    good[at % len(good)] ^= 1 << bit

    with pytest.raises(SnapshotError):
        Snapshot.decode(bytes(good))


@given(st.binary(max_size=200))
def test_any_body_is_refused(body: bytes) -> None:
    with pytest.raises(SnapshotError):
        Snapshot.decode(sealed(body))


def leaves(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place in a document that holds a number or bytes."""
    rows: Any = tree.items() if hasattr(tree, "items") else enumerate(tree)
    for key, value in rows:
        if isinstance(value, dict | list | tuple):
            yield from leaves(value)
        elif isinstance(value, int | bytes):
            yield tree, key


async def take() -> bytes:
    async with Machine(memory_size=4 << 20) as machine, echoing(machine) as link:
        machine.load(payload.path())
        machine.arguments(*echo(100_000, depth=4).arguments())
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            while (ring := link.ring(0)) is None or ring.statistics().popped < 10:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return msgspec.msgpack.encode(await machine.snapshot(drain=0))


@pytest.fixture(scope="module")
def taken() -> bytes:
    return trio.run(take)


async def put(snapshot: Snapshot) -> None:
    async with Machine(memory_size=4 << 20, readonly_text=True) as machine:
        machine.plug(Echo(), doorbell=PioIoeventfd)
        with suppress(SnapshotError):
            machine.restore(snapshot)


@pytest.mark.kvm
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_forged_field_is_refused_or_harmless(taken: bytes, data: st.DataObject) -> None:
    """Whoever can write the file can make its hash right, too."""
    tree = msgspec.msgpack.decode(taken, strict=False)
    places = list(
        leaves([tree["vcpus"], tree["cpuid"], tree["links"], tree["memory"], tree["text"]])
    )
    head = [(tree, key) for key in ("memory_size", "ring", "end", "vendor")]
    where, key = data.draw(st.sampled_from(places + head))
    if isinstance(where[key], bytes):
        where[key] = data.draw(st.binary(min_size=0, max_size=64)) + where[key][64:]
    else:
        where[key] = data.draw(st.integers(-1, 70) | st.integers(-(1 << 63), (1 << 64) - 1))
    try:
        snapshot = Snapshot.decode(sealed(msgspec.msgpack.encode(tree)))
    except SnapshotError:
        return

    trio.run(put, snapshot)
