"""Metadata answers out of parts that were encoded before: a topic's part once for each version, until it changes.

The nodes, whose addresses depend on who asks, are encoded anew for each answer: they are few. What `metadata.answer`
and the compiled writer make is the reference for the bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache
from struct import Struct as Packing
from typing import Any, NamedTuple

from kbroker.kafka import metadata
from kbroker.kafka.apis import ApiKey, api_for
from kbroker.kafka.cluster import Cluster
from kbroker.kafka.schema import load
from kbroker.kafka.writer import Writer, compile_writer, varint

_COUNT = Packing(">i").pack
_HEAD = Packing(">ii").pack  # size of what follows, correlation id


class _Parts(NamedTuple):
    """The writers of what stands before the topics, of one topic, and of what stands behind them."""

    before: Writer
    topic: Writer
    behind: Writer
    is_flexible: bool


@cache
def _parts(version: int) -> _Parts:
    struct = load(api_for(ApiKey.METADATA), version, "response")
    (number,) = (number for number, field in enumerate(struct.fields) if field.name == "topics")
    topic = struct.fields[number].struct
    assert topic is not None
    assert not struct.tagged, "the tagged fields' count stands for itself"
    label = f"Metadata v{version} response"
    return _Parts(
        compile_writer(label, dataclasses.replace(struct, fields=struct.fields[:number])),
        compile_writer(label, topic),
        compile_writer(label, dataclasses.replace(struct, fields=struct.fields[number + 1 :])),
        struct.flexible,
    )


class _Shape(NamedTuple):
    """What a topic's part depends on besides the topic."""

    version: int
    operations: int


class MetadataAnswers:
    """What a node answers to Metadata. Whoever changes what is known of a topic says so by `forget`."""

    def __init__(self) -> None:
        self._topics: dict[_Shape, dict[str, bytes]] = {}
        self._everything: dict[_Shape, bytes] = {}

    def forget(self, topics: Iterable[str]) -> None:
        """These have changed, or are no more."""
        self._everything.clear()
        for name in topics:
            for known in self._topics.values():
                known.pop(name, None)

    def encode(
        self,
        request: Any,
        version: int,
        correlation_id: int,
        cluster: Cluster,
        refused: Mapping[str, int] | None = None,
    ) -> bytes:
        """The whole answer, its size and header first; as `metadata.answer`."""
        parts = _parts(version)
        head = bytearray(_HEAD(0, correlation_id))
        if parts.is_flexible:
            head += b"\0"
        (out,) = parts.before(metadata.frame_of(request, cluster), head)
        if parts.is_flexible:
            del out[-1:]  # the count of tagged fields comes at the very end
        out += self._encode_topics(request, version, cluster, refused or {})
        parts.behind(metadata.frame_of(request, cluster), out)
        out[:4] = _COUNT(len(out) - 4)
        return bytes(out)

    def _encode_topics(self, request: Any, version: int, cluster: Cluster, refused: Mapping[str, int]) -> bytes:
        shape = _Shape(version, metadata.topic_operations(request))
        if not metadata.wants_all(request, version):
            items = metadata.asked_once(request)
            return _array(version, [self._asked(shape, item, cluster, refused) for item in items])
        found = self._everything.get(shape)
        if found is None:
            names = sorted(cluster.topics)
            found = self._everything[shape] = _array(version, [self._of(shape, name, cluster) for name in names])
        return found

    def _asked(self, shape: _Shape, item: Any, cluster: Cluster, refused: Mapping[str, int]) -> bytes:
        name = metadata.name_of(item, cluster)
        if name is not None and name in cluster.topics:
            return self._of(shape, name, cluster)
        # Names that are not there are not remembered: clients make up as many as they like.
        return _encoded(shape, metadata.not_there(item, shape.version, name, refused))

    def _of(self, shape: _Shape, name: str, cluster: Cluster) -> bytes:
        known = self._topics.setdefault(shape, {})
        found = known.get(name)
        if found is None:
            found = known[name] = _encoded(shape, metadata.described(cluster.topics[name], cluster))
        return found


def _encoded(shape: _Shape, topic: Any) -> bytes:
    topic.topic_authorized_operations = shape.operations
    return bytes(_parts(shape.version).topic(topic, bytearray())[0])


def _array(version: int, encoded: list[bytes]) -> bytes:
    count = varint(len(encoded) + 1) if _parts(version).is_flexible else _COUNT(len(encoded))
    return b"".join([count, *encoded])
