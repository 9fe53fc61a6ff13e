"""One broker for the tests of commands that only need any."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.served import Served, serve


@pytest.fixture(scope="package")
def served() -> Iterator[Served]:
    # A short path: unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="kbroker-") as folder, serve(Path(folder)) as broker:
        yield broker
