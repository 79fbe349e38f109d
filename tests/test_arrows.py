"""The arrows between the rooms, held over the syntax tree of every file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("doorbells", "transport", "hostside", "guestside")
FRONT = ("paravirt", "examples", "tests")

# Which rooms a room may import; the front door, the examples and the tests see all.
SEES: dict[str, tuple[str, ...]] = {
    "doorbells": (),
    "transport": ("doorbells",),
    "hostside": ("doorbells", "transport"),
    "guestside": ("doorbells", "transport"),
    **dict.fromkeys(FRONT, ROOMS),
}


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """Return (level, dotted name) of all imports, `from a import b` as a.b; level 0 is absolute."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            found += [(node.level, prefix + alias.name) for alias in node.names]
    return found


def complaint(room: str, depth: int, level: int, name: str) -> str | None:
    """Say what is wrong with one import in a file `depth` folders below its room, if anything."""
    if level > depth + 1:
        return f"relative import leaves {room}: name the other room as paravirt.X"
    if level:
        return None
    first, target, inner, *_ = [*name.split("."), "", ""]
    if first in ROOMS:
        return f"import {first} makes a second copy of every class: import paravirt.{first}"
    if first != "paravirt":
        return None
    if target == room:
        return f"{name}: imports inside a room are relative"
    if target not in SEES[room] and room not in FRONT:
        return f"{room} must not see {name}"
    if inner.startswith("_") and room != "tests":
        return f"{name}: only its own room and the tests look behind a menu"
    return None


def complaints(room: str, path: Path, source: str) -> list[str]:
    """Return one line for each import of the file that breaks an arrow."""
    depth = len(path.parts) - 2
    found = [complaint(room, depth, level, name) for level, name in imported(ast.parse(source))]
    return [f"{path}: {text}" for text in found if text]


@pytest.mark.parametrize("room", [*ROOMS, *FRONT])
def test_room_imports_only_along_the_arrows(room: str) -> None:
    found: list[str] = []
    for path in sorted((ROOT / room).rglob("*.py")):
        found += complaints(room, path.relative_to(ROOT), path.read_text())

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("transport/_link.py", "import transport"),
        ("tests/test_x.py", "from doorbells import EventFd"),
        ("hostside/_server.py", "from paravirt.guestside import Driver"),
        ("guestside/block.py", "def f():\n    import paravirt.hostside._device"),
        ("doorbells/_base.py", "from paravirt.transport import Memory"),
        ("doorbells/_base.py", "from paravirt import transport"),
        ("transport/_link.py", "from paravirt.transport import Memory"),
        ("transport/_link.py", "from paravirt.cli import run"),
        ("transport/_link.py", "import paravirt"),
        ("hostside/_server.py", "from paravirt.transport._memory import Memory"),
        ("examples/echo.py", "from paravirt.hostside._device import Device"),
        ("transport/_link.py", "from ..doorbells import EventFd"),
        ("transport/vhost_user/_channel.py", "from ...doorbells import EventFd"),
    ],
)
def test_import_against_the_arrows_is_refused(path: str, source: str) -> None:
    assert complaints(path.partition("/")[0], Path(path), source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("transport/_link.py", "from ._memory import Memory"),
        ("transport/_link.py", "from paravirt.doorbells import EventFd"),
        ("transport/vhost_user/_channel.py", "from .._memory import Memory"),
        ("hostside/_server.py", "import trio\nfrom paravirt import doorbells"),
        ("paravirt/cli/_demo.py", "from paravirt.guestside import Driver"),
        ("paravirt/cli/_demo.py", "from ._table import table"),
        ("tests/transport/test_memory.py", "from paravirt.transport._memory import Slice"),
    ],
)
def test_import_along_the_arrows_is_allowed(path: str, source: str) -> None:
    assert not complaints(path.partition("/")[0], Path(path), source)
