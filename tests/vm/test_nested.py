"""What comes back from the nested run is told apart, and nothing missing is taken for a pass."""

from __future__ import annotations

from tests.vm.hypercalls.nested import REPORT, sort


def line(node: str, when: str) -> str:
    return f'{REPORT}{{"nodeid": "{node}", "when": "{when}"}}'


def test_each_test_has_its_own_reports() -> None:
    lines = [line("a", "setup"), "chatter", line("b", "setup"), line("a", "teardown")]
    outcome = sort("\n".join(lines))

    assert [report["when"] for report in outcome.reports["a"]] == ["setup", "teardown"]
    assert [report["when"] for report in outcome.reports["b"]] == ["setup"]
    assert outcome.said == "chatter"


def test_a_test_that_did_not_reach_its_end_has_no_result() -> None:
    outcome = sort("\n".join([line("a", "setup"), line("a", "call"), line("b", "teardown")]))

    assert not outcome.complete("a")
    assert not outcome.complete("never heard of")
    assert outcome.complete("b")
