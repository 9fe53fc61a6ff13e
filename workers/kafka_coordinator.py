"""What Kafka clients ask of the coordinator: topics, settings, producer ids. Records are the workers'."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from kbroker.catalog.topics import AUTO_CREATED_MAX, CHANGES_MAX, check_name
from kbroker.errors import (
    CoordinatorNotAvailable,
    InvalidRequest,
    InvalidTopic,
    KbrokerError,
    RequestError,
    ThrottlingQuotaExceeded,
    TopicAlreadyExists,
    UnknownTopicId,
    code_of,
)
from kbroker.kafka import (
    codec,
    configs,
    coordination,
    delete_records,
    listings,
    metadata,
    produce,
    topics,
)
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster
from kbroker.kafka.framing import Request
from kbroker.kafka.metadata_answers import MetadataAnswers
from kbroker.kafka.schema import NO_UUID
from kbroker.kafka.topics import Result
from kbroker.log.slices import LogSlice
from kbroker.types import COORDINATOR_NODE
from kbroker.wire import messages as m
from kbroker.wire.control import KafkaForward, KafkaForwarded
from kbroker.workers.disk_room import answer_log_dirs, ask_disk_room
from kbroker.workers.internal_topics import InternalTopics
from kbroker.workers.kafka_cluster import KafkaCluster, illegal_names
from kbroker.workers.kafka_connection import Asked, Part
from kbroker.workers.kafka_door import KafkaDoor
from kbroker.workers.kafka_groups import KafkaGroups
from kbroker.workers.kafka_listeners import kafka_sockets
from kbroker.workers.kafka_nodes import nodes_for
from kbroker.workers.kafka_records import KafkaRecords
from kbroker.workers.kafka_service import Call, KafkaService, caller_of
from kbroker.workers.listeners import host_port
from kbroker.workers.members import topic_info
from kbroker.workers.offsets_log import OffsetsLog
from kbroker.workers.parking import Parking
from kbroker.workers.record_work import RecordWork
from kbroker.workers.refusal_log import RefusalLog

if TYPE_CHECKING:
    from kbroker.catalog.catalog import Catalog
    from kbroker.catalog.store import Change
    from kbroker.workers.coordinator import Coordinator

AUTO_CREATE_TIMEOUT_MS = 5_000

_TOO_MANY = Result(
    ThrottlingQuotaExceeded.code, f"one request may change {CHANGES_MAX} topics or settings: ask for the others again"
)


class _Topics(Mapping[str, m.TopicInfo]):
    """The catalog's topics and the internal ones as clients are told of them, each made when it is looked at."""

    def __init__(self, catalog: Catalog, internal: Mapping[str, m.TopicInfo]) -> None:
        self._catalog = catalog
        self._internal = internal

    def __getitem__(self, name: str) -> m.TopicInfo:
        if name not in self._catalog.topics:
            return self._internal[name]
        return topic_info(self._catalog, name)

    def __contains__(self, name: object) -> bool:
        return name in self._catalog.topics or name in self._internal

    def __iter__(self) -> Iterator[str]:
        return iter(sorted((*self._catalog.topics, *self._internal)))

    def __len__(self) -> int:
        return len(self._catalog.topics) + len(self._internal)

    def name_of(self, topic_id: bytes) -> str | None:
        """The topic with that id."""
        for name, topic in self._internal.items():
            if topic.topic_id == topic_id:
                return name
        return self._catalog.name_of(topic_id)


