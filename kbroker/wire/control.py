"""Messages between the coordinator and the other processes, on `control.sock`.

Front and workers dial in and introduce themselves by an identity that holds their incarnation and the coordinator's
(see `identity`). Every message carries the incarnation of its sender; one from or for a dead incarnation is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgpack

from kbroker.errors import InvalidRequest
from kbroker.wire.messages import NodeInfo, TopicInfo
from kbroker.wire.schema import compile_message, to_map


@dataclass(slots=True)
class Join:
    """A process is up and wants the catalog. `node` -1: it is no node (the front)."""

    KIND: ClassVar[str] = "join"
    incarnation: int
    name: str
    node: int = -1
    endpoint: str = ""
    shm_path: str = ""


@dataclass(slots=True)
class RemovedInfo:
    """A deleted topic; `partitions` are those whose folders the receiver has to delete, or the sender has deleted."""

    name: str
    topic_id: bytes
    partitions: list[int] = field(default_factory=list)


@dataclass(slots=True)
class CatalogUpdate:
    """`full`: everything there is, replacing what the receiver knew; else only what changed.

    `altered` are all broker settings that were altered while it runs, as they are for the receiver.
    """

    KIND: ClassVar[str] = "catalog"
    incarnation: int
    version: int
    full: bool
    topics: list[TopicInfo]
    removed: list[RemovedInfo]
    nodes: list[NodeInfo]
    altered: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class OwnedPartition:
    topic: str
    partition: int
    leader_epoch: int


@dataclass(slots=True)
class CatalogAck:
    """All of that version has been done: partitions opened (with their new epochs), folders deleted.

    `failed`: what could not be done, as `TOPIC-N` → why.
    """

    KIND: ClassVar[str] = "ack"
    incarnation: int
    version: int
    owned: list[OwnedPartition] = field(default_factory=list)
    removed: list[RemovedInfo] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Opened:
    """A partition that had failed to open is open now."""

    KIND: ClassVar[str] = "opened"
    incarnation: int
    owned: list[OwnedPartition] = field(default_factory=list)


@dataclass(slots=True)
class KafkaForward:
    """A Kafka request that a worker's client sent and the coordinator answers.

    `host`: where the client reached the worker; `client_address`: the client's own HOST:PORT, as the worker sees it.
    """

    KIND: ClassVar[str] = "kafka"
    incarnation: int
    number: int
    host: str
    api_key: int
    version: int
    correlation_id: int
    client_id: str
    client_address: str
    body: bytes


@dataclass(slots=True)
class KafkaForwarded:
    """The whole response to a KafkaForward of that number; empty: hang up on the client, and log `why`."""

    KIND: ClassVar[str] = "kafka-answer"
    incarnation: int
    number: int
    response: bytes
    why: str = ""


_DECODERS = {
    cls.KIND: compile_message(cls) for cls in (Join, CatalogUpdate, CatalogAck, Opened, KafkaForward, KafkaForwarded)
}


def encode_control(message: Any) -> bytes:
    """One frame for a message of this module."""
    packed: bytes = msgpack.packb({"kind": message.KIND, **to_map(message)})
    return packed


def decode_control(frame: bytes | memoryview) -> Any:
    """The message in a frame. Raises InvalidRequest."""
    try:
        fields = msgpack.unpackb(frame)
        decoder = _DECODERS[fields["kind"]]
    except Exception as error:  # msgpack raises many kinds; all mean the same
        raise InvalidRequest(f"not a control message: {error!r:.200}") from None
    return decoder(fields, fields["kind"])


def identity(name: str, incarnation: int, dialled: int) -> bytes:
    """The name of one incarnation of a process at one incarnation of the process that it dials: what it introduces
    itself by.

    A link that was meant for a dead process may reach its successor, whose listener is the same. What it says is known
    by its name not to be for that one.
    """
    return f"{name}:{incarnation}:{dialled}".encode()


def process_named(name: bytes) -> str:
    """The process in an identity, `worker-0`; "" when it is none."""
    parts = name.decode("utf-8", "replace").split(":")
    return parts[0] if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal() else ""
