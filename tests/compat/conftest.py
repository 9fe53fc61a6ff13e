"""A broker with Kafka listeners, for real clients; Apache Kafka's own tools where they can be had."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.testing import Broker
from tests.compat.apache_kafka import ApacheKafka
from tests.compat.java_applications import JavaApplications, find_applications
from tests.compat.java_tools import JavaTools, ToolsMissing, find_tools


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """One for all tests of a module; each uses topics of its own."""
    with Broker(workers=2) as running:
        yield running


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic's name that no other test uses."""
    return "".join(c if c.isalnum() else "." for c in request.node.name).strip(".")


@pytest.fixture(scope="session")
def java() -> JavaTools:
    """Apache Kafka's own tools. The test is skipped, with the reason, where they cannot run."""
    try:
        return find_tools()
    except ToolsMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def applications(tmp_path_factory: pytest.TempPathFactory) -> JavaApplications:
    """Java programs that use Kafka's libraries. The test is skipped, with the reason, where they cannot run."""
    try:
        return find_applications(tmp_path_factory.mktemp("classes"))
    except ToolsMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def apache(java: JavaTools) -> Iterator[ApacheKafka]:
    """Apache Kafka's own broker, to compare answers with."""
    with ApacheKafka(java) as running:
        yield running
