"""`kbroker serve` as it is, and the programs that everyone starts with, word for word."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.testing import Broker, BrokerFailed
from tests.network import own_network

pytestmark = pytest.mark.slow

pytest.importorskip("kafka", reason="kafka-python is not installed")

DEADLINE_S = 60
README = Path(__file__).parent.parent.parent / "README.md"

KEYS_AND_VALUES = """
from kafka import KafkaProducer
producer = KafkaProducer(bootstrap_servers='localhost:9092')
for i in range(100):
    producer.send('test_topic', key=str(i).encode('utf-8'), value=str(i).encode('utf-8'))
producer.flush()
"""

SOME_DATA = """
from kafka import KafkaProducer
producer = KafkaProducer(bootstrap_servers='localhost:9092')
producer.send('test_topic', b'some data')
producer.flush()
"""

FOR_MESSAGE = """
from kafka import KafkaConsumer
for message in KafkaConsumer('test_topic', bootstrap_servers='localhost:9092'):
    print(message, flush=True)
"""


class ServedAsIs(Broker):
    """`kbroker serve` with no flags, in a network of its own. Only the data folder is given, by the environment."""

    def __init__(self, network: list[str]) -> None:
        super().__init__()
        self.network = network
        self.environment["KBROKER_LOG_DIR"] = str(self.data_dir)
        self.runtime_dir = self.data_dir / "run"

    def command(self) -> list[str]:
        return [*self.network, sys.executable, "-m", "kbroker", "serve"]

    def program(self, text: str) -> list[str]:
        """The command that runs a program in the broker's network."""
        return [*self.network, sys.executable, "-c", text]

    def run(self, text: str) -> None:
        """Run a program to its end, which must be a good one."""
        done = subprocess.run(self.program(text), capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def broker() -> Iterator[ServedAsIs]:
    with own_network() as network, ServedAsIs(network) as running:
        yield running


def test_it_listens_where_clients_expect_it(broker: ServedAsIs) -> None:
    assert broker.bootstrap_servers == "localhost:9092"
    workers = broker.status()["worker_count"]
    listeners = broker.status()["listeners"]
    assert [listeners[f"kafka-{node}"] for node in range(workers + 1)] == [
        f"127.0.0.1:{9092 + node}" for node in range(workers + 1)
    ]


def test_producing_and_consuming(broker: ServedAsIs) -> None:
    with subprocess.Popen(broker.program(FOR_MESSAGE), stdout=subprocess.PIPE, bufsize=0) as consumer:
        assert consumer.stdout is not None
        try:
            # It begins with what comes after it, so records are sent until the first one was printed.
            deadline = time.monotonic() + DEADLINE_S
            broker.run(SOME_DATA)
            while not select.select([consumer.stdout], [], [], 0.5)[0]:
                assert time.monotonic() < deadline, "the consumer prints nothing"
                broker.run(SOME_DATA)
            broker.run(KEYS_AND_VALUES)
            found: list[bytes] = []
            while len(found) < 100:
                line = consumer.stdout.readline()
                assert line.startswith(b"ConsumerRecord(topic='test_topic', partition=0, ")
                if b"value=b'some data'" not in line:
                    found.append(line)
        finally:
            consumer.kill()
    for i, line in enumerate(found):
        assert f"key=b'{i}', value=b'{i}'".encode() in line


def test_a_second_broker_names_the_port_and_the_remedy(broker: ServedAsIs) -> None:
    second = ServedAsIs(broker.network)
    try:
        with pytest.raises(BrokerFailed) as failed:
            second.start()
    finally:
        second.close()
    said = str(failed.value).splitlines()[-1]
    assert said.startswith("kbroker: port 9092 is taken by another program (listeners=127.0.0.1:9092)")
    assert "--listen HOST:PORT" in said


def test_the_readme_shows_these_programs() -> None:
    def formatted(text: str) -> str:
        return re.sub(r"\n+", "\n", text.replace("'", '"'))

    readme = formatted(README.read_text(encoding="utf-8"))
    for program in (KEYS_AND_VALUES, SOME_DATA, FOR_MESSAGE):
        assert formatted(program) in readme
