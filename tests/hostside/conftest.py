"""Every kind of doorbell, for the tests of behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.doorbells import KINDS

if TYPE_CHECKING:
    from paravirt.doorbells import DoorbellMaker


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def doorbell(request: pytest.FixtureRequest) -> DoorbellMaker:
    """Make the doorbells of a link."""
    maker: DoorbellMaker = request.param
    return maker
