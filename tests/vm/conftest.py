"""Kernels and programs for the guests, kept with the project's other artefacts."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside.testing import GuestError, fetch_kernel
from tests.conftest import SEED
from tests.disks import image
from tests.tools import missing, need
from tests.vm.machines import SETTINGS, Booted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

CACHE = Path(__file__).parents[2] / "build" / "vm"
os.environ.setdefault("PARAVIRT_VM", str(CACHE))
FILES = 60


@pytest.fixture(scope="session")
def kernels() -> None:
    """Fetch what guests boot before the guard against hangs counts."""
    need("qemu-system-x86_64", "qemu-system-x86")
    try:
        for series in "6.1", "6.12":
            trio.run(fetch_kernel, series)
    except GuestError as error:
        missing(str(error))


@pytest.fixture(scope="session", params=SETTINGS, ids=str)
def booted(
    request: pytest.FixtureRequest, kernels: None, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Booted]:
    """Give a guest that stays up, one of each setting after another."""
    folder = tmp_path_factory.mktemp(str(request.param))
    make_images(folder)
    with Booted(request.param, folder).up() as booted:
        yield booted


def make_images(folder: Path) -> None:
    """Make what the guest's disks are made of, and the program that tests one of them."""
    rng = random.Random(SEED)
    tree = folder / "tree"
    for number in range(FILES):
        path = tree / f"folder{number % 7}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(1 << rng.randrange(18))))
    mke2fs = need("mke2fs", "e2fsprogs")
    options = ["-q", "-t", "ext4", "-d", str(tree), str(folder / "tree.img"), "64M"]
    subprocess.run([mke2fs, *options], check=True)
    image(folder / "fixed.img", rng.randbytes(1 << 20))
    image(folder / "scratch.img", 64 << 20)
    image(folder / "growing.img", 1 << 20)
    compiler = need("gcc", "gcc")
    options = ["-O2", "-static", "-std=c11", "-Wall", "-Wextra", "-Werror"]
    source = Path(__file__).parent / "scatter.c"
    subprocess.run([compiler, *options, "-o", str(folder / "scatter"), str(source)], check=True)


SAID = pytest.StashKey[list[str]]()


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Give the test a way to have a line printed at the end of the run."""
    lines = request.config.stash.setdefault(SAID, [])
    return lambda line: lines.append(f"{request.node.name}: {line}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests said."""
    lines = terminalreporter.config.stash.get(SAID, list[str]())
    if lines:
        terminalreporter.section("what real machines did")
    for line in lines:
        terminalreporter.write_line(line)
