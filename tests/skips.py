"""Which tests may be skipped where all that they need can be had. `--strict-skips` holds a run to this table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest


class Allowed(NamedTuple):
    """A skip that says nothing about the machine: it is right everywhere."""

    test: str
    reason: str
    why: str


ALLOWED = (
    Allowed(r"tests/kafka/test_codec\.py::", r"kafka-python", "the oracle does not know that API or version"),
    Allowed(r"tests/kafka/test_codec\.py::", r"holds a struct", "the message has no default that could be written"),
    Allowed(r"tests/cli/test_systemd\.py::", r"lies in a temporary folder", "a checkout may lie there, a service not"),
)
"""Both are patterns that must be found, in the test's id and in the reason that it gives."""


class StrictSkips:
    """A pytest plugin: an unexpected skip fails the run at its end and is listed with its reason."""

    def __init__(self) -> None:
        self.unexpected: list[tuple[str, str]] = []

    def note(self, test: str, reason: str) -> None:
        """That was skipped."""
        if not any(re.search(one.test, test) and re.search(one.reason, reason) for one in ALLOWED):
            self.unexpected.append((test, reason))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test was skipped by a mark, or by itself."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self.note(report.nodeid, _reason_of(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A whole module was skipped."""
        if report.skipped:
            self.note(report.nodeid, _reason_of(report))

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """A run with an unexpected skip has failed."""
        if self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name them."""
        for test, reason in self.unexpected:
            terminalreporter.write_line(f"SKIPPED, and tests/skips.py does not allow it: {test}: {reason}", red=True)


def _reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
