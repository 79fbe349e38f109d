"""The demo from beginning to end."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from paravirt.hostside.devices.block import Block, ImageError

from .._errors import BadInput, complain
from .._output import make_console, print_json
from ._guest import GuestTour
from ._image import check_room, copy_image, make_image
from ._progress import Bar
from ._report import Report, Step, seen_by_guest, step_table
from ._script import REQUEST, pattern_pieces
from ._size import binary
from ._stop import Stop
from ._tour import Tour

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from paravirt.doorbells import Doorbell


def show(
    image: Path | None,
    size: int,
    kinds: Sequence[type[Doorbell]],
    *,
    guest: bool = False,
    as_json: bool,
) -> int:
    """Run the demo and print what it showed; returns 0, or 1 if something was wrong.

    Raises `BadInput`, and what `Stop.check` does. However it ends, nothing of it is left on disk.
    """
    bar = Bar(make_console(stderr=True))
    with Stop() as stop, _scratch_folder() as folder, bar:
        linux = GuestTour(bar=bar, stop=stop, quiet=as_json) if guest else None
        if linux is not None:
            linux.fetch()
        what = str(image)
        if image is None:
            bar.begin("making an ext4 image")
            image, count = make_image(folder, size)
            stop.check()
            what = f"an ext4 image with {count:,} real files"
        with _open(image) as disk:
            written = sum(size for _, size in pattern_pieces(disk.capacity))
            check_room(image, disk.capacity, folder, written)
            bar.expect(disk.capacity + len(kinds) * (disk.capacity + written))
            if not as_json:
                bar.say(f"Serving {what}, {binary(disk.capacity)}, through a virtio ring.")
            bar.begin("copying")
            scratch = folder / "scratch.img"
            sha256 = copy_image(image, scratch, bar=bar, stop=stop)
            tour = Tour(disk, scratch, sha256, bar=bar, stop=stop)
            steps = [tour.visit(kind) for kind in kinds]
            if linux is not None:
                steps.append(linux.visit(disk, image, scratch))
                tour.failures += linux.failures
    _print(steps, tour.failures, as_json=as_json)
    return 1 if tour.failures else 0


@contextmanager
def _scratch_folder() -> Generator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="paravirt-demo-")
    except OSError as error:
        raise BadInput(f"{error.strerror}: set TMPDIR to a folder you can write in") from error
    with folder as name:
        yield Path(name)


def _open(image: Path) -> Block:
    try:
        disk = Block(image, read_only=True)
    except ImageError as error:
        raise BadInput(str(error)) from error
    if not disk.capacity:
        disk.close()
        raise BadInput(f"{image} is empty: give it a size: truncate -s 64M {image}")
    return disk


def _print(steps: list[Step], failures: list[str], *, as_json: bool) -> None:
    for line in failures:
        complain(line)
    if as_json:
        print_json(Report(ok=not failures, steps=steps))
        return
    console = make_console()
    console.print(step_table(steps))
    console.print(
        f"Reads of {REQUEST >> 10} KiB, the ring kept full; p50 and p99 of one read at a time."
    )
    if failures:
        console.print("Something went wrong; `paravirt doctor` shows what this machine has.")
        return
    console.print(
        f"SHA-256 {steps[0].sha256}\n"
        "is the file's, and was read each time; what was written is in the file.\n"
        'A doorbell only says "look at the ring": the data went one and the same way.'
    )
    for step in steps:
        if step.guest is not msgspec.UNSET:
            console.print(seen_by_guest(step, step.guest))
    console.print("Next: `paravirt doctor`, or `paravirt demo IMAGE` with a disk image of yours.")
