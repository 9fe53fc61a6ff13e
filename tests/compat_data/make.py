"""Wrote the data folders beside this file, with the code of its day; kept to show what is in them.

`python -m tests.compat_data.make FOLDER` writes `clean.tar.xz` (a broker that was stopped in order), `killed.tar.xz`
(every process was killed -9, records written since) and `expected.json` (what must be found in both) there.
"""

from __future__ import annotations

import importlib
import json
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition

from kbroker import Admin, Consumer, Producer
from kbroker.errors import KbrokerError
from kbroker.testing import Broker
from kbroker.types import TopicPartition

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
FIRST_TIMESTAMP_MS = 1_700_000_000_000


def write_records(broker: Broker, topic: str, partitions: int, first: int, count: int) -> list[dict[str, Any]]:
    """Some batches of each codec; answers each record as it must be read again."""
    written = []
    for number in range(first, first + count):
        codec = CODECS[number % len(CODECS)]
        with Producer(broker.server, compression_type=None if codec == "none" else codec) as producer:
            for place in range(3):
                value = f"{topic} {number}/{place} ".encode() * 8
                sent = producer.send(
                    topic,
                    value,
                    key=f"key-{number % 4}".encode(),
                    partition=number % partitions,
                    timestamp_ms=FIRST_TIMESTAMP_MS + 1000 * number + place,
                    headers=[("codec", codec.encode()), ("again", b"1"), ("again", b"2")],
                )
                facts = sent.get(timeout=10)
                written.append(
                    {
                        "topic": topic,
                        "partition": facts.partition,
                        "offset": facts.offset,
                        "timestamp_ms": FIRST_TIMESTAMP_MS + 1000 * number + place,
                        "key": f"key-{number % 4}",
                        "value": value.decode(),
                    }
                )
    return written


def write_groups(broker: Broker) -> dict[str, Any]:
    """A native group, a classic one of a Kafka client, and what they have committed."""
    with Consumer("orders", server=broker.server, group="kitchen", auto_offset_reset="earliest") as consumer:
        read = 0
        while read < 20:
            read += sum(map(len, consumer.poll(timeout_ms=1000).values()))
        while True:
            try:
                consumer.commit()
            except KbrokerError:
                continue
            break
        native = {str(index): consumer.position(TopicPartition("orders", index)) for index in range(4)}
    classic = KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers,
        group_id="bakery",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    classic.subscribe(["settings"])
    while not classic.poll(timeout_ms=1000):
        pass
    classic.commit()
    committed = classic.committed(KafkaTopicPartition("settings", 0))
    classic.close()
    return {
        "kitchen": {"topic": "orders", "offsets": native},
        "bakery": {"topic": "settings", "offsets": {"0": committed}},
    }


def alter_broker(broker: Broker, name: str, value: str) -> None:
    """Alter a setting of node 1, which is worker 0, while it runs."""
    admin: Any = importlib.import_module("confluent_kafka.admin")  # what it has is not typed
    change = admin.ConfigEntry(name, value, incremental_operation=admin.AlterConfigOpType.SET)
    resource = admin.ConfigResource(admin.ResourceType.BROKER, "1", incremental_configs=[change])
    client = admin.AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    client.incremental_alter_configs([resource])[resource].result(10)


def pack(folder: Path, into: Path) -> None:
    """The whole data folder as a tar file, without what tells who made it."""

    def nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return info

    with tarfile.open(into, "w:xz") as tar:
        tar.add(folder, "data", filter=nobody)


def main(into: Path) -> None:
    """Write both folders and what is expected in them."""
    with Broker(workers=2) as broker:
        with Admin(broker.server) as admin:
            small = {"segment_index_bytes": 64, "index_interval_bytes": 1, "retention_ms": -1}
            admin.create_topic("orders", num_partitions=4, **small)
            admin.create_topic("settings", num_partitions=1, retention_ms=-1)
            admin.create_topic("compacted", num_partitions=1, cleanup_policy="compact")
            admin.create_topic("gone", num_partitions=2)
        records = write_records(broker, "orders", 4, 0, 60)
        records += write_records(broker, "settings", 1, 0, 6)
        records += write_records(broker, "compacted", 1, 0, 6)
        write_records(broker, "gone", 2, 0, 4)
        with Admin(broker.server) as admin:
            admin.alter_configs("settings", {"max.message.bytes": 123_456})
            admin.delete_topics(["gone"])
            deleted_before = 6
            admin.delete_records({TopicPartition("settings", 0): deleted_before})
        groups = write_groups(broker)
        alter_broker(broker, "log.retention.ms", "86400001")
        broker.stop()
        pack(broker.data_dir, into / "clean.tar.xz")
        clean = len(records)
        broker.start()
        records += write_records(broker, "orders", 4, 60, 20)
        time.sleep(1.5)  # a recovery point between the first and the last of these records
        records += write_records(broker, "orders", 4, 80, 8)
        broker.kill_all()
        pack(broker.data_dir, into / "killed.tar.xz")
    expected = {
        "records": records,
        "clean_records": clean,
        "log_start": {"settings": {"0": deleted_before}},
        "groups": groups,
        "topics": {"orders": 4, "settings": 1, "compacted": 1},
        "deleted": ["gone"],
        "topic_settings": {
            "orders": {"segment.index.bytes": "64"},
            "settings": {"max.message.bytes": "123456"},
            "compacted": {"cleanup.policy": "compact"},
        },
        "broker_settings": {"log.retention.ms": "86400001"},
    }
    (into / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