class KafkaCoordinator:
    """The coordinator's Kafka side."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        internal: dict[str, m.TopicInfo] = coordinator.members.internal_topics
        self._topics = _Topics(coordinator.catalog, internal)
        self._answers = MetadataAnswers()
        parking = Parking(coordinator.loop)
        self._internal = InternalTopics(self._topics, self._topics.name_of, internal, parking)
        coordinator.groups.follow_log(self._lead)
        kafka = coordinator.config.kafka
        self._refusals = RefusalLog(coordinator.loop)
        work = RecordWork(coordinator.loop)
        records = KafkaRecords(
            coordinator.loop, parking, coordinator.io, work, self._internal, self._cluster, kafka, self._refusals
        )
        self._service = KafkaService(
            {
                **records.serves,
                **KafkaCluster(self._cluster, self._refusals).serves,
                ApiKey.DELETE_RECORDS: self._delete_records,
                ApiKey.METADATA: self._metadata,
                ApiKey.LIST_CONFIG_RESOURCES: self._config_resources,
                ApiKey.DESCRIBE_LOG_DIRS: self._log_dirs,
                ApiKey.CREATE_TOPICS: self._create_topics,
                ApiKey.DELETE_TOPICS: self._delete_topics,
                ApiKey.CREATE_PARTITIONS: self._create_partitions,
                ApiKey.DESCRIBE_CONFIGS: self._describe_configs,
                ApiKey.ALTER_CONFIGS: self._alter_configs,
                ApiKey.INCREMENTAL_ALTER_CONFIGS: self._alter_configs,
                ApiKey.INIT_PRODUCER_ID: self._init_producer_id,
                **KafkaGroups(
                    coordinator.groups, coordinator.groups.topics, coordinator.change_log, self._refusals
                ).serves,
            },
            by_hand={ApiKey.PRODUCE: self._produce, ApiKey.FETCH: records.fetch},
            elements_max=kafka.request_elements_max,
        )
        child = coordinator.child
        sockets = kafka_sockets(child.listeners, COORDINATOR_NODE)
        self.door = KafkaDoor(coordinator.loop, sockets, self._service.serve, kafka)
        coordinator.members.on_forward = self._serve_forwarded

    def _lead(self, offsets: OffsetsLog) -> None:
        """The log of an internal topic is open: clients may see it, on every node."""
        offsets.on_published = self._internal.serve(offsets.log).published
        topic = offsets.log.partition.topic
        self.topics_changed((topic,))
        self._coordinator.members.announce_internal(topic)

    def _serve_forwarded(self, name: str, message: KafkaForward) -> None:
        """A request that a worker's client sent; the worker passes the answer on as it is."""
        members, incarnation = self._coordinator.members, self._coordinator.child.incarnation

        def send(parts: Sequence[Part]) -> None:
            response = b"".join(part for part in parts if not isinstance(part, LogSlice))
            members.send_to(name, KafkaForwarded(incarnation, message.number, response))

        def give_up(why: str) -> None:
            members.send_to(name, KafkaForwarded(incarnation, message.number, b"", why))

        body = memoryview(message.body)
        head = Request(message.api_key, message.version, message.correlation_id, message.client_id, body, len(body))
        try:
            self._service.serve_call(Call(head, message.host, send, give_up, message.client_address))
        except RequestError as error:
            give_up(str(error))

    # --- the cluster ---

    def _cluster(self, host: str) -> Cluster:
        coordinator = self._coordinator
        nodes = nodes_for(coordinator.child, host)
        return Cluster(coordinator.child.cluster_id, nodes, self._topics, self._topics.name_of, coordinator.epoch_of)

    def _metadata(self, call: Call) -> None:
        coordinator = self._coordinator
        missing = metadata.missing(call.request, call.version, self._topics)[:AUTO_CREATED_MAX]
        if not missing or not coordinator.config.server.auto_create_topics:
            self._answer_metadata(call, illegal_names(call.request, self._topics))
            return

        def created(results: list[m.TopicResult]) -> None:
            for result in results:
                if result.error not in (0, TopicAlreadyExists.code):  # the answer has no place for the reason
                    self._refusals.say(call.caller, f"making topic {result.name!r:.260}", result.message)
            self._answer_metadata(call, {result.name: result.error for result in results if result.error})

        creations = [m.NewTopic(name) for name in missing]
        coordinator.create_all(creations, AUTO_CREATE_TIMEOUT_MS, created, call.caller)

    def _answer_metadata(self, call: Call, refused: Mapping[str, int]) -> None:
        cluster = self._cluster(call.host)
        encoded = self._answers.encode(call.request, call.version, call.correlation_id, cluster, refused)
        call.answer_pieces((encoded,))

    def topics_changed(self, names: Iterable[str]) -> None:
        """Something else is known of these topics now: also leader epochs."""
        self._answers.forget(names)

    def _init_producer_id(self, call: Call) -> None:
        if call.request.transactional_id is not None:
            transactional_id = call.request.transactional_id
            why = "transactions are not supported yet: leave transactional.id out"
            self._refusals.say(call.caller, f"transactional.id {transactional_id!r:.200}", why)
            call.answer(coordination.producer_id_refused(InvalidRequest.code))
            return

        def done(producer_id: int, error: KbrokerError | None) -> None:
            if error is None:
                call.answer(coordination.producer_id_given(producer_id))
            else:
                call.answer(coordination.producer_id_refused(CoordinatorNotAvailable.code))

        self._coordinator.take_producer_id(done)

    # --- listings ---

    def _config_resources(self, call: Call) -> None:
        coordinator = self._coordinator
        names, nodes = list(self._topics), sorted(coordinator.child.kafka_ports)
        call.answer(listings.config_resources(call.request, call.version, names, nodes))

    def _log_dirs(self, call: Call) -> None:
        folder = self._coordinator.config.data_dir
        sizes = {(name.topic, name.partition): led.log.size_bytes for name, led in self._internal.serving.items()}
        ask_disk_room(self._coordinator.io, folder, lambda room: answer_log_dirs(call, folder, sizes, room))

    # --- topics ---

    def _create_topics(self, call: Call) -> None:
        request, coordinator = call.request, self._coordinator
        asked = topics.creations(request, self._assignable)
        decisions: list[Callable[[], list[Change]] | Result] = [
            item
            if isinstance(item, Result)
            else partial(
                coordinator.creation,
                m.NewTopic(item.name, item.partitions, item.replication_factor, item.settings),
                item.nodes,
            )
            for item in asked
        ]
        names = [topic.name for topic in request.topics]

        def done(results: list[Result]) -> None:
            call.answer(topics.created(request, asked, results, self._made))

        self._decide(call, names, decisions, request.timeout_ms, request.validate_only, done)

    def _made(self, asked: topics.NewTopic) -> topics.Made:
        known = self._coordinator.catalog.topics.get(asked.name)
        if known is None:  # it was only to be looked whether it could be made
            default = self._coordinator.config.server.num_partitions
            count = default if asked.partitions == -1 else asked.partitions
            return topics.Made(NO_UUID, count, configs.created_topic_configs(self._broker_settings(), asked.settings))
        own = configs.created_topic_configs(self._broker_settings(), known.settings)
        return topics.Made(known.topic_id, len(known.partitions), own)

    def _delete_topics(self, call: Call) -> None:
        request = call.request
        asked = topics.deletions(request, call.version, self._topics.name_of, self._topics)
        decisions: list[Callable[[], list[Change]] | Result] = [
            item.fault if item.fault is not None else partial(self._deletion, item.name or "", item.topic_id)
            for item in asked
        ]

        def done(results: list[Result]) -> None:
            call.answer(topics.deleted(asked, results))

        self._decide(call, [item.name or "" for item in asked], decisions, request.timeout_ms, False, done)

    def _deletion(self, name: str, topic_id: bytes) -> list[Change]:
        catalog = self._coordinator.catalog
        if any(topic_id) and name in catalog.topics and catalog.topic(name).topic_id != topic_id:
            raise UnknownTopicId(f"topic {name} was deleted and made anew meanwhile; its id is another one now")
        return catalog.delete(name)

    def _create_partitions(self, call: Call) -> None:
        request, catalog = call.request, self._coordinator.catalog
        decisions: list[Callable[[], list[Change]] | Result] = [
            item if isinstance(item, Result) else partial(catalog.grow, item.name, item.total, item.nodes)
            for item in topics.growths(request, self._topics, self._assignable)
        ]

        def done(results: list[Result]) -> None:
            call.answer(topics.grown(request, results))

        names = [topic.name for topic in request.topics]
        self._decide(call, names, decisions, request.timeout_ms, request.validate_only, done)

    def _describe_configs(self, call: Call) -> None:
        own = {name: topic.settings for name, topic in self._coordinator.catalog.topics.items()}
        own |= {name: topic.settings for name, topic in self._coordinator.members.internal_topics.items()}
        nodes = {n.node_id: host_port(n.host, n.port) for n in nodes_for(self._coordinator.child, call.host)}
        call.answer(configs.described(call.request, self._broker_settings(), own, nodes, check_name))

    def _broker_settings(self) -> configs.BrokerSettings:
        return configs.BrokerSettings(self._coordinator.given, self._coordinator.catalog.altered)

    @property
    def _assignable(self) -> topics.Nodes:
        return topics.Nodes(self._nodes, self._coordinator.catalog.node_ids)

    @property
    def _nodes(self) -> Collection[int]:
        return self._coordinator.child.kafka_ports

    def _alter_configs(self, call: Call) -> None:
        request = call.request
        incremental = call.api_key == ApiKey.INCREMENTAL_ALTER_CONFIGS
        asked = configs.alterations(request, incremental=incremental, nodes=self._nodes)
        decisions: list[Callable[[], list[Change]] | Result] = [
            item if isinstance(item, Result) else partial(self._altered, item) for item in asked
        ]
        names = [resource.resource_name for resource in request.resources]

        def done(results: list[Result]) -> None:
            call.answer(configs.altered(call.api_key, request, results))

        self._decide(call, names, decisions, 30_000, request.validate_only, done)

    def _altered(self, asked: configs.Alteration) -> list[Change]:
        catalog = self._coordinator.catalog
        if asked.resource_type == configs.BROKER:
            return catalog.alter_broker(asked.name, *configs.outcome(asked, catalog.altered.get(asked.name, {})))
        return catalog.alter(asked.name, *configs.outcome(asked, catalog.topic(asked.name).settings))

    def _decide(
        self,
        call: Call,
        names: list[str],
        decisions: list[Callable[[], list[Change]] | Result],
        timeout_ms: int,
        validate_only: bool,
        done: Callable[[list[Result]], None],
    ) -> None:
        """Make the changes that can be made, each on its own; `done` gets a result for every name, in order."""
        decisions = [*decisions[:CHANGES_MAX], *[_TOO_MANY] * len(decisions[CHANGES_MAX:])]
        results = [item if isinstance(item, Result) else Result() for item in decisions]
        open_ones = [(number, item) for number, item in enumerate(decisions) if not isinstance(item, Result)]
        if validate_only:
            for number, decide in open_ones:
                try:
                    decide()
                except KbrokerError as error:
                    results[number] = Result(code_of(error), str(error))
            done(results)
            return

        def changed(found: list[m.TopicResult]) -> None:
            for (number, _), result in zip(open_ones, found, strict=True):
                results[number] = Result(result.error, result.message or None)
            done(results)

        self._coordinator.change_each(
            [names[number] for number, _ in open_ones],
            [decide for _, decide in open_ones],
            timeout_ms,
            changed,
            call.caller,
        )

    # --- records: of the internal topics alone ---

    def _produce(self, asked: Asked) -> None:
        head = asked.request
        request = produce.read(head.version, head.body, self._coordinator.config.kafka.request_elements_max)
        if request.acks == 0:
            raise InvalidRequest("acks=0 for a partition that a worker leads, or an internal one")
        outcomes = [
            produce.failed(*self._refusal(item.topic or self._internal.name_of(item.topic_id), item.partition))
            for item in request.wanted
        ]
        for item, outcome in zip(request.wanted, outcomes, strict=True):
            if outcome.error_code == InvalidTopic.code and outcome.message:
                self._refusals.say(caller_of(asked), f"records for {item.topic}-{item.partition}", outcome.message)
        message = produce.answer(request, outcomes, partial(self._cluster, asked.connection.host))
        asked.answer(codec.write_response(ApiKey.PRODUCE, head.version, head.correlation_id, message))

    def _delete_records(self, call: Call) -> None:
        refusals = [self._refusal(item.topic, item.partition) for item in delete_records.wanted(call.request)]
        call.answer(delete_records.answer(call.request, [delete_records.Result(code) for code, _ in refusals]))

    def _refusal(self, topic: str | None, index: int) -> tuple[int, str]:
        """Why clients may not change that partition here: error code and reason."""
        try:
            if topic is None:
                raise UnknownTopicId("no topic has that id")
            self._internal.get(topic, index)
        except RequestError as error:
            return error.code, str(error)
        return InvalidTopic.code, f"topic {topic} is the broker's own: clients may read it only"
