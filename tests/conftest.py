"""What every test stands on: one printed seed, a guard against hangs, the core that really runs."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import pytest
import trio

from paravirt.doorbells import KINDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from paravirt.doorbells import Doorbell

P = ParamSpec("P")
GUARD_SECONDS = 30.0  # far above any test here; below the 120 s at which faulthandler ends the run
SEED = int(os.environ.get("PARAVIRT_SEED") or random.SystemRandom().getrandbits(32))
REPEAT = f"repeat with PARAVIRT_SEED={SEED}"
MOCK_CLOCKS = {"mock_clock", "autojump_clock"}


if "PARAVIRT_NESTED" not in os.environ:  # its CPU is emulated: 10 s to import what nothing uses
    importlib.import_module("tests.profiles")


def core_path() -> str:
    """Return the file of the C core in use, or why there is none."""
    try:
        return str(importlib.import_module("paravirt.transport._core").__file__)
    except ImportError as error:
        return f"not built: {error}"


def pytest_configure() -> None:
    """Refuse to run on another core than the sanitized one that $PARAVIRT_CORE names."""
    wanted = os.environ.get("PARAVIRT_CORE")
    if wanted is None:
        return
    path = Path(core_path())
    if Path(wanted).resolve() not in path.parents or b"__asan_init" not in path.read_bytes():
        message = f"not the sanitized core of {wanted}: {path}"
        raise pytest.UsageError(message)


def pytest_report_header() -> list[str]:
    """Print what is needed to repeat the run."""
    return [f"paravirt seed: {SEED} ({REPEAT})", f"paravirt core: {core_path()}"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the seed next to every failure."""
    report = yield
    if report.failed:
        report.sections.append(("paravirt seed", f"{REPEAT}: {item.nodeid}"))
    return report


def guarded(
    test: Callable[P, Awaitable[None]], seconds: float
) -> Callable[P, Coroutine[object, object, None]]:
    """Fail a test that waits for ever instead of hanging the run."""

    @functools.wraps(test)
    async def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with trio.fail_after(seconds):
            await test(*args, **kwargs)

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Guard the tests on the real clock; a mock clock would jump straight to the guard's end."""
    for item in items:
        if not isinstance(item, pytest.Function) or MOCK_CLOCKS & set(item.fixturenames):
            continue
        if inspect.iscoroutinefunction(item.obj):
            patience = item.get_closest_marker("patience")
            item.obj = guarded(item.obj, patience.args[0] if patience else GUARD_SECONDS)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Give the test its own seed: the run's and the test's name, whatever ran before it."""
    return random.Random(f"{SEED} {request.node.nodeid}").getrandbits(32)


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Give the test a random generator that the printed seed repeats."""
    return random.Random(seed)


@pytest.fixture(autouse=True)
def seeded_scheduler(seed: int) -> random.Random:
    """Make trio choose the order of its tasks by the seed; gives what it chooses with."""
    scheduler = importlib.import_module("trio._core._run")
    order = getattr(scheduler, "_r")  # noqa: B009  (no public way in)
    assert isinstance(order, random.Random)
    setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010
    order.seed(seed)
    return order


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def doorbell(request: pytest.FixtureRequest) -> type[Doorbell]:
    """Run the test once with each kind of doorbell that we make ourselves."""
    kind: type[Doorbell] = request.param
    return kind
