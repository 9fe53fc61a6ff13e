"""Fetch sessions (KIP-227): by examples, and against a model in which every request names all partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.fetch import FetchedPartition
from kbroker.kafka.fetch_request import of_message
from kbroker.kafka.fetch_sessions import (
    FETCH_SESSION_ID_NOT_FOUND,
    FETCH_SESSION_TOPIC_ID_ERROR,
    INVALID_FETCH_SESSION_EPOCH,
    FetchSessions,
    Result,
)

TYPES = codec.request_types(ApiKey.FETCH)
NAMES = {b"a" * 16: "a", b"b" * 16: "b"}
MINUTES_MS = 60_000
EVICT_MS = 2 * MINUTES_MS

Partition = tuple[str, int]


class Batches:
    """Records up to an offset."""

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self.size_bytes = 1


def numbers() -> Callable[[], int]:
    """Session ids from 1 on."""
    return count(1).__next__


def request(
    session_id: int,
    epoch: int,
    wanted: dict[Partition, int] | Iterable[Partition] = (),
    forgotten: Iterable[Partition] = (),
    *,
    by_id: bool = False,
) -> Any:
    """A fetch of those partitions from those offsets."""
    topics: dict[str, Any] = {}
    for (name, index), offset in (wanted if isinstance(wanted, dict) else dict.fromkeys(wanted, 0)).items():
        named = {"topic_id": name[0].encode() * 16} if by_id else {"topic": name}
        topic = topics.setdefault(name, TYPES.FetchTopic(partitions=[], **named))
        topic.partitions.append(TYPES.FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=100))
    gone = []
    for name, index in forgotten:
        named = {"topic_id": name[0].encode() * 16} if by_id else {"topic": name}
        gone.append(TYPES.ForgottenTopic(partitions=[index], **named))
    return TYPES.FetchRequest(
        session_id=session_id, session_epoch=epoch, topics=list(topics.values()), forgotten_topics_data=gone
    )


@dataclass
class Broker:
    """Partitions with a log end each, and the sessions under test."""

    sessions: FetchSessions = field(default_factory=lambda: FetchSessions(3, numbers(), evict_ms=EVICT_MS))
    ends: dict[Partition, int] = field(default_factory=dict)
    starts: dict[Partition, int] = field(default_factory=dict)
    now_ms: int = 0
    names: dict[bytes, str] = field(default_factory=lambda: dict(NAMES))

    def fetch(self, asked: Any, version: int = 12) -> Result:
        fetching = self.sessions.open(of_message(asked), version, self.names.get, self.now_ms)
        return fetching.result([self.look_up(wanted) for wanted in fetching.partitions], self.now_ms)

    def look_up(self, wanted: Any) -> FetchedPartition[Batches]:
        answer: FetchedPartition[Batches] = FetchedPartition(wanted.topic, wanted.topic_id, wanted.partition)
        end = self.ends.get((wanted.topic, wanted.partition))
        if end is None:
            answer.fail(3 if wanted.topic else 100)
            return answer
        answer.high_watermark = end
        answer.log_start_offset = self.starts.get((wanted.topic, wanted.partition), 0)
        if wanted.fetch_offset < end:
            answer.records = Batches(end)
        return answer

    def begin(self, wanted: Iterable[Partition], version: int = 12) -> int:
        """A new session; 0: there was no room."""
        return self.fetch(request(0, 0, wanted, by_id=version >= 13), version).session_id


def shown(result: Result) -> list[tuple[str, int, int]]:
    return [(item.topic, item.index, item.error_code) for item in result.shown]


def test_a_session_answers_only_what_is_new() -> None:
    broker = Broker(ends={("a", 0): 5, ("a", 1): 0, ("b", 0): 7})
    first = broker.fetch(request(0, 0, {("a", 0): 0, ("a", 1): 0, ("b", 0): 7}))
    assert (first.error_code, first.session_id) == (0, 1)
    assert shown(first) == [("a", 0, 0), ("a", 1, 0), ("b", 0, 0)]
    assert shown(broker.fetch(request(1, 1, {("a", 0): 5}))) == []
    broker.ends["a", 1] = 3
    second = broker.fetch(request(1, 2))
    assert shown(second) == [("a", 1, 0)]
    assert second.session_id == 1
    broker.starts["b", 0] = 2
    assert shown(broker.fetch(request(1, 3, {("a", 1): 3}))) == [("b", 0, 0)]
    assert shown(broker.fetch(request(1, 4))) == []


def test_errors_are_always_answered_and_so_is_their_end() -> None:
    broker = Broker(ends={("a", 0): 5})
    broker.fetch(request(0, 0, {("a", 0): 5, ("b", 0): 0}))
    assert shown(broker.fetch(request(1, 1))) == [("b", 0, 3)]
    assert shown(broker.fetch(request(1, 2))) == [("b", 0, 3)]
    broker.ends["b", 0] = 0
    assert shown(broker.fetch(request(1, 3))) == [("b", 0, 0)]
    assert shown(broker.fetch(request(1, 4))) == []


def test_who_got_records_comes_last_the_next_time() -> None:
    broker = Broker(ends={("a", 0): 5, ("a", 1): 0, ("b", 0): 0})
    broker.fetch(request(0, 0, [("a", 0), ("a", 1), ("b", 0)]))
    broker.fetch(request(1, 1))
    fetching = broker.sessions.open(of_message(request(1, 2)), 12, NAMES.get, 0)
    assert [(item.topic, item.partition) for item in fetching.partitions] == [("a", 1), ("b", 0), ("a", 0)]


def test_forgotten_partitions_and_the_end_of_a_session_that_has_none_left() -> None:
    broker = Broker(ends={("a", 0): 5, ("a", 1): 5})
    broker.fetch(request(0, 0, [("a", 0), ("a", 1)]))
    assert shown(broker.fetch(request(1, 1, (), [("a", 0), ("b", 9)]))) == [("a", 1, 0)]
    last = broker.fetch(request(1, 2, (), [("a", 1)]))
    assert (last.error_code, last.session_id, last.shown) == (0, 0, [])
    assert broker.fetch(request(1, 3)).error_code == FETCH_SESSION_ID_NOT_FOUND
    assert (len(broker.sessions), broker.sessions.partition_count) == (0, 0)


@pytest.mark.parametrize(
    ("session_id", "epoch", "version", "code"),
    [
        (9, 1, 12, FETCH_SESSION_ID_NOT_FOUND),
        (0, 1, 12, FETCH_SESSION_ID_NOT_FOUND),
        (1, 2, 12, INVALID_FETCH_SESSION_EPOCH),
        (1, 2**31 - 1, 12, INVALID_FETCH_SESSION_EPOCH),
        (1, -2, 12, INVALID_FETCH_SESSION_EPOCH),
        (1, 1, 13, FETCH_SESSION_TOPIC_ID_ERROR),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(session_id: int, epoch: int, version: int, code: int) -> None:
    broker = Broker(ends={("a", 0): 5})
    broker.begin([("a", 0)])
    refused = broker.fetch(request(session_id, epoch, [("b", 0)], by_id=version >= 13), version)
    assert (refused.error_code, refused.session_id, refused.shown) == (code, 0, [])
    assert shown(broker.fetch(request(1, 1))) == [("a", 0, 0)]


def test_epochs_go_round() -> None:
    broker = Broker(ends={("a", 0): 5})
    broker.begin([("a", 0)])
    broker.sessions._by_id[1].next_epoch = 2**31 - 1
    assert broker.fetch(request(1, 2**31 - 1)).error_code == 0
    assert broker.fetch(request(1, 1)).error_code == 0


def test_a_full_fetch_ends_the_session_that_it_names() -> None:
    broker = Broker(ends={("a", 0): 5})
    broker.begin([("a", 0)])
    assert broker.fetch(request(1, 0, [("a", 0)])).session_id == 2
    assert broker.fetch(request(1, 1)).error_code == FETCH_SESSION_ID_NOT_FOUND
    assert broker.fetch(request(2, -1, [("a", 0)])).session_id == 0
    assert broker.fetch(request(2, 1)).error_code == FETCH_SESSION_ID_NOT_FOUND


def test_without_a_session_none_is_begun() -> None:
    broker = Broker(ends={("a", 0): 5})
    assert shown(broker.fetch(request(0, -1, [("a", 0)]))) == [("a", 0, 0)]
    assert len(broker.sessions) == 0


def test_a_session_may_begin_without_partitions() -> None:
    broker = Broker(ends={("a", 0): 5})
    assert broker.begin([]) == 1
    assert shown(broker.fetch(request(1, 1, [("a", 0)]))) == [("a", 0, 0)]


def test_an_answer_that_comes_after_the_next_request_is_told_so() -> None:
    broker = Broker(ends={("a", 0): 5})
    broker.begin([("a", 0)])
    parked = broker.sessions.open(of_message(request(1, 1)), 12, NAMES.get, 0)
    assert broker.fetch(request(1, 2)).error_code == 0
    late = parked.result([broker.look_up(wanted) for wanted in parked.partitions], 0)
    assert (late.error_code, late.session_id, late.shown) == (INVALID_FETCH_SESSION_EPOCH, 1, [])


def test_a_partition_named_twice_is_read_as_said_last() -> None:
    broker = Broker(ends={("a", 0): 5})
    twice = request(0, -1, {("a", 0): 0})
    twice.topics += request(0, -1, {("a", 0): 5}).topics
    (only,) = broker.fetch(twice).shown
    assert only.records is None


def test_a_topic_id_becomes_known_and_keeps_its_name() -> None:
    broker = Broker(ends={("a", 0): 5}, names={})
    assert shown(broker.fetch(request(0, 0, [("a", 0)], by_id=True), 13)) == [("", 0, 100)]
    broker.names = dict(NAMES)
    assert shown(broker.fetch(request(1, 1, by_id=True), 13)) == [("a", 0, 0)]
    # Deleted, and perhaps made anew with another id: the session goes on under the name, and whoever looks the
    # partition up compares the ids.
    broker.names = {}
    fetching = broker.sessions.open(of_message(request(1, 2, by_id=True)), 13, broker.names.get, 0)
    assert [(item.topic, item.topic_id) for item in fetching.partitions] == [("a", b"a" * 16)]


# --- eviction ---


def test_full_of_young_sessions_takes_no_more() -> None:
    broker = Broker()
    assert [broker.begin([("a", 0)]) for _ in range(3)] == [1, 2, 3]
    assert broker.begin([("a", index) for index in range(9)]) == 0
    assert broker.fetch(request(2, 1)).error_code == 0


def test_the_session_that_was_unused_for_long_gives_way() -> None:
    broker = Broker()
    for _ in range(3):
        broker.begin([("a", 0)])
    broker.now_ms = EVICT_MS
    assert broker.fetch(request(1, 1)).error_code == 0
    assert broker.begin([("a", 0)]) == 0
    broker.now_ms = EVICT_MS + 1
    assert broker.begin([("a", 0)]) == 4
    assert broker.fetch(request(2, 1)).error_code == FETCH_SESSION_ID_NOT_FOUND
    assert broker.fetch(request(1, 2)).error_code == 0


def test_a_small_old_session_gives_way_to_a_larger_one_only() -> None:
    broker = Broker()
    for size in (2, 1, 3):
        broker.begin([("a", index) for index in range(size)])
    broker.now_ms = EVICT_MS + 1
    for session_id in (1, 2, 3):
        assert broker.fetch(request(session_id, 1)).error_code == 0
    assert broker.begin([("b", 0)]) == 0, "as large as the smallest is not larger"
    assert broker.begin([("b", 0), ("b", 1)]) == 4
    assert broker.fetch(request(2, 2)).error_code == FETCH_SESSION_ID_NOT_FOUND
    assert broker.begin([("b", 0), ("b", 1)]) == 0, "the new one is young, the rest as large"
    assert broker.fetch(request(1, 2)).error_code == broker.fetch(request(3, 2)).error_code == 0


def test_no_slots_no_sessions() -> None:
    broker = Broker(FetchSessions(0, numbers()))
    assert broker.begin([("a", 0)]) == 0


def test_partitions_of_all_sessions_are_bounded() -> None:
    broker = Broker(FetchSessions(3, numbers(), partitions_max=5))
    assert broker.begin([("a", index) for index in range(3)]) == 1
    assert broker.begin([("a", index) for index in range(3)]) == 0
    assert broker.fetch(request(1, 1, [("b", index) for index in range(3)])).error_code == FETCH_SESSION_ID_NOT_FOUND
    assert (len(broker.sessions), broker.sessions.partition_count) == (0, 0)


def test_an_id_in_use_is_not_given_again() -> None:
    given = iter([7, 7, 8])
    broker = Broker(FetchSessions(3, lambda: next(given)))
    assert [broker.begin([("a", 0)]), broker.begin([("a", 0)])] == [7, 8]


# --- against a model ---


@dataclass
class Client:
    """As a consumer does it: knows its session, and names only what has changed. `sees` is what it was last told."""

    session_id: int = 0
    epoch: int = 0
    reads: dict[Partition, int] = field(default_factory=dict)
    named: dict[Partition, int] = field(default_factory=dict)
    sees: dict[Partition, tuple[int, int, int]] = field(default_factory=dict)


partitions = st.tuples(st.sampled_from("ab"), st.integers(0, 3))


class Sessions(RuleBasedStateMachine):
    """Whatever happens, a client that fetches in a session has seen what a full fetch of the same shows."""

    @initialize(by_id=st.booleans())
    def start(self, by_id: bool) -> None:
        self.version = 13 if by_id else 12
        self.broker = Broker(
            FetchSessions(2, numbers(), evict_ms=EVICT_MS, partitions_max=12),
            {(name, index): 0 for name in "ab" for index in range(3)},
        )
        self.clients = [Client() for _ in range(4)]

    @rule(who=st.integers(0, 3), wanted=st.sets(partitions))
    def subscribe(self, who: int, wanted: set[Partition]) -> None:
        client = self.clients[who]
        client.reads = {partition: client.reads.get(partition, 0) for partition in wanted}

    @rule(partition=partitions)
    def append(self, partition: Partition) -> None:
        if partition in self.broker.ends:
            self.broker.ends[partition] += 1

    @rule(partition=partitions)
    def delete_records(self, partition: Partition) -> None:
        if partition in self.broker.ends:
            self.broker.starts[partition] = self.broker.ends[partition]

    @rule(partition=partitions)
    def come_or_go(self, partition: Partition) -> None:
        if self.broker.ends.pop(partition, None) is None:
            self.broker.ends[partition] = 0

    @rule(minutes=st.integers(0, 3))
    def time_goes_by(self, minutes: int) -> None:
        self.broker.now_ms += minutes * MINUTES_MS

    @precondition(lambda self: any(client.session_id for client in self.clients))
    @rule(who=st.integers(0, 3), step=st.sampled_from([-1, 1]))
    def a_wrong_epoch_is_refused(self, who: int, step: int) -> None:
        client = self.clients[who]
        if client.session_id and client.epoch + step > 0:
            result = self.broker.fetch(request(client.session_id, client.epoch + step), self.version)
            assert result.error_code in (INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_ID_NOT_FOUND)

    @rule(who=st.integers(0, 3), takes=st.booleans())
    def fetch(self, who: int, takes: bool) -> None:
        client, by_id = self.clients[who], self.version >= 13
        if client.session_id:
            changed = {p: offset for p, offset in client.reads.items() if client.named.get(p) != offset}
            forgotten = [p for p in client.named if p not in client.reads]
            asked = request(client.session_id, client.epoch, changed, forgotten, by_id=by_id)
        else:
            asked = request(0, 0, client.reads, by_id=by_id)
        result = self.broker.fetch(asked, self.version)
        if result.error_code:
            assert result.error_code == FETCH_SESSION_ID_NOT_FOUND
            client.session_id, client.named, client.sees = 0, {}, {}
            return
        assert result.session_id in (0, client.session_id) or client.session_id == 0
        client.named = dict(client.reads)
        client.sees = {partition: seen for partition, seen in client.sees.items() if partition in client.named}
        client.session_id, client.epoch = result.session_id, client.epoch + 1 if client.session_id else 1
        for answer in result.shown:
            partition = (answer.topic, answer.index)
            assert partition in client.reads
            client.sees[partition] = (answer.error_code, answer.high_watermark, answer.log_start_offset)
            if answer.records is not None and takes:
                client.reads[partition] = answer.records.next_offset
        everything = self.broker.fetch(request(0, -1, client.named, by_id=by_id), self.version)
        assert everything.session_id == 0
        full = {
            (item.topic, item.index): (item.error_code, item.high_watermark, item.log_start_offset)
            for item in everything.shown
        }
        assert client.sees == full
        with_records = {(item.topic, item.index) for item in everything.shown if item.records is not None}
        assert {(item.topic, item.index) for item in result.shown if item.records is not None} == with_records

    @invariant()
    def bounds_hold(self) -> None:
        sessions = self.broker.sessions
        assert len(sessions) <= 2
        assert sessions.partition_count == sum(len(s.partitions) for s in sessions._by_id.values()) <= 12


TestSessions = pytest.mark.slow(Sessions.TestCase)
TestSessions.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
