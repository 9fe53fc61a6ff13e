"""The coordinator: topics and their settings, placement on workers, producer ids.

Every change goes one way: decided on the catalog (pure), committed to the store on the I/O thread, applied to the
catalog, sent to every process, and answered when all that live have acknowledged it.
"""

from __future__ import annotations

import gc
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kbroker.catalog.catalog import ALTERED, PRODUCER_IDS, TOPICS, Catalog, settings_in
from kbroker.catalog.opening import OpenCatalog, open_catalog
from kbroker.catalog.spare import SpareRoom
from kbroker.catalog.store import Change
from kbroker.catalog.topics import AUTO_CREATED_MAX, CHANGES_MAX
from kbroker.config import (
    TOPIC_SETTINGS,
    Config,
    Known,
    allowed,
    make_config,
    topic_log_config,
    topic_value,
    value_text,
)
from kbroker.errors import (
    InvalidReplicationFactor,
    InvalidRequest,
    KbrokerError,
    RequestError,
    RequestTimedOut,
    StartError,
    StorageError,
    ThrottlingQuotaExceeded,
    code_of,
)
from kbroker.types import COORDINATOR_NODE, NO_EPOCH, worker_node
from kbroker.wire import codec
from kbroker.wire import messages as m
from kbroker.wire.control import RemovedInfo
from kbroker.wording import counted
from kbroker.workers.caller import Caller
from kbroker.workers.change_log import ChangeLog
from kbroker.workers.child import ChildContext
from kbroker.workers.doors import Asked
from kbroker.workers.front_link import FrontDialler
from kbroker.workers.gathering import Gathering
from kbroker.workers.group_coordinator import GroupCoordinator
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.kafka_coordinator import KafkaCoordinator
from kbroker.workers.loop import Loop
from kbroker.workers.members import Members, topic_info
from kbroker.workers.native_groups import NativeGroups
from kbroker.workers.outages import Outage, outage_facts
from kbroker.workers.read_only_catalog import LOOK_MS, ReadOnlyStore, copied, refusal_of
from kbroker.workers.status_requests import StatusRequests
from kbroker.workers.stream_connection import Streams

log = logging.getLogger(__name__)

PRODUCER_ID_BLOCK = 1000
CHANGES_WAITING_MAX = 10_000
"""Changes that wait to be committed, one after another: with more, all of one more request are refused, retriable. Its
client may have gone, and the next one comes with as many."""
NOTICES_MAX = 5
NOTICE_MAX = 400
"""Of what was not as it should be at the start the status tells so many, and so many characters of each."""

