"""`paravirt run`: a guest of the user's, with a device."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import msgspec
import pytest

from paravirt.cli.machine._boot import Document
from paravirt.guestside import payload
from tests.cli.commands import command, refused, start
from tests.disks import image
from tests.hostside.machine.guests import assemble, ends
from tests.tools import need_kvm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kvm


@pytest.fixture(autouse=True)
def kvm() -> None:
    need_kvm()


@pytest.fixture
def elf() -> Path:
    return payload.path()


def arguments(*numbers: int) -> list[str]:
    return [word for number in numbers for word in ("--argument", str(number))]


def test_guest_prints_on_standard_output(capfd: pytest.CaptureFixture[str], elf: Path) -> None:
    ended = command(capfd, "run", elf, *arguments(1, 4, 100))

    assert (ended.code, ended.err) == (0, "")
    assert payload.parse(ended.out).figures["requests"] == 100


def test_json_is_one_document(capfd: pytest.CaptureFixture[str], elf: Path) -> None:
    ended = command(capfd, "run", elf, "--json", "--doorbell", "mmio-exit", *arguments(3, 1, 20))
    document = msgspec.json.decode(ended.out, type=Document)

    assert ended.code == document.code == 0
    assert (document.doorbell, document.ring, document.kicks) == ("mmio-exit", 3, 20)
    assert payload.parse("\n".join(document.console)).figures["rung"] == 20


def test_disk_is_the_users(capfd: pytest.CaptureFixture[str], elf: Path, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 1 << 16)

    ended = command(capfd, "run", elf, "--disk", disk, *arguments(2, 4, 0))

    assert payload.parse(ended.out).figures["verified"] == 1 << 16
    assert disk.read_bytes() != bytes(1 << 16)


def test_guest_that_ends_badly_is_told(capfd: pytest.CaptureFixture[str], elf: Path) -> None:
    ended = command(capfd, "run", elf, *arguments(99))

    assert ended.code == 1
    assert ended.complaint == "paravirt: the guest ended with code 1"


def test_ring_0_is_a_choice(capfd: pytest.CaptureFixture[str], elf: Path) -> None:
    assert command(capfd, "run", elf, "--ring", "0", *arguments(1, 1, 5)).code == 0


def test_guest_that_rewrites_itself_is_told_where_it_counts(
    capfd: pytest.CaptureFixture[str], elf: Path, tmp_path: Path
) -> None:
    """It stores over the instruction that comes next."""
    guest = assemble(tmp_path, "movb $0xf8, 1f(%rip)\n1: nop\n" + ends(0))

    assert command(capfd, "run", guest).code == 0
    caught = command(capfd, "run", guest, "--attest")
    assert caught.code == 1
    assert "text was changed in 1 page" in caught.err
    assert "link without -N" in refused(capfd, "run", guest, "--readonly-text")
    assert command(capfd, "run", elf, "--attest", "--readonly-text", *arguments(1, 4, 9)).code == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--argument", "x"], "0x10"),
        (["--memory", "3"], "2 MiB"),
        (["--vcpus", "0"], "vCPUs"),
        (["--doorbell", "hypercall-xen"], "no hypercall-xen here"),
        (["--doorbell", "bell"], "bell"),
        (["--disk", "none.img"], "none.img"),
    ],
)
def test_bad_choice_is_one_line(
    capfd: pytest.CaptureFixture[str], elf: Path, words: list[str], why: str
) -> None:
    assert why in refused(capfd, "run", elf, *words)


def test_file_that_is_no_guest_is_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = image(tmp_path / "text.elf", b"no program")

    assert "text.elf" in refused(capfd, "run", text)
    assert "none.elf" in refused(capfd, "run", tmp_path / "none.elf")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "terminate"]
)
def test_signal_ends_a_guest_that_would_not(
    elf: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(tmp_path, "run", elf, *arguments(4, 1, 0, 1))
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"

    process.send_signal(number)

    out, err = process.communicate()
    assert (process.returncode, out, err) == (code, "", "paravirt: stopped\n")
