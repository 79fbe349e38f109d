"""`paravirt demo`: what it shows, and what it leaves alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from paravirt.cli.demo import _show, _tour
from paravirt.cli.demo._play import play
from paravirt.doorbells import KINDS
from tests.cli.commands import command
from tests.disks import image
from tests.tools import need

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from paravirt.cli.demo._play import MakeScript
    from paravirt.doorbells import Doorbell
    from paravirt.hostside.devices.block import Block

NAMES = [kind.name for kind in KINDS]
ODD = 3 * 4096 + 512  # no multiple of a request


class Step(msgspec.Struct, forbid_unknown_fields=True):
    """One step of the document, as it is promised."""

    doorbell: str
    ok: bool
    bytes: int
    sha256: str
    mib_per_s: float
    requests_per_s: float
    p50_us: float
    p99_us: float
    kicks_per_request: float
    calls_per_request: float


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """What `demo --json` prints, as it is promised."""

    ok: bool
    steps: list[Step]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder for the demo's temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def disk(tmp_path: Path, rng: random.Random) -> Path:
    """Make an image of the user's."""
    return image(tmp_path / "disk.img", rng.randbytes(ODD))


def test_every_doorbell_reads_the_bytes_of_the_image(
    capfd: pytest.CaptureFixture[str], disk: Path
) -> None:
    ended = command(capfd, "demo", disk, "--json")

    assert ended.code == 0, ended.err
    document = msgspec.json.decode(ended.out, type=Document)
    assert document.ok
    assert [step.doorbell for step in document.steps] == NAMES
    sha256 = hashlib.sha256(disk.read_bytes()).hexdigest()
    assert {(step.ok, step.bytes, step.sha256) for step in document.steps} == {(True, ODD, sha256)}


def test_figures_of_a_step_are_sound(capfd: pytest.CaptureFixture[str], disk: Path) -> None:
    ended = command(capfd, "demo", disk, "--json", "--doorbell", "eventfd")

    (step,) = msgspec.json.decode(ended.out, type=Document).steps
    assert step.mib_per_s > 0
    assert step.requests_per_s > 0
    assert 0 < step.p50_us <= step.p99_us
    assert 0 < step.kicks_per_request <= 1
    assert 0 <= step.calls_per_request <= 1


def test_image_of_the_user_is_only_read(
    capfd: pytest.CaptureFixture[str], disk: Path, temporary: Path
) -> None:
    before = disk.read_bytes()
    disk.chmod(0o444)

    ended = command(capfd, "demo", disk, "--doorbell", "direct")

    assert ended.code == 0, ended.err
    assert disk.read_bytes() == before
    assert not list(temporary.iterdir())


def test_demo_makes_an_image_with_files(capfd: pytest.CaptureFixture[str], temporary: Path) -> None:
    need("mke2fs", "e2fsprogs")
    ended = command(capfd, "demo", "--size", "2M", "--doorbell", "direct")

    assert ended.code == 0, ended.err
    assert ended.out.startswith("Serving an ext4 image with ")
    assert not list(temporary.iterdir())


def test_table_fits_a_terminal(capfd: pytest.CaptureFixture[str], disk: Path) -> None:
    ended = command(capfd, "demo", disk)

    assert ended.code == 0, ended.err
    assert not ended.err
    rows = [line.split() for line in ended.out.splitlines()]
    assert [row[0] for row in rows if row and row[-1] == "ok"] == NAMES
    assert all(len(line) <= 80 for line in ended.out.splitlines()[1:])
    assert "paravirt doctor" in ended.out.splitlines()[-1]


def test_chosen_doorbells_go_in_the_usual_order(
    capfd: pytest.CaptureFixture[str], disk: Path
) -> None:
    chosen = ("--doorbell", "eventfd", "--doorbell", "direct", "--doorbell", "eventfd")
    ended = command(capfd, "demo", disk, "--json", *chosen)

    steps = msgspec.json.decode(ended.out, type=Document).steps
    assert [step.doorbell for step in steps] == ["direct", "eventfd"]


def test_bytes_that_differ_from_the_file_fail_the_step(
    capfd: pytest.CaptureFixture[str], disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(*_: object, **__: object) -> str:
        return "0" * 64

    monkeypatch.setattr(_show, "copy_image", pretend)

    ended = command(capfd, "demo", disk, "--json", "--doorbell", "direct")

    assert ended.code == 1
    assert not msgspec.json.decode(ended.out, type=Document).ok
    assert ended.complaint.startswith("paravirt: direct: read bytes with the SHA-256 ")


def test_writes_that_are_not_in_the_file_fail_the_step(
    capfd: pytest.CaptureFixture[str], disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(device: Block, kind: type[Doorbell], script: MakeScript) -> None:
        await play(device, kind, script)
        path = device._image.path  # pyright: ignore[reportPrivateUsage]
        if path.name == "scratch.img":
            with path.open("r+b") as file:
                file.write(b"other bytes")

    monkeypatch.setattr(_tour, "play", lose)

    ended = command(capfd, "demo", disk, "--json", "--doorbell", "direct")

    assert ended.code == 1
    (step,) = msgspec.json.decode(ended.out, type=Document).steps
    assert not step.ok
    assert "not in the file" in ended.complaint
