"""Ctrl-C during the demo: what is written is flushed, nothing is left behind."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from paravirt.cli._errors import CommandError
from paravirt.cli._output import make_console
from paravirt.cli.demo._image import PIECE
from paravirt.cli.demo._progress import Bar
from paravirt.cli.demo._script import Flush, Reading, Write, read_all, write_pattern
from paravirt.cli.demo._stop import Stop
from tests.cli.commands import start
from tests.disks import image

if TYPE_CHECKING:
    import random
    from pathlib import Path


@pytest.fixture
def bar() -> Bar:
    """Make a bar that is not shown."""
    return Bar(make_console(stderr=True))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "terminate"]
)
def test_signal_ends_the_demo_and_leaves_nothing(
    tmp_path: Path, rng: random.Random, number: signal.Signals, code: int
) -> None:
    before = rng.randbytes(64 << 20)
    disk = image(tmp_path / "disk.img", before)
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = start(folder, "demo", disk)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Serving ")

    process.send_signal(number)

    out, err = process.communicate()
    assert process.returncode == code
    assert (out, err) == ("", "paravirt: stopped\n")
    assert not list(folder.iterdir())
    assert disk.read_bytes() == before


def test_what_was_written_is_flushed_before_the_end(bar: Bar) -> None:
    with Stop() as stop:
        script = write_pattern(4 * PIECE, "direct", bar, stop)
        assert isinstance(next(script), Write)
        signal.raise_signal(signal.SIGINT)

        assert isinstance(script.send([]), Flush)
        assert not list(script)


def test_reading_ends_after_the_piece_at_hand(bar: Bar) -> None:
    with Stop() as stop:
        script = read_all(4 * PIECE, Reading(), lambda: None, bar, stop)
        next(script)
        signal.raise_signal(signal.SIGINT)

        with pytest.raises(StopIteration):
            script.send([])


def test_first_signal_is_only_noted() -> None:
    with Stop() as stop:
        stop.check()
        signal.raise_signal(signal.SIGTERM)

        assert stop.asked
        with pytest.raises(CommandError) as caught:
            stop.check()

    assert caught.value.code == 143


def test_second_signal_interrupts_at_once() -> None:
    with Stop():
        signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Stop():
        assert signal.getsignal(signal.SIGINT) != before

    assert signal.getsignal(signal.SIGINT) == before


def test_signal_that_was_ignored_stays_ignored() -> None:
    """A shell starts its background jobs like this."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGINT, before)
