"""What every test may rely on."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.run_guard import RunGuard, end_by_signals
from tests.skips import StrictSkips

# For `make test-fast`: properties are looked at, not searched.
settings.register_profile("fast", max_examples=20)
# For who has time: what has no number of its own is searched for long.
settings.register_profile("deep", max_examples=20_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    """One more option for CI, where everything that tests need can be had."""
    parser.addoption("--strict-skips", action="store_true", help="fail on skips that tests/skips.py does not allow")


GUARD = pytest.StashKey[RunGuard]()


def pytest_configure(config: pytest.Config) -> None:
    """Hold the run to that, and leave nothing running after it."""
    end_by_signals()
    if not hasattr(config, "workerinput"):  # a worker of xdist ends with the run that has started it
        config.stash[GUARD] = RunGuard()
    if config.getoption("--strict-skips"):
        config.pluginmanager.register(StrictSkips())


def pytest_unconfigure(config: pytest.Config) -> None:
    """The end of the run, also of one that was interrupted."""
    guard = config.stash.get(GUARD, None)
    if guard is not None:
        guard.close()
