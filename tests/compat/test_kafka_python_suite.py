"""kafka-python's own integration tests, from its source package, against our broker: all but the exceptions pass."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

pytest.importorskip("kafka", reason="kafka-python is not installed")

DOWNLOAD_S = 100
TEST_S = 40
FILE_S = 300

NO_TRANSACTIONS = "there are no transactions yet"

EXCEPTIONS = {
    "test_admin_integration.py::test_alter_partition_reassignments": (
        "it moves a replica to every node that is listed, and each of ours counts as a host; a partition has one owner"
    ),
    "test_admin_integration.py::test_alter_replica_log_dirs": "there is one folder: AlterReplicaLogDirs is not served",
    "test_admin_integration.py::test_describe_metadata_quorum": "there is no quorum: DescribeQuorum is not served",
    "test_admin_integration.py::test_create_partitions": (
        "it assigns partitions to node 0, which leads internal topics only: refused with INVALID_REPLICA_ASSIGNMENT"
    ),
    "test_admin_integration.py::test_create_describe_delete_acls": "there are no access rules: SECURITY_DISABLED",
    "test_producer_integration.py::test_transactional_producer_messages": NO_TRANSACTIONS,
    "test_producer_integration.py::test_transactional_producer_offsets": NO_TRANSACTIONS,
}
"""Those of SASL and TLS start a Kafka of their own, so they are not run at all."""

SERVICE = '''
class ExternalService:
    """A broker that runs already."""

    def __init__(self, host, port):
        pass

    def open(self):
        pass


class SpawnedService:
    pass
'''
"""test/service.py, which the source package leaves out."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """kafka-python's source tree, of the version that is installed. Its package is kept in pytest's cache."""
    version = importlib.metadata.version("kafka-python")
    assert request.config.cache is not None
    kept = request.config.cache.mkdir("kafka-python")
    package = kept / f"kafka_python-{version}.tar.gz"
    if not package.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", "kafka-python", "--dest", str(kept), f"kafka-python=={version}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"pip did not get the source package of kafka-python {version} within {DOWNLOAD_S} s")
        if done.returncode:
            pytest.skip(f"pip cannot get the source package of kafka-python {version}: {done.stderr[-300:]}")
    folder = tmp_path_factory.mktemp("kafka-python")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    tree = folder / f"kafka_python-{version}"
    # Else `test` is the standard library's.
    (tree / "test" / "__init__.py").touch()
    service = tree / "test" / "service.py"
    if not service.exists():
        service.write_text(SERVICE)
    return tree


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    # Its groups have short sessions, as the Kafka that it would start itself allows. One worker leads everything: a
    # test of DeleteRecords expects all partitions' records of one poll.
    with Broker({"group.min.session.timeout.ms": 1_000}, workers=1) as running:
        yield running


@pytest.mark.timeout(FILE_S + DOWNLOAD_S + 30)
@pytest.mark.parametrize(
    "name", ["test_admin_integration.py", "test_consumer_integration.py", "test_producer_integration.py"]
)
def test_its_own_tests(broker: Broker, sources: Path, name: str) -> None:
    folder = "test/integration"
    command = [sys.executable, "-m", "pytest", "--quiet", "-rfEs", "--timeout", str(TEST_S), "--tb=short"]
    command += ["--show-capture=no", "-p", "no:cacheprovider", "--rootdir", str(sources)]
    text = (sources / folder / name).read_text(encoding="utf-8")
    for exception in EXCEPTIONS:
        if exception.startswith(name):
            assert f"\ndef {exception.partition('::')[2]}(" in text, f"there is no {exception} any longer"
            command += ["--deselect", f"{folder}/{exception}"]
    environment = os.environ | {
        "KAFKA_URI": f"kafka://{broker.bootstrap_servers}",
        "KAFKA_VERSION": "4.3.0",
        "KAFKA_ROOT": str(sources),
        "PYTHONPATH": str(sources),
    }
    done = subprocess.run(
        [*command, f"{folder}/{name}"],
        cwd=sources, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FILE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
