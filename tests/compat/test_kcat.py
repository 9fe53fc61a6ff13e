"""kcat as Debian has it, with a librdkafka of its own that is years old."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from typing import Any

import pytest

from kbroker.testing import Broker

from .clients import Native, Record, create_topic

KCAT = shutil.which("kcat") or shutil.which("kafkacat")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(KCAT is None, reason="kcat is not installed (Debian: apt-get install kcat)"),
]


def kcat(broker: Broker, *arguments: str, given: str = "") -> str:
    """Run kcat to its end; what it printed."""
    assert KCAT is not None
    done = subprocess.run(
        [KCAT, "-q", "-b", broker.bootstrap_servers, *arguments],
        input=given, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_listing(broker: Broker, topic: str) -> None:
    create_topic(broker, topic, 3)
    listed: dict[str, Any] = json.loads(kcat(broker, "-L", "-J", "-t", topic))
    assert [node["id"] for node in listed["brokers"]] == [0, 1, 2]
    assert broker.bootstrap_servers.rpartition(":")[2] in listed["brokers"][0]["name"]
    (described,) = listed["topics"]
    assert described["topic"] == topic
    assert {partition["leader"] for partition in described["partitions"]} == {1, 2}
    assert f'topic "{topic}" with 3 partitions' in kcat(broker, "-L")


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_producing_and_consuming(broker: Broker, topic: str, compression: str) -> None:
    create_topic(broker, topic)
    lines = [f"key {i}\tvalue {i} {'x' * (i % 500)}" for i in range(1000)]
    kcat(broker, "-P", "-t", topic, "-K", "\\t", "-z", compression, "-H", "one=1", given="\n".join(lines))
    assert kcat(broker, "-C", "-t", topic, "-e", "-f", "%k\\t%s\\n").splitlines() == lines
    first = json.loads(kcat(broker, "-C", "-t", topic, "-e", "-c", "1", "-J"))
    assert (first["key"], first["offset"], first["headers"]) == ("key 0", 0, ["one", "1"])
    found = [(record.key, record.value) for record in Native().read(broker, topic, len(lines))]
    assert found == [tuple(line.encode().split(b"\t")) for line in lines]
    if compression != "none":
        # This librdkafka silently gives compression up for brokers whose oldest Produce is not to its liking.
        stored = (broker.data_dir / f"{topic}-0" / "00000000000000000000.log").stat().st_size
        assert stored < sum(map(len, lines)) / 2


def test_offsets_by_time(broker: Broker, topic: str) -> None:
    create_topic(broker, topic)
    start_ms = time.time_ns() // 1_000_000 - 60_000
    Native().write(broker, topic, [Record(None, b"%d" % i, timestamp_ms=start_ms + 10 * i) for i in range(10)])
    assert kcat(broker, "-Q", "-t", f"{topic}:0:{start_ms + 35}").strip() == f"{topic} [0] offset 4"
    found = kcat(broker, "-C", "-t", topic, "-p", "0", "-o", f"s@{start_ms + 75}", "-e", "-f", "%o %s\\n")
    assert found.splitlines() == ["8 8", "9 9"]


def test_the_end_of_a_topic(broker: Broker, topic: str) -> None:
    create_topic(broker, topic)
    kcat(broker, "-P", "-t", topic, given="a\nb\nc\nd\n")
    assert kcat(broker, "-C", "-t", topic, "-o", "-2", "-e", "-f", "%s ") == "c d "


def test_a_group(broker: Broker, topic: str) -> None:
    create_topic(broker, topic, 2)
    lines = [f"value {i}" for i in range(100)]
    kcat(broker, "-P", "-t", topic, given="\n".join(lines))
    found = kcat(broker, "-G", f"{topic}.members", "-X", "auto.offset.reset=earliest", "-c", "100", topic)
    assert sorted(found.splitlines()) == sorted(lines)
