"""Each room's `__init__.py` is a menu: short, complete, and legible to a type checker."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("doorbells", "transport", "hostside", "guestside")
MENUS = [
    menu.parent.relative_to(ROOT)
    for room in ROOMS
    for menu in sorted((ROOT / room).rglob("__init__.py"))
]
MENU_LINES = 40


def defined(path: Path) -> set[str]:
    """Return a module's public names: its `__all__` if it has one, else what it defines.

    A helper that other modules of the room share is left out of `__all__` (`()`: the module offers
    nothing); constants are the room's own business unless `__all__` names them.
    """
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                names = ast.literal_eval(node.value)
                return {str(name) for name in names}
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec"))):
                pass
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case _:
                pass
    return {name for name in found if not name.startswith("_") and not name.isupper()}


def offered(folder: Path) -> set[str]:
    """Return the names on a folder's menu."""
    tree = ast.parse((folder / "__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname for node in imports for alias in node.names if alias.asname}


@pytest.mark.parametrize("folder", MENUS, ids=str)
def test_every_public_name_of_a_private_module_is_on_the_menu(folder: Path) -> None:
    """A module without `_` is imported by its own path and needs no line on the menu."""
    menu = offered(ROOT / folder)
    missing = {
        f"{folder}/{path.name}: {name}"
        for path in (ROOT / folder).glob("_[!_]*.py")
        for name in defined(path) - menu
    }

    assert not missing, "not on the menu: " + ", ".join(sorted(missing))


@pytest.mark.parametrize("folder", MENUS, ids=str)
def test_menu_holds_nothing_but_names_a_type_checker_sees(folder: Path) -> None:
    path = ROOT / folder / "__init__.py"
    body = ast.parse(path.read_text()).body
    entries = [node for node in body if not isinstance(node, ast.Expr)]

    assert all(isinstance(node, ast.ImportFrom) for node in entries), f"{path}: only imports"
    for node in entries:
        assert isinstance(node, ast.ImportFrom)
        if node.module != "__future__":
            assert all(a.asname == a.name for a in node.names), f"{path}: write `X as X`"


@pytest.mark.parametrize("folder", MENUS, ids=str)
def test_menu_fits_on_a_screen(folder: Path) -> None:
    lines = (ROOT / folder / "__init__.py").read_text().splitlines()

    assert len(lines) < MENU_LINES


@pytest.mark.parametrize("folder", MENUS, ids=str)
def test_every_name_on_the_menu_can_be_had(folder: Path) -> None:
    module = importlib.import_module(".".join(("paravirt", *folder.parts)))

    assert not {name for name in offered(ROOT / folder) if not hasattr(module, name)}
