"""Which kinds this host has."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from paravirt.doorbells import KINDS, Capability, probe

if TYPE_CHECKING:
    import pytest


def row(name: str) -> Capability:
    return next(capability for capability in probe() if capability.name == name)


def test_every_kind_is_probed_once() -> None:
    assert [capability.name for capability in probe()] == [kind.name for kind in KINDS]


def test_every_row_gives_a_reason() -> None:
    assert all(capability.reason for capability in probe())


def test_every_available_kind_can_be_made() -> None:
    for kind, capability in zip(KINDS, probe(), strict=True):
        assert capability.available
        kind().close()


def test_kernel_without_eventfd_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(count: int, flags: int) -> int:
        raise OSError(errno.ENOSYS, "not implemented", (count, flags))

    monkeypatch.setattr(os, "eventfd", refuse)

    assert row("eventfd") == Capability(
        "eventfd", available=False, reason="eventfd: not implemented"
    )
    assert not row("adaptive").available
    assert row("polling").available


def test_kernel_that_cannot_read_without_blocking_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(fd: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported", (fd, buffers, offset, flags))

    monkeypatch.setattr(os, "preadv", refuse)

    assert not row("eventfd").available
    assert "Linux 5.8" in row("eventfd").reason


def test_one_cpu_is_a_reason_not_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(pid: int) -> set[int]:
        return {pid}

    monkeypatch.setattr(os, "sched_getaffinity", one)

    assert "one usable CPU" in row("polling").reason
    assert "one usable CPU" in row("adaptive").reason
