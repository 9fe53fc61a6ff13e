"""A Kafka client that sends exactly what a test says, and shows exactly what comes back."""

from __future__ import annotations

import socket
import struct
import time
from types import TracebackType
from typing import Any, Self

from kbroker.kafka import codec
from kbroker.kafka.apis import BY_KEY, ApiKey
from kbroker.records.codec import BatchBuilder
from kbroker.testing import Broker

PATIENCE_S = 20


def port_of(broker: Broker, node: int) -> int:
    """Where that node listens."""
    return int(broker.status()["listeners"][f"kafka-{node}"].rpartition(":")[2])


class KafkaClient:
    """One connection to one node: of a broker, or at a port of this host."""

    def __init__(self, where: Broker | int, node: int) -> None:
        self.node = node
        port = where if isinstance(where, int) else port_of(where, node)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.settimeout(PATIENCE_S)
        self._number = 0
        self._asked: list[tuple[int, int]] = []
        self.ask(ApiKey.API_VERSIONS, 0, codec.request_types(ApiKey.API_VERSIONS).ApiVersionsRequest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def send(self, api_key: int, version: int, request: Any) -> None:
        """Ask, and do not wait for the answer."""
        self.send_at_once((api_key, version, request))

    def send_at_once(self, *requests: tuple[int, int, Any]) -> None:
        """Several requests, each with its API and version, by one call: they arrive together."""
        frames = []
        for api_key, version, request in requests:
            self._number += 1
            self._asked.append((api_key, version))
            frames += codec.write_request(api_key, version, self._number, "a test", request)
        self._socket.sendall(b"".join(frames))

    def receive(self) -> Any:
        """The answer to the oldest request."""
        api_key, version = self._asked.pop(0)
        (size,) = struct.unpack(">i", self._exactly(4))
        frame = memoryview(self._exactly(size))
        assert struct.unpack_from(">i", frame)[0] == self._number - len(self._asked)
        return codec.read_response(
            api_key, version, frame[5 if BY_KEY[ApiKey(api_key)].response_header_version(version) else 4 :]
        )

    def ask(self, api_key: int, version: int, request: Any) -> Any:
        """The answer to a request."""
        self.send(api_key, version, request)
        return self.receive()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._socket.recv(size - len(data))
            if not chunk:
                raise ConnectionError("the broker has hung up")
            data += chunk
        return data

    # --- what many tests do ---

    def metadata(self, *topics: str) -> dict[str, Any]:
        """The topics as this node tells of them, by name."""
        types = codec.request_types(ApiKey.METADATA)
        asked = [types.MetadataRequestTopic(name=name) for name in topics] or None
        request = types.MetadataRequest(topics=asked, allow_auto_topic_creation=False)
        answer = self.ask(ApiKey.METADATA, 12, request)
        return {topic.name: topic for topic in answer.topics}

    def create(self, topic: str, partitions: int = 1, **settings: str) -> bytes:
        """A new topic; its id."""
        types = codec.request_types(ApiKey.CREATE_TOPICS)
        configs = [
            types.CreatableTopicConfig(name=name.replace("_", "."), value=value) for name, value in settings.items()
        ]
        new = types.CreatableTopic(name=topic, num_partitions=partitions, replication_factor=1, configs=configs)
        answer = self.ask(ApiKey.CREATE_TOPICS, 7, types.CreateTopicsRequest(topics=[new], timeout_ms=10_000))
        (created,) = answer.topics
        assert created.error_code == 0, created.error_message
        topic_id: bytes = created.topic_id
        return topic_id

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        types = codec.request_types(ApiKey.DELETE_TOPICS)
        answer = self.ask(ApiKey.DELETE_TOPICS, 4, types.DeleteTopicsRequest(topic_names=[topic], timeout_ms=10_000))
        assert answer.responses[0].error_code == 0

    def produce(self, topic: str, partition: int, *values: bytes, acks: int = -1, version: int = 9) -> Any:
        """One batch; what is answered for its partition."""
        return self.produce_bytes(topic, partition, batch(*values), acks=acks, version=version)

    def produce_bytes(self, topic: str, partition: int, records: bytes, *, acks: int = -1, version: int = 9) -> Any:
        """Any bytes for batches; what is answered for their partition."""
        self.send_bytes(topic, partition, records, acks=acks, version=version)
        return self.receive().responses[0].partition_responses[0]

    def send_bytes(self, topic: str, partition: int, records: bytes, *, acks: int = -1, version: int = 9) -> None:
        """Any bytes for batches; the answer is not waited for."""
        self.send(ApiKey.PRODUCE, version, produce_request(topic, partition, records, acks))


def produce_request(topic: str, partition: int, records: bytes, acks: int) -> Any:
    """A Produce request with any bytes for batches."""
    types = codec.request_types(ApiKey.PRODUCE)
    data = types.PartitionProduceData(index=partition, records=records)
    return types.ProduceRequest(
        acks=acks, timeout_ms=10_000, topic_data=[types.TopicProduceData(name=topic, partition_data=[data])]
    )


def now_ms() -> int:
    """What a producer stamps records with."""
    return time.time_ns() // 1_000_000


def batch(*values: bytes, timestamp_ms: int | None = None) -> bytes:
    """A record batch without keys, of now if no time is given."""
    builder = BatchBuilder(batch_bytes=1 << 20)
    if timestamp_ms is None:
        timestamp_ms = now_ms()
    for value in values:
        assert builder.append(timestamp_ms, None, value)
    return bytes(builder.build())
