"""Each test here runs in a nested KVM, all in one boot, and is reported as if it had run here."""

from __future__ import annotations

import faulthandler
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from .nested import INSIDE, REPORT, SAID, Outcome, run_nested

if TYPE_CHECKING:
    from collections.abc import Generator

IS_INSIDE = INSIDE in os.environ
nest = pytest.StashKey[Outcome | BaseException]()


def boot(session: pytest.Session) -> Outcome | BaseException:
    """Run all the session's tests of this folder, or return why they cannot be."""
    here = Path(__file__).parent
    nodes = [item.nodeid for item in session.items if here in item.path.parents]
    # It is there for one test, and these are all of them; `run_nested` has an end of its own.
    faulthandler.cancel_dump_traceback_later()
    with tempfile.TemporaryDirectory(prefix="paravirt-nested-") as folder:
        try:
            return trio.run(run_nested, nodes, Path(folder))
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:  # noqa: BLE001
            return error  # each test will say so


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Report what the nested run did; without a result go on, into `result`."""
    if IS_INSIDE:
        return None
    if nest not in item.session.stash:
        item.session.stash[nest] = boot(item.session)
    found = item.session.stash[nest]
    if isinstance(found, BaseException) or not found.complete(item.nodeid):
        return None
    hook, config = item.ihook, item.config
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for data in found.reports[item.nodeid]:
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(autouse=True)
def result(request: pytest.FixtureRequest) -> None:
    """Say why there is no result of a test from in there."""
    if IS_INSIDE:
        return
    found = request.session.stash[nest]
    if isinstance(found, BaseException):
        raise found
    pytest.fail(f"the nested run has lost the result of this test; it said:\n{found.said}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what a test had to say besides that it passed."""
    passed = terminalreporter.getreports("passed")
    said = [text for report in passed for name, text in report.user_properties if name == SAID]
    if said:
        terminalreporter.section("on the nested KVM")
        for text in said:
            terminalreporter.write_line(str(text))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send each report out of the nested run."""
    report = yield
    if IS_INSIDE:
        to_data = item.config.hook.pytest_report_to_serializable
        data = msgspec.json.encode(to_data(config=item.config, report=report))
        print(f"\n{REPORT}{data.decode()}", flush=True)
    return report
