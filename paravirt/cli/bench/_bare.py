"""The floor below any server in Python: a loop over the ring that calls an empty function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport import DeviceRing, DriverRing, Feature, Memory, Region, RingGeometry
from paravirt.transport.bench import Load, pair

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

BASE = 1 << 20
DEPTH = 64
SPIN_NS = 50_000


def _plain(token: int) -> None:
    """Do nothing."""


async def _coroutine(token: int) -> None:
    """Do nothing."""


def _call(tokens: list[int]) -> None:
    for token in tokens:
        _plain(token)


def _drive(tokens: list[int]) -> None:
    for token in tokens:
        step: Coroutine[object, None, None] = _coroutine(token)
        try:
            step.send(None)
        except StopIteration:
            pass


def bare_loop(count: int, *, coroutine: bool) -> float:
    """Serve `count` requests with nothing around the handler; returns requests a second."""
    with Region.create(4 << 20, addr=BASE) as region:
        memory = Memory([region])
        features = Feature.RING_EVENT_IDX | Feature.RING_INDIRECT_DESC
        geometry = RingGeometry.contiguous(256, BASE, features)
        driver = DriverRing(memory, geometry, tables=BASE + (1 << 20), table_max=8)
        device = DeviceRing(memory, geometry)
        driver.disarm()
        start = BASE + (2 << 20)
        buffers = [(start + 128 * i, 16, start + 128 * i + 64, 0) for i in range(DEPTH)]
        load = Load(driver, memory, buffers)
        rates: list[float] = []

        def client() -> int:
            rates.append(load.run(count).rate)
            return 0

        pair(lambda: _serve(device, count, _drive if coroutine else _call), client)
        return rates[0]


def _serve(device: DeviceRing, count: int, handle: Callable[[list[int]], None]) -> int:
    lengths = [0] * 256
    done: list[int] = []
    served = 0
    while served < count:
        done = device.cycle(done, lengths[: len(done)], SPIN_NS)[::2]
        handle(done)
        served += len(done)
    device.complete(done, lengths[: len(done)])
    return served
