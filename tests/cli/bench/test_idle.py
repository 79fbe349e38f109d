"""`paravirt bench idle`: a server is started, connected to, looked at and ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tests.cli.commands import command

if TYPE_CHECKING:
    import pytest


def test_connections_are_measured_and_the_server_is_ended(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paravirt.cli.bench._connections.SECONDS", 0.01)
    ended = command(capfd, "bench", "idle", "--connections", "20", "--runs", "1", "--json")
    rows = msgspec.json.decode(ended.out)["results"]

    assert ended.code == 0
    assert [(row["case"], row["metric"]) for row in rows] == [
        ("20 connections", "rss_kib"),
        ("20 connections", "cpu_percent"),
    ]
    assert rows[0]["median"] > 0
