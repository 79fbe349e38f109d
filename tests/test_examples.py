"""The examples as a newcomer runs them, and the README as a newcomer reads it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PROGRAMS = [path.stem for path in EXAMPLES if "__main__" in path.read_text()]
README = (ROOT / "README.md").read_text()
PAGES = ("architecture", "machine", "swap", "vhost-user")
FENCED = re.compile(r"```python\n(.*?)```", re.DOTALL)
NAMED = re.compile(r"`([a-z]+/[a-z_/.]*)`")
MODULES = re.compile(r"-m (examples\.\w+)")

SAYS = {
    "block_loopback": "demo-disk 1048576 b'paravirt'\n",
    "config_space": "before: Space(version=1, longest=4096)\n"
    "after:  Space(version=1, longest=8192)\n",
    "faults": "a late kick: b'LATE'\nafter a reset: b'BACK'\n"
    "injected: [('delay', 'kick', 0), ('drop', 'kick', 0)]\n",
    "own_doorbell": "b'HELLO' after 1 kick\n",
    "sync_client": "b'HELLO'\n1000 b'NUMBER 999'\n",
}


def ran(*arguments: str) -> str:
    """Run Python from the checkout's root, where it has to go well; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(SAYS))
def test_example_says_what_it_should(name: str) -> None:
    assert ran("-m", f"examples.{name}") == SAYS[name]


def test_doorbells_side_by_side_are_all_there() -> None:
    lines = ran("-m", "examples.doorbells").splitlines()

    assert [line.split()[0] for line in lines] == ["direct", "eventfd", "polling", "adaptive"]
    assert all("1000 requests" in line for line in lines)


def test_every_program_is_run() -> None:
    elsewhere = {"qemu_block", "kvm_block", "live_swap", "linux_guest"}  # where the machines are

    assert set(PROGRAMS) == {*SAYS, "doorbells", *elsewhere}


def test_test_of_the_readme_passes() -> None:
    assert "1 passed" in ran("-m", "pytest", "-q", "examples/test_upper.py")


def test_readme_has_a_device_and_a_test() -> None:
    device, test, *_ = FENCED.findall(README)

    assert device in (ROOT / "examples" / "upper.py").read_text()
    assert test in (ROOT / "examples" / "test_upper.py").read_text()


@pytest.mark.parametrize("block", FENCED.findall(README))
def test_every_block_of_the_readme_is_the_text_of_an_example(block: str) -> None:
    assert any(block in path.read_text() for path in EXAMPLES)


def test_readme_names_only_what_is_there() -> None:
    names = NAMED.findall(README)

    assert names
    assert not [name for name in names if not (ROOT / name).exists()]


def test_readme_runs_only_examples_that_are_there() -> None:
    modules = MODULES.findall(README)

    assert modules
    assert {module.removeprefix("examples.") for module in modules} <= set(PROGRAMS)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        *(f"docs/{name}.md" for name in ("architecture", "machine", "swap", "vhost-user")),
    ],
)
def test_page_has_one_sentence_a_line(page: str) -> None:
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "#"))]

    assert not [line for line in lines if re.search(r"[a-z)`][.?!] [A-Z]", line)]
