"""The example that needs a real guest."""

from __future__ import annotations

import pytest

from tests.test_examples import ran

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("kernels")]


def test_linux_reads_what_a_device_of_ones_own_gives_it() -> None:
    assert ran("-m", "examples.linux_guest") == "Linux read what the device gave it\n"
