"""The wheel as a user gets it: built from the sdist, installed alone, imported from elsewhere."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parent.parent
ROOMS = ("doorbells", "transport", "hostside", "guestside")
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
UNREACHABLE = ("Could not find a version", "No matching distribution", "Connection")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and with no path settings of ours; do not judge its end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return all that a command printed."""
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    """Build an sdist of a clean copy, and the wheel from that sdist."""
    source = folder / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=NOT_SOURCE)
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist")
    done = run(*command, cwd=source)
    assert done.returncode == 0, said(done)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(folder: Path, wheel: Path) -> Path:
    """Install the wheel and only what it asks for into a fresh environment."""
    environment = folder / "venv"
    done = run(sys.executable, "-m", "venv", environment, cwd=folder)
    assert done.returncode == 0, said(done)
    python = environment / "bin" / "python"
    done = run(python, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    alone = any(word in done.stderr for word in UNREACHABLE)
    if done.returncode and alone and not os.environ.get("CI"):
        pytest.skip("no package registry within reach to install the dependencies from")
    assert done.returncode == 0, said(done)
    return python


def test_wheel_serves_every_later_python(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name


def test_wheel_holds_one_import_root(wheel: Path) -> None:
    """Rooms shipped as `transport` and so on would overwrite another distribution's."""
    top = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {name for name in top if not name.endswith(".dist-info")} == {"paravirt"}


def test_wheel_holds_types_core_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert "paravirt/py.typed" in names
    assert "paravirt/transport/_core.abi3.so" in names
    assert "paravirt/hostside/machine/_kvm.abi3.so" in names
    assert "paravirt/transport/core/ring.h" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the payload is for x86-64")
def test_wheel_holds_the_payload_and_its_sources(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    for part in ("payload.elf", "start.S", "link.ld", "main.c", "payload.h"):
        assert f"paravirt/guestside/payload/{part}" in names


@pytest.mark.parametrize("room", ROOMS)
def test_installed_room_is_found_under_paravirt_only(room: str, python: Path, folder: Path) -> None:
    inside = run(python, "-c", f"import paravirt.{room} as m; print(m.__file__)", cwd=folder)
    alone = run(python, "-c", f"import {room}", cwd=folder)

    assert str(python.parent.parent) in inside.stdout, said(inside)
    assert f"No module named '{room}'" in alone.stderr


@pytest.mark.parametrize("extension", ["transport._core", "hostside.machine._kvm"])
def test_installed_core_answers(extension: str, python: Path, folder: Path) -> None:
    code = f"from paravirt.{extension} import ffi, lib; print(len(dir(lib)) > 0)"
    done = run(python, "-c", code, cwd=folder)

    assert done.stdout == "True\n", said(done)


def test_command_without_its_extra_says_what_to_install(python: Path, folder: Path) -> None:
    done = run(python.parent / "paravirt", "doctor", cwd=folder)

    assert done.returncode == 2, said(done)
    assert "paravirt[cli]" in done.stderr
