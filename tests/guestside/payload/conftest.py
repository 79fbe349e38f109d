"""The payload, compiled once for this process's kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.guestside.payload.payload_harness import compiled

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="package")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("payload"))
