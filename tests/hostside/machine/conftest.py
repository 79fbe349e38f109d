"""What the tests of the machine share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostside.machine.guests import assemble
from tests.tools import need_kvm

Guest = Callable[[str], Path]


@pytest.fixture(autouse=True)
def kvm(request: pytest.FixtureRequest) -> None:
    """Skip, or fail in CI, a test marked `kvm` where there is none."""
    if request.node.get_closest_marker("kvm"):
        need_kvm()


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    """Return a function that makes a payload of assembly."""
    return lambda source: assemble(tmp_path, source)


@pytest.fixture(params=[0, 3], ids=["ring0", "ring3"])
def ring(request: pytest.FixtureRequest) -> int:
    """Run the test in both privilege rings."""
    ring: int = request.param
    return ring
