"""Consumer groups: how soon many members settle, what idle groups cost, how long their offsets are read at start."""

from __future__ import annotations

import selectors
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kbroker.config import Config, ServerConfig
from kbroker.groups.committed import Committed, Place, encode_key, encode_value
from kbroker.groups.groups import Groups
from kbroker.groups.settings import GroupSettings
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey, api_for
from kbroker.log.storage import DISK
from kbroker.records.codec import BatchBuilder
from kbroker.testing import Broker
from kbroker.workers.offsets_log import open_offsets, stored_records
from perf.cost import broker_cpu_s
from perf.figure import Figure
from perf.topics import topic

MEMBERS = 200
HEARTBEAT_S = 0.5
IDLE_GROUPS = 1_000
OFFSETS = 100_000
SETTLE_MAX_S = 60.0
_MEMBER_ID_REQUIRED = 79
_REBALANCE_IN_PROGRESS = 27


class Simulated:
    """A member on a connection of its own; `receive` is called when an answer may be there, `tick` now and then."""

    def __init__(self, port: int, group: str, topic_name: str, number: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.group = group
        self.topic = topic_name
        self.member_id = f"member-{number}"
        self.beat_s = 0.0
        self._is_waiting = False
        self._api = ApiKey.HEARTBEAT
        self._version = 0
        self._buffer = bytearray()

    def ask(self, api: ApiKey, version: int, **fields: Any) -> None:
        """Send one request; there is never more than one on its way."""
        message = getattr(codec.request_types(api), f"{api_for(api).name}Request")(**fields)
        self._api, self._version, self._is_waiting = api, version, True
        self.socket.sendall(b"".join(codec.write_request(api, version, 1, "perf", message)))

    def receive(self) -> None:
        """Take what is there; a whole answer is acted upon."""
        chunk = self.socket.recv(1 << 20)
        assert chunk, "the broker has hung up"
        self._buffer += chunk
        if len(self._buffer) < 4 or len(self._buffer) < 4 + struct.unpack_from(">i", self._buffer)[0]:
            return
        skipped = 8 + api_for(self._api).response_header_version(self._version)
        answer = codec.read_response(self._api, self._version, memoryview(bytes(self._buffer[skipped:])))
        self._buffer.clear()
        self._is_waiting = False
        self.answered(self._api, answer)

    def tick(self, now_s: float) -> None:
        """Send a heartbeat when it is time."""
        if not self._is_waiting and now_s - self.beat_s >= HEARTBEAT_S:
            self.beat_s = now_s
            self.beat()

    def start(self) -> None: ...

    def beat(self) -> None: ...

    def answered(self, api: ApiKey, answer: Any) -> None: ...

    def state(self) -> tuple[int, int]:
        """Generation or epoch, and how many partitions it has; (-1, 0) while it is not settled."""
        raise NotImplementedError


class ClassicMember(Simulated):
    """Eager: whoever leads gives everybody one partition."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.member_id = ""
        self._generation = -1
        self._is_settled = False

    def state(self) -> tuple[int, int]:
        return (self._generation, 1) if self._is_settled else (-1, 0)

    def start(self) -> None:
        self._is_settled = False
        protocol = codec.request_types(ApiKey.JOIN_GROUP).JoinGroupRequestProtocol(name="range", metadata=bytes(40))
        self.ask(
            ApiKey.JOIN_GROUP, 9, group_id=self.group, session_timeout_ms=30_000, rebalance_timeout_ms=30_000,
            member_id=self.member_id, protocol_type="consumer", protocols=[protocol],
        )  # fmt: skip

    def beat(self) -> None:
        self.ask(
            ApiKey.HEARTBEAT, 4, group_id=self.group, member_id=self.member_id, generation_id=self._generation
        )  # fmt: skip

    def answered(self, api: ApiKey, answer: Any) -> None:
        if api == ApiKey.JOIN_GROUP:
            self.member_id = answer.member_id
            if answer.error_code == _MEMBER_ID_REQUIRED:
                self.start()
                return
            assert answer.error_code == 0, answer.error_code
            self._generation = answer.generation_id
            given = codec.request_types(ApiKey.SYNC_GROUP).SyncGroupRequestAssignment
            self.ask(
                ApiKey.SYNC_GROUP, 5, group_id=self.group, member_id=self.member_id, generation_id=self._generation,
                protocol_type="consumer", protocol_name="range",
                assignments=[given(member_id=other.member_id, assignment=bytes(40)) for other in answer.members],
            )  # fmt: skip
        elif answer.error_code == _REBALANCE_IN_PROGRESS:
            self.start()
        else:
            assert answer.error_code == 0, answer.error_code
            if api == ApiKey.SYNC_GROUP:
                self.beat_s = time.perf_counter()
            self._is_settled = True


class ConsumerMember(Simulated):
    """KIP-848."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._epoch = 0
        self._owned: list[Any] = []
        self._has_changed = False

    def state(self) -> tuple[int, int]:
        return self._epoch, sum(len(item.partitions) for item in self._owned)

    def start(self) -> None:
        self.ask(
            ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, group_id=self.group, member_id=self.member_id, member_epoch=0,
            rebalance_timeout_ms=30_000, subscribed_topic_names=[self.topic], topic_partitions=[],
        )  # fmt: skip

    def beat(self) -> None:
        place = codec.request_types(ApiKey.CONSUMER_GROUP_HEARTBEAT).TopicPartitions
        owned = [place(topic_id=item.topic_id, partitions=item.partitions) for item in self._owned]
        self.ask(
            ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, group_id=self.group, member_id=self.member_id,
            member_epoch=self._epoch, topic_partitions=owned if self._has_changed else None,
        )  # fmt: skip
        self._has_changed = False

    def answered(self, api: ApiKey, answer: Any) -> None:
        assert answer.error_code == 0, (api, answer.error_message)
        self._epoch = answer.member_epoch
        if answer.assignment is not None:
            self._owned, self._has_changed = list(answer.assignment.topic_partitions), True
            self.beat_s = 0.0  # what was given up or taken is told at once


def groups(broker: Broker) -> list[Figure]:
    """All figures that want a broker of its own."""
    with topic(broker, MEMBERS) as name:
        return [
            Figure(f"{MEMBERS} classic members settle", _settle_s(broker, ClassicMember, name), "s", 3.0),
            Figure(f"{MEMBERS} KIP-848 members settle", _settle_s(broker, ConsumerMember, name), "s", 3.0),
            *_idle(broker, name),
        ]


def _settle_s(broker: Broker, kind: type[Simulated], topic_name: str) -> float:
    """From the last join until all are of one generation and every partition has an owner."""
    members = _members(broker, kind, topic_name, [kind.__name__] * MEMBERS)
    for member in members:
        member.start()
    began = time.perf_counter()

    def settled() -> bool:
        states = [member.state() for member in members]
        return len({epoch for epoch, _ in states}) == 1 and all(count == 1 for _, count in states)

    try:
        _drive(members, settled)
        return time.perf_counter() - began
    finally:
        for member in members:
            member.socket.close()


def _members(broker: Broker, kind: type[Simulated], topic_name: str, names: list[str]) -> list[Simulated]:
    port = int(broker.bootstrap_servers.rpartition(":")[2])
    return [kind(port, name, topic_name, number) for number, name in enumerate(names)]


def _drive(members: list[Simulated], until: Callable[[], bool]) -> None:
    selector = selectors.DefaultSelector()
    for member in members:
        selector.register(member.socket, selectors.EVENT_READ, member)
    deadline_s = time.perf_counter() + SETTLE_MAX_S
    while not until():
        assert time.perf_counter() < deadline_s, "the group does not settle"
        for key, _ in selector.select(0.02):
            key.data.receive()
        now_s = time.perf_counter()
        for member in members:
            member.tick(now_s)
    selector.close()


def _idle(broker: Broker, topic_name: str, seconds: float = 10.0) -> list[Figure]:
    """Groups of one member each, which say once in three seconds that they are there; and without members."""
    names = [f"idle-{number}" for number in range(IDLE_GROUPS)]
    members = _members(broker, ConsumerMember, topic_name, names)
    for member in members:
        member.start()
    _drive(members, lambda: all(member.state()[0] > 0 for member in members))
    over_s = time.perf_counter() + 3  # let what was given be acknowledged
    _drive(members, lambda: time.perf_counter() > over_s)
    for number, member in enumerate(members):  # from now on evenly spread
        member.beat_s = time.perf_counter() - HEARTBEAT_S + number * 3.0 / IDLE_GROUPS
    before, began = broker_cpu_s(broker), time.perf_counter()
    _beat_slowly(members, began + seconds)
    beating = (broker_cpu_s(broker) - before) / (time.perf_counter() - began)
    for member in members:
        member.socket.close()
    time.sleep(2)  # the groups notice that their members have gone
    before, began = broker_cpu_s(broker), time.perf_counter()
    time.sleep(seconds)  # what is measured: nothing happens
    idle = (broker_cpu_s(broker) - before) / (time.perf_counter() - began)
    return [
        Figure(f"{IDLE_GROUPS} groups of one member that beats every 3 s: CPU", beating * 100, "%"),
        Figure(f"{IDLE_GROUPS} idle groups: CPU", idle * 100, "%", 1.0),
    ]


def _beat_slowly(members: list[Simulated], until_s: float) -> None:
    """One heartbeat at a time, so that each member has one in three seconds."""
    pause_s = 3.0 / len(members)
    while True:
        for member in members:
            if time.perf_counter() > until_s:
                return
            member.beat()
            member.receive()
            time.sleep(pause_s)  # the pace of the heartbeats


def replay() -> list[Figure]:
    """100,000 committed offsets, read as at start: CPU time, because that is what it takes."""
    alone = _replay_s(1)
    packed = _replay_s(1_000)
    return [
        Figure(f"{OFFSETS} committed offsets read at start, each committed alone", alone, "s", 2.0),
        Figure(f"{OFFSETS} committed offsets read at start, compacted", packed, "s", 2.0),
    ]


class _NoTopics:
    def partition_count(self, name: str) -> int | None: ...

    def id_of(self, name: str) -> bytes | None: ...

    def name_of(self, topic_id: bytes) -> str | None: ...

    def names(self) -> list[str]:
        return []


def _replay_s(batch_records: int) -> float:
    with tempfile.TemporaryDirectory(prefix="kbroker-perf-") as folder:
        config = Config(server=ServerConfig(data_dir=folder))
        now_ms = time.time_ns() // 1_000_000
        Path(folder).mkdir(exist_ok=True)
        log = open_offsets(config, now_ms, DISK, distrust_cache=False)
        for first in range(0, OFFSETS, batch_records):
            builder = BatchBuilder(batch_bytes=1 << 24)
            for number in range(first, first + batch_records):
                place = Place(f"group-{number // 10}", "a-topic-of-usual-name", number % 10)
                builder.append(now_ms, encode_key(place), encode_value(Committed(number, 1, "", now_ms)))
            log.append(builder.build(), now_ms, sync=False)
        log.close(now_ms)
        began = time.process_time()
        log = open_offsets(config, now_ms, DISK, distrust_cache=False)
        found = Groups(GroupSettings(), _NoTopics())
        for record in stored_records(log):
            found.replay(record, now_ms)
        found.loaded(now_ms)
        taken = time.process_time() - began
        log.close(now_ms)
        return taken
