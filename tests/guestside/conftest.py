"""What the tests of drivers share."""

from __future__ import annotations

import pytest

from paravirt.doorbells import KINDS, Direct, Doorbell

BETWEEN_THREADS = [kind for kind in KINDS if kind is not Direct]


@pytest.fixture(params=BETWEEN_THREADS, ids=lambda kind: kind.name)
def between(request: pytest.FixtureRequest) -> type[Doorbell]:
    """Run the test with each kind that rings from thread to thread."""
    kind: type[Doorbell] = request.param
    return kind
