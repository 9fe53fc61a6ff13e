"""Apache Kafka's own tools about groups, and its log dump over an offsets log that was compacted."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.config import Config, GroupConfig, ServerConfig
from kbroker.groups.committed import Committed, Place, encode_key, encode_value
from kbroker.log import compaction
from kbroker.log.compaction import Rules
from kbroker.log.storage import DISK
from kbroker.records.codec import BatchBuilder
from kbroker.testing import Broker
from kbroker.workers.offsets_log import open_offsets
from tests.compat.group_members import GROUP_SETTINGS
from tests.compat.java_tools import JavaTools
from tests.compat.test_groups_confluent import DEADLINE_S, fill, members
from tests.compat.test_java_tools import Tools, dump
from tests.groups.test_consumer_records import GOLDEN, TOPIC

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(GROUP_SETTINGS, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture
def tools(java: JavaTools, broker: Broker) -> Tools:
    return Tools(java, broker)


@pytest.mark.parametrize("protocol", ["range", "consumer"])
def test_consumer_groups(tools: Tools, topic: str, broker: Broker, protocol: str) -> None:
    tools("kafka-topics", "--create", "--topic", topic, "--partitions", "2")
    fill(broker, topic, 2, 10)
    group = ("--group", topic)
    with members(broker) as join:
        member = join(topic, topic, protocol, commits=True)
        broker.wait_until(lambda: member.committed == {0: 10, 1: 10}, DEADLINE_S)
        fill(broker, topic, 1, 3)
        broker.wait_until(lambda: member.committed == {0: 13, 1: 10}, DEADLINE_S)
        kind = "Consumer" if protocol == "consumer" else "Classic"
        assert re.search(
            rf"^{topic}\s+{kind}\s+Stable", tools("kafka-consumer-groups", "--list", "--state", "--type"), re.M
        )
        described = tools("kafka-consumer-groups", "--describe", *group)
        assert re.search(rf"^{topic}\s+{topic}\s+0\s+13\s+13\s+0\s", described, re.M), described
        said = tools("kafka-consumer-groups", "--describe", "--members", "--verbose", *group)
        assert "/127.0.0.1" in said, said
        assert "Stable" in tools("kafka-consumer-groups", "--describe", "--state", *group)
        assert "GroupNotEmptyException" in tools.fails("kafka-consumer-groups", "--delete", *group)
    said = tools("kafka-consumer-groups", "--reset-offsets", "--to-offset", "4", "--topic", topic, "--execute", *group)
    assert re.search(rf"{topic}\s+0\s+4", said), said
    said = tools("kafka-console-consumer", "--topic", topic, "--max-messages", "15", *group)
    assert len(said.splitlines()) == 15
    described = tools("kafka-consumer-groups", "--describe", *group)
    assert re.search(rf"^{topic}\s+{topic}\s+0\s+13\s+13\s+0\s", described, re.M), described
    tools("kafka-consumer-groups", "--delete-offsets", "--topic", f"{topic}:1", *group)
    assert not re.search(rf"^{topic}\s+{topic}\s+1\s+10", tools("kafka-consumer-groups", "--describe", *group), re.M)
    tools("kafka-consumer-groups", "--delete", *group)
    assert topic not in tools("kafka-consumer-groups", "--list")


def test_dump_of_a_compacted_log(java: JavaTools, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    config = Config(server=ServerConfig(data_dir=str(tmp_path)), groups=GroupConfig(offsets_segment_bytes=1 << 17))
    log = open_offsets(config, now_ms, DISK, distrust_cache=False)
    for number in range(3_000):
        builder = BatchBuilder(batch_bytes=1 << 20)
        place = Place(f"group-{number % 300}", "topic", number % 3)
        builder.append(now_ms, encode_key(place), encode_value(Committed(number, 1, "", now_ms)))
        log.append(builder.build(), now_ms, sync=False)
    work = log.begin_flush(force_recovery_point=True)
    assert work is not None
    work.run()
    log.finish_flush(work, now_ms)
    found = compaction.begin(log, compaction.read_cleanings(log), Rules(), now_ms)
    assert found is not None
    found.run(lambda: None)
    placing = found.begin_placing(log)
    placing.run()
    assert placing.finish(log, now_ms) > 100_000
    log.close(now_ms)
    folder = log.folder
    said = dump(java, sorted(folder.glob("*.log")), "--deep-iteration", "--offsets-decoder")
    offsets = [int(offset) for offset in re.findall(r"^\| offset: (\d+)", said, re.M)]
    assert offsets == sorted(set(offsets))
    last = {}
    for group, offset in re.findall(r'"group":"(group-\d+)".*?"offset":(\d+)', said):
        last[group] = int(offset)
    assert last == {f"group-{number}": 2_700 + number for number in range(300)}
    dump(java, [*sorted(folder.glob("*.index")), *sorted(folder.glob("*.timeindex"))], "--deep-iteration")


def test_dump_of_a_consumer_groups_records(java: JavaTools, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    log = open_offsets(Config(server=ServerConfig(data_dir=str(tmp_path))), now_ms, DISK, distrust_cache=False)
    builder = BatchBuilder(batch_bytes=1 << 20)
    for _, record, _, _ in GOLDEN:
        builder.append(now_ms, record.key, record.value)
    log.append(builder.build(), now_ms, sync=False)
    log.close(now_ms)
    said = dump(java, sorted(log.folder.glob("*.log")), "--deep-iteration", "--offsets-decoder")
    topic_id = base64.urlsafe_b64encode(TOPIC).decode().rstrip("=")
    for expected in (
        r'"type":"3".*"epoch":7,"metadataHash":5',
        r'"type":"5".*"memberId":"m".*"instanceId":"i".*"subscribedTopicNames":\["a","b"\].*"serverAssignor":"uniform"',
        r'"rackId":"r".*"subscribedTopicRegex":"p".*"sessionTimeoutMs":10.*"name":"range","metadata":"AQI="',
        r'"type":"6".*"assignmentEpoch":7',
        rf'"type":"7".*"topicId":"{topic_id}","partitions":\[0,1\]',
        rf'"type":"8".*"memberEpoch":7,"previousMemberEpoch":6,"state":1.*Revocation":\[{{"topicId":"{topic_id}"',
        r'"type":"16".*"regularExpression":"a.\*".*"topics":\["ab"\],"version":3,"timestamp":9',
    ):
        assert re.search(expected, said), (expected, said)
