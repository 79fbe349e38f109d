"""The house limits that a machine can hold: sizes, and who may use what."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("paravirt", "doorbells", "transport", "hostside", "guestside", "examples", "tests")
FILE_LINES = 400
PYTHON_FUNCTION_LINES = 35
C_FUNCTION_LINES = 40
EXAMPLE_LINES = 40
FREESTANDING = {"stdint.h", "stddef.h", "stdbool.h"}


def files(*patterns: str, under: tuple[str, ...] = FOLDERS) -> list[Path]:
    """Return the project's own files of some kinds, relative to the root, links not followed."""
    found = [path for top in under for pattern in patterns for path in (ROOT / top).rglob(pattern)]
    return sorted(path.relative_to(ROOT) for path in found if path.is_file())


PYTHON = files("*.py", "*.pyi")
C = files("*.c", "*.h")
CORE = [path for path in files("*.c", "*.h", under=("transport/core",)) if "host" not in path.parts]

BARE = files("*.c", "*.h", under=("guestside/payload", "doorbells/guest"))


def python_functions(source: str) -> list[tuple[str, int]]:
    """Return (name, lines) of each function, its docstring not counted."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            text = first if ast.get_docstring(node, clean=False) is not None else None
            doc = (text.end_lineno or 0) - text.lineno + 1 if text else 0
            found.append((node.name, (node.end_lineno or 0) - node.lineno + 1 - doc))
    return found


def c_functions(source: str) -> list[tuple[str, int]]:
    """Return (first line, lines) of each C function: bodies open and close in the first column."""
    found: list[tuple[str, int]] = []
    head, opened = "", 0
    for number, line in enumerate(source.splitlines(), 1):
        if line == "{" or re.match(r"\w.*\) \{$", line):
            head, opened = (head if line == "{" else line), number
        elif line == "}" and opened:
            found.append((head, number - opened + 1))
            opened = 0
        elif line[:1].isalpha() and "(" in line:
            head = line
    return found


def text(path: Path) -> str:
    return (ROOT / path).read_text()


def test_there_is_something_to_look_at() -> None:
    assert PYTHON
    assert CORE
    assert BARE


def test_no_file_is_too_long() -> None:
    lines = {str(path): len(text(path).splitlines()) for path in [*PYTHON, *C]}

    assert not {path: count for path, count in lines.items() if count > FILE_LINES}


def test_no_python_function_is_too_long() -> None:
    found = [(str(path), *entry) for path in PYTHON for entry in python_functions(text(path))]

    assert not [entry for entry in found if entry[2] > PYTHON_FUNCTION_LINES]


def test_no_c_function_is_too_long() -> None:
    found = [(str(path), *entry) for path in C for entry in c_functions(text(path))]

    assert not [entry for entry in found if entry[2] > C_FUNCTION_LINES]


def test_the_c_scan_finds_functions() -> None:
    source = "static int f(int a,\n             int b)\n{\n    return a;\n}\nint g(void) {\n}\n"

    assert c_functions(source) == [("static int f(int a,", 3), ("int g(void) {", 2)]


def test_no_annotation_is_evaluated() -> None:
    """A menu has no annotations."""
    wanted = "from __future__ import annotations\n"
    modules = [path for path in files("*.py") if path.name != "__init__.py"]

    assert not [str(path) for path in modules if wanted not in text(path)]


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")

    assert not [str(path) for path in [*PYTHON, *C] if later.search(text(path))]


def test_every_example_fits_on_a_screen() -> None:
    examples = files("*.py", under=("examples",))

    assert not [str(p) for p in examples if len(text(p).splitlines()) >= EXAMPLE_LINES]
    assert not [str(p) for p in examples if "argparse" in text(p)]


def test_core_includes_no_libc() -> None:
    """The same files are compiled into the bare-metal guest."""
    include = re.compile(r"^#\s*include\s*<([^>]+)>", re.MULTILINE)

    assert not [str(p) for p in [*CORE, *BARE] if set(include.findall(text(p))) - FREESTANDING]


def test_atomics_live_in_one_header() -> None:
    comment = re.compile(r"/\*.*?\*/", re.DOTALL)
    atomic = re.compile(r"\b(__atomic_|__sync_|atomic_|_Atomic\b|[lms]fence\b)")
    others = [path for path in CORE if path.name != "barrier.h"]

    assert not [str(path) for path in others if atomic.search(comment.sub("", text(path)))]
