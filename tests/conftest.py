"""What every test may rely on."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.skips import StrictSkips

# For `make test-fast`: properties are looked at, not searched.
settings.register_profile("fast", max_examples=20)


def pytest_addoption(parser: pytest.Parser) -> None:
    """One more option for CI, where everything that tests need can be had."""
    parser.addoption("--strict-skips", action="store_true", help="fail on skips that tests/skips.py does not allow")


def pytest_configure(config: pytest.Config) -> None:
    """Hold the run to that."""
    if config.getoption("--strict-skips"):
        config.pluginmanager.register(StrictSkips())
