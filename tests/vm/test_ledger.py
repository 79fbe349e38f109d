"""The ledger by which disks are judged: it sees a block that is lost, stale or torn."""

from __future__ import annotations

import pytest

from tests.vm.ledger import Ledger, block


def written(ledger: Ledger, *numbers: int) -> Ledger:
    """Write to blocks, each write acknowledged."""
    for number in numbers:
        ledger.send(number)
        ledger.acknowledge(number)
    return ledger


def disk(*blocks: tuple[int, int]) -> bytes:
    return b"".join(block(number, generation) for number, generation in blocks)


def test_disk_as_it_was_written_is_in_order() -> None:
    ledger = written(Ledger(2), 1, 1)

    assert ledger.finish(disk((0, 0), (1, 2))).endswith("0 lost, 0 completed twice, 0 torn")


def test_acknowledged_write_that_is_not_there_is_lost() -> None:
    ledger = written(Ledger(2), 1, 1)
    ledger.kill(disk((0, 0), (1, 1)))

    assert (ledger.lost, ledger.torn) == (1, 0)


def test_write_that_is_out_may_be_there_or_not_or_in_part() -> None:
    ledger = written(Ledger(1), 0)
    ledger.send(0)
    for state in disk((0, 1)), disk((0, 2)), disk((0, 2))[:100] + disk((0, 1))[100:]:
        ledger.kill(state)

    assert (ledger.in_flight, ledger.lost, ledger.torn) == (3, 0, 0)


def test_stale_write_that_is_carried_out_late_shows() -> None:
    ledger = written(Ledger(1), 0, 0, 0)
    ledger.send(0)
    ledger.kill(disk((0, 2)))

    assert ledger.lost == 1


@pytest.mark.parametrize(
    "wrong",
    [disk((0, 1))[:-16] + disk((0, 0))[-16:], disk((1, 1)), disk((0, 2))],
    ids=["mixed", "another block's", "from the future"],
)
def test_block_at_rest_with_anything_else_is_torn(wrong: bytes) -> None:
    ledger = written(Ledger(1), 0)
    ledger.check(wrong)

    assert (ledger.lost, ledger.torn) == (0, 1)