Decide = Callable[[], list[Change]]
Done = Callable[[KbrokerError | None], None]
TakeId = Callable[[int, KbrokerError | None], None]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A change that waits for its turn. `caller`: who wants it; None: the broker itself."""

    decide: Decide
    done: Done
    timeout_ms: int
    caller: Caller | None = None


class Coordinator:
    """One coordinator process. `run()` returns when the supervisor asks for the end."""

    def __init__(self, child: ChildContext) -> None:
        self.child = child
        self.given: Config = child.config
        """The settings as the file and the flags have them, before what was altered."""
        self.config: Config = child.config
        self.loop = Loop()
        self.catalog = self._empty_catalog()
        self.refuses_changes = ""
        opened = self._open_catalog()
        self.store, self.copy, self._allocate = opened.store, opened.copy, opened.allocate
        self.config = make_config(self.catalog.altered_for(COORDINATOR_NODE), self.given)
        self.io = IoThreads(self.loop, 1, "store")
        self._spare = SpareRoom(self.config.data_dir)
        self.io.submit(self._spare.keep, lambda _result, _error: None)
        self.producer_ids = iter(range(0))
        self.wanting_ids: list[TakeId] = []
        self._epochs: dict[tuple[str, int], int] = {}
        self.changes: deque[_Wanted] = deque()
        self.change_log = ChangeLog(self.loop)
        self.is_committing = False
        self.streams = Streams(self.loop)
        self.members = Members(child, self.streams, self.catalog, self._owners_report)
        self.front = FrontDialler(child, self.streams, self._serve)
        self.groups = GroupCoordinator(self.config, self.catalog, self.loop, memory_deaths=child.memory_deaths)
        self.status = StatusRequests(self.config.runtime_dir, self.loop)
        self.kafka = KafkaCoordinator(self) if child.kafka_ports else None
        self._requests: dict[type, Callable[[Asked, Any], None]] = {
            m.Metadata: self._metadata,
            m.CreateTopics: self._create_topics,
            m.DeleteTopics: self._delete_topics,
            m.CreatePartitions: self._create_partitions,
            m.DescribeSettings: self._describe_settings,
            m.AlterSettings: self._alter_settings,
            m.InitProducerId: self._init_producer_id,
            m.BrokerStatus: self.status.serve,
            **NativeGroups(self.groups, self.change_log).requests,
        }

    # --- start and end ---

    def _empty_catalog(self) -> Catalog:
        nodes = [int(worker_node(index)) for index in range(self.child.worker_count)]
        return Catalog(nodes, self.config.server.topics_max, self.config.server.partitions_max)

    def _open_catalog(self) -> OpenCatalog:
        """The catalog, also of a data folder that takes no writes: then it is read from a copy, and never changed."""
        data_dir = self.config.data_dir
        now_ms = time.time_ns() // 1_000_000
        try:
            try:
                opened = open_catalog(data_dir, self.catalog, now_ms)
            except StorageError:
                self.refuses_changes = refusal_of(data_dir)
                if not self.refuses_changes:
                    raise
                log.error("%s; topics can be read, and not changed, until it does", self.refuses_changes)
                self.catalog = self._empty_catalog()
                opened = self._open_copied_catalog(now_ms)
        except StorageError as error:
            raise StartError(str(error)) from None
        if opened.moved:
            workers = counted(self.child.worker_count, "worker")
            log.info("partitions of %s were reassigned to %s", counted(opened.moved, "topic"), workers)
        if opened.notices:
            self.child.report(notices=[notice[:NOTICE_MAX] for notice in opened.notices[:NOTICES_MAX]])
        return opened

    def _open_copied_catalog(self, now_ms: int) -> OpenCatalog:
        """Raises StorageError when it cannot be copied either."""
        data_dir = self.config.data_dir
        try:
            folder = copied(data_dir, self.config.runtime_dir)
        except OSError as error:
            raise StorageError(f"{self.refuses_changes}, and its catalog cannot be copied: {error}") from None
        opened = open_catalog(folder, self.catalog, now_ms, partitions_dir=data_dir)
        opened.store = ReadOnlyStore(opened.store, self.refuses_changes)
        self.loop.call_later(LOOK_MS, self._look_at_disk)
        return opened

    def _look_at_disk(self) -> None:
        def looked(refusal: str | None, _error: BaseException | None) -> None:
            if refusal == "":
                log.warning("the data folder takes writes again: starting anew with its catalog")
                self.loop.stop()
            else:
                self.loop.call_later(LOOK_MS, self._look_at_disk)

        self.io.submit(partial(refusal_of, self.config.data_dir), looked)

    def run(self) -> None:
        """Serve until told to end."""
        self.child.attach(self.loop)
        self.child.on_peers = self._follow_peers
        self.child.on_drain = self.loop.stop
        self.child.on_reload = self._reload
        self.members.listen()
        self.loop.at_turn_end(self.streams.flush, self.streams.unsent)
        self._follow_peers()
        if self.kafka is not None:
            self.kafka.door.listen()
        self.groups.on_outage = self._tell_outage
        self._tell_outage()
        self.child.ready(counted(len(self.catalog.topics), "topic"))
        self.loop.run()
        if self.kafka is not None:
            self.kafka.door.close()
        self.io.close(5)
        self.status.close()
        self.groups.close()
        self.store.close()
        self.copy.close()
        self.members.close()
        self.front.close()

    def _reload(self, config: Config) -> None:
        self.given = config
        self.config = make_config(self.catalog.altered_for(COORDINATOR_NODE), config)
        self.groups.configure(self.config)

    def _tell_outage(self) -> None:
        outages = self.groups.outages() + [Outage(*told) for told in self.groups.damage]
        if self.refuses_changes:
            outages.append(Outage("changes of topics", self.refuses_changes))
        self.child.report(**outage_facts(outages))

    def _follow_peers(self) -> None:
        self.front.follow_peers()
        self.members.follow_peers()

    # --- requests ---

    def _serve(self, asked: Asked) -> None:
        try:
            request = codec.decode_request(codec.unpack_request(asked.header))
            serve = self._requests.get(type(request))
            if serve is None:
                raise InvalidRequest(f"{request.OP} is not answered by the coordinator")
            serve(asked, request)
        except KbrokerError as error:
            asked.refuse(error)

    def _metadata(self, asked: Asked, request: m.Metadata) -> None:
        missing = [name for name in request.topics or () if name not in self.catalog.topics]
        if missing and request.auto_create and self.config.server.auto_create_topics:
            creations = [m.NewTopic(name) for name in [*dict.fromkeys(missing)][:AUTO_CREATED_MAX]]
            self.create_all(
                creations,
                5_000,
                lambda results: asked.answer(self._encode_metadata(request, results)),
                asked.caller,
            )
            return
        asked.answer(self._encode_metadata(request))

    def _encode_metadata(self, request: m.Metadata, created: Iterable[m.TopicResult] = ()) -> bytes:
        names = sorted(self.catalog.topics) if request.topics is None else request.topics
        topics = {name: self._topic_info(name) for name in names}
        for result in created:
            # Why it could not be created says more than that it is not there.
            if result.error and result.name not in self.catalog.topics:
                topics[result.name] = m.TopicInfo(result.name, result.error, result.message)
        return codec.encode_answer(
            m.MetadataAnswer(
                self.child.cluster_id, self.child.boot_id, self.members.nodes(), [topics[name] for name in names]
            )
        )

    def _topic_info(self, name: str) -> m.TopicInfo:
        try:
            info = topic_info(self.catalog, name)
        except RequestError as error:
            return m.TopicInfo(name, error.code, str(error))
        info.batch_bytes_max = topic_log_config(self.config.log, info.settings).message_max_bytes
        return info

    def _create_topics(self, asked: Asked, request: m.CreateTopics) -> None:
        _check_changes(len(request.topics))
        if request.validate_only:
            results = [self._result_of(topic.name, partial(self.creation, topic)) for topic in request.topics]
            asked.answer(codec.encode_answer(m.TopicResults(results)))
            return
        self.create_all(
            request.topics,
            request.timeout_ms,
            lambda results: asked.answer(codec.encode_answer(m.TopicResults(results))),
            asked.caller,
        )

    def create_all(
        self,
        topics: list[m.NewTopic],
        timeout_ms: int,
        answer: Callable[[list[m.TopicResult]], None],
        caller: Caller,
    ) -> None:
        """Create topics; `answer` gets one result each when all is done."""
        names = [topic.name for topic in topics]
        self.change_each(names, [partial(self.creation, topic) for topic in topics], timeout_ms, answer, caller)

    def creation(self, topic: m.NewTopic, nodes: Sequence[int] = ()) -> list[Change]:
        """What the store must commit for a new topic; `nodes`: who is to have each partition. Raises RequestError."""
        if topic.replication_factor not in (-1, 1):
            raise InvalidReplicationFactor(
                f"topic {topic.name:.80} asks for {topic.replication_factor} replicas; there is one broker host, so "
                "only 1 is possible"
            )
        partitions = self.config.server.num_partitions if topic.partitions == -1 else topic.partitions
        return self.catalog.create(topic.name, partitions, topic.settings, uuid.uuid4().bytes, nodes)

    def _delete_topics(self, asked: Asked, request: m.DeleteTopics) -> None:
        _check_changes(len(request.names))
        self.change_each(
            request.names,
            [partial(self.catalog.delete, name) for name in request.names],
            request.timeout_ms,
            lambda results: asked.answer(codec.encode_answer(m.TopicResults(results))),
            asked.caller,
        )

    def _create_partitions(self, asked: Asked, request: m.CreatePartitions) -> None:
        self._change_one(
            asked, request.name, lambda: self.catalog.grow(request.name, request.total), request.timeout_ms
        )

    def _alter_settings(self, asked: Asked, request: m.AlterSettings) -> None:
        self._change_one(
            asked,
            request.topic,
            lambda: self.catalog.alter(request.topic, request.set, request.remove),
            request.timeout_ms,
        )

    def _describe_settings(self, asked: Asked, request: m.DescribeSettings) -> None:
        own = self.catalog.topic(request.topic).settings if request.topic else {}
        found = []
        for name, known in sorted(TOPIC_SETTINGS.items()):
            value = topic_value(self.config, own, name)
            source = "topic" if name in own else "default" if value == known.default else "broker"
            found.append(_setting_info(name, value, source, known))
        asked.answer(codec.encode_answer(m.SettingsAnswer(found)))

    def _init_producer_id(self, asked: Asked, _request: m.InitProducerId) -> None:
        def done(producer_id: int, error: KbrokerError | None) -> None:
            if error is None:
                asked.answer(codec.encode_answer(m.ProducerIdAnswer(producer_id, 0)))
            else:
                asked.refuse(error)

        self.take_producer_id(done)

    def take_producer_id(self, done: TakeId) -> None:
        """A producer id that nobody else has or will ever have."""
        producer_id = next(self.producer_ids, None)
        if producer_id is not None:
            done(producer_id, None)
            return
        self.wanting_ids.append(done)
        if len(self.wanting_ids) == 1:
            # A block that was begun before kill -9 is never gone on with: ids are given once.
            self.io.submit(lambda: self._allocate(PRODUCER_IDS, PRODUCER_ID_BLOCK), self._take_ids)

    def _take_ids(self, first: int | None, error: BaseException | None) -> None:
        waiting, self.wanting_ids = self.wanting_ids, []
        if error is not None or first is None:
            refusal = error if isinstance(error, KbrokerError) else KbrokerError(f"no producer ids: {error}")
            for done in waiting:
                done(-1, refusal)
            return
        self.producer_ids = iter(range(first, first + PRODUCER_ID_BLOCK))
        for done in waiting:
            self.take_producer_id(done)

    def epoch_of(self, topic: str, index: int, known_epoch: int) -> int:
        """The leader epoch of a partition as its owner has told it, which the catalog may not have recorded yet.

        -1: no owner has told one yet. They begin with 1: the catalog's 0 is no epoch to compare with.
        """
        return max(known_epoch, self._epochs.get((topic, index), -1)) or NO_EPOCH

    # --- changes ---

    def _change_one(self, asked: Asked, name: str, decide: Decide, timeout_ms: int) -> None:
        self.change_each(
            [name],
            [decide],
            timeout_ms,
            lambda results: asked.answer(codec.encode_answer(m.TopicResults(results))),
            asked.caller,
        )

    def change_each(
        self,
        names: list[str],
        decisions: list[Decide],
        timeout_ms: int,
        answer: Callable[[list[m.TopicResult]], None],
        caller: Caller,
    ) -> None:
        """Make several changes, each on its own; `answer` gets one result each, in order, when all are through."""
        if len(self.changes) >= CHANGES_WAITING_MAX:
            full = ThrottlingQuotaExceeded(f"{CHANGES_WAITING_MAX} changes of topics wait already; try again")
            answer([_result(name, full) for name in names])
            return

        gathering: Gathering[m.TopicResult] = Gathering(lambda results: answer([*results]))
        gathering.expect(len(names))

        def settled(index: int, error: KbrokerError | None) -> None:
            gathering.token_of(index)(_result(names[index], error))

        for index, decide in enumerate(decisions):
            self.changes.append(_Wanted(decide, partial(settled, index), timeout_ms, caller))
        self._next_change()

    def _next_change(self) -> None:
        """Decide and commit one change at a time: each decision sees the one before."""
        while self.changes and not self.is_committing:
            wanted = self.changes.popleft()
            try:
                changes = wanted.decide()
            except KbrokerError as error:
                wanted.done(error)
                continue
            if not changes:
                wanted.done(None)
                continue
            self._commit(changes, wanted)

    def _commit(self, changes: list[Change], wanted: _Wanted) -> None:
        self.is_committing = True
        done = wanted.done

        def committed(_result: None, error: BaseException | None) -> None:
            self.is_committing = False
            if error is None:
                if wanted.caller is not None:
                    self.change_log.catalog(wanted.caller, self.catalog, changes)
                self._tell_of_compaction(changes)
                self._forget_epochs(changes)
                self.catalog.apply(changes)
                self._topics_changed(c.key.removeprefix(TOPICS) for c in changes if c.key.startswith(TOPICS))
                if any(change.key.startswith(ALTERED) for change in changes):
                    self._reload(self.given)
                self.groups.catalog_changed(changes)
                self.members.broadcast(changes, done, wanted.timeout_ms)
            else:
                log.error("a change of the catalog failed: %s", error)
                done(error if isinstance(error, KbrokerError) else KbrokerError(str(error)))
            self._next_change()

        self.io.submit(partial(self._spare.commit, self.store, changes), committed)

    def _forget_epochs(self, changes: list[Change]) -> None:
        """Those of topics that are deleted now."""
        for change in changes:
            if change.key.startswith(TOPICS) and change.value is None:
                name = change.key.removeprefix(TOPICS)
                for index in range(len(self.catalog.topics[name].partitions)):
                    self._epochs.pop((name, index), None)

    def _tell_of_compaction(self, changes: list[Change]) -> None:
        """Whoever asks for compaction hears that it is not there yet: the topic grows for ever."""
        for name, settings in settings_in(changes):
            before = self.catalog.topics.get(name)
            if self._is_compacted(settings) and (before is None or not self._is_compacted(before.settings)):
                log.warning(
                    "topic %s: cleanup.policy=compact asks for keys, but compaction of topics comes later: until then "
                    "all records stay, unless `delete` is in the policy too", name,
                )  # fmt: skip

    def _is_compacted(self, settings: Mapping[str, str]) -> bool:
        return "compact" in topic_log_config(self.config.log, settings).cleanup_policy

    def _owners_report(self, epochs: dict[tuple[str, int], int], removed: list[RemovedInfo]) -> None:
        """Owners have opened partitions under new leader epochs, or deleted the folders of removed topics."""

        def decide() -> list[Change]:
            changes = self.catalog.raise_epochs(epochs)
            gone: dict[bytes, list[int]] = {}
            for info in removed:
                gone.setdefault(info.topic_id, []).extend(info.partitions)
            for topic_id, partitions in gone.items():
                changes += self.catalog.folders_gone(topic_id, partitions)
            return changes

        def committed(error: KbrokerError | None) -> None:
            if error is not None and not isinstance(error, RequestTimedOut):
                log.error("leader epochs could not be recorded: %s", error)

        self._epochs.update(epochs)
        self._topics_changed(name for name, _ in epochs)
        if epochs or removed:
            self.changes.append(_Wanted(decide, committed, 30_000))
            self._next_change()

    def _topics_changed(self, names: Iterable[str]) -> None:
        if self.kafka is not None:
            self.kafka.topics_changed(names)

    def _result_of(self, name: str, decide: Decide) -> m.TopicResult:
        try:
            decide()
        except KbrokerError as error:
            return _result(name, error)
        return m.TopicResult(name)


def _result(name: str, error: KbrokerError | None) -> m.TopicResult:
    return m.TopicResult(name) if error is None else m.TopicResult(name, code_of(error), str(error))


def _setting_info(name: str, value: object, source: str, known: Known) -> m.SettingInfo:
    return m.SettingInfo(name, value_text(value), source, known.setting.doc, allowed(known))


def _check_changes(count: int) -> None:
    """Raises InvalidRequest for more topics than one request may change."""
    if count > CHANGES_MAX:
        raise InvalidRequest(f"one request may make or delete {CHANGES_MAX} topics at most, not {count}")


def main(child: ChildContext) -> None:
    """The coordinator's process, after the fork."""
    gc.freeze()
    Coordinator(child).run()
