"""What Kafka clients ask about the records of partitions that are led here: in a worker, and in the coordinator for the
internal topics."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from kbroker.config import KafkaConfig
from kbroker.errors import KbrokerError, RequestError, StorageError, code_of
from kbroker.kafka import describe_producers, fetch_request, list_offsets, offset_for_leader_epoch
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster
from kbroker.kafka.fetch_sessions import FetchSessions
from kbroker.log.log import PartitionLog
from kbroker.workers.in_turns import InTurns
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.kafka_connection import Asked
from kbroker.workers.kafka_fetching import FetchSource, KafkaFetch, Leads, check_epoch
from kbroker.workers.kafka_service import Call, Serve
from kbroker.workers.loop import Loop
from kbroker.workers.offset_lookup import OffsetLookup, Place
from kbroker.workers.parking import Parking
from kbroker.workers.record_work import RecordWork
from kbroker.workers.refusal_log import RefusalLog


def _session_id() -> int:
    return 1 + secrets.randbelow(2**31 - 1)


class KafkaRecords:
    """Fetch, ListOffsets, OffsetForLeaderEpoch and DescribeProducers."""

    def __init__(
        self,
        loop: Loop,
        parking: Parking,
        io: IoThreads,
        work: RecordWork,
        leads: Leads,
        cluster: Callable[[str], Cluster],
        config: KafkaConfig,
        refusals: RefusalLog,
    ) -> None:
        self._loop = loop
        self._work = work
        self._leads = leads
        self._refusals = refusals
        self._elements_max = config.request_elements_max
        sessions = FetchSessions(config.fetch_sessions_max, _session_id)
        self._source = FetchSource(parking, io, leads, sessions, cluster, config.fetch_bytes_max)
        self.serves: dict[int, Serve] = {
            ApiKey.LIST_OFFSETS: self._list_offsets,
            ApiKey.OFFSET_FOR_LEADER_EPOCH: self._offset_for_leader_epoch,
            ApiKey.DESCRIBE_PRODUCERS: self._describe_producers,
        }

    def fetch(self, asked: Asked) -> None:
        """Serve a Fetch, whose body is read by hand. Raises MalformedRequest."""
        head = asked.request
        KafkaFetch(self._source, asked, fetch_request.read(head.version, head.body, self._elements_max)).start()

    def _list_offsets(self, call: Call) -> None:
        def done(results: list[list_offsets.Found]) -> None:
            if call.is_gone:
                return
            answer = list_offsets.answer(call.request, results)
            for what, why in list_offsets.refusals(call.request, call.version, answer):
                self._refusals.say(call.caller, what, why, kind=why)
            call.answer(answer)

        questions = list_offsets.questions(call.request, call.version)
        InTurns(self._loop, questions, partial(self._find_offset, lambda: call.is_gone), done).start()

    def _find_offset(
        self,
        is_unwanted: Callable[[], bool],
        query: list_offsets.Query | list_offsets.Found,
        settle: Callable[[list_offsets.Found], None],
    ) -> None:
        if isinstance(query, list_offsets.Found):
            settle(query)
            return
        timestamp_ms = query.timestamp_ms
        try:
            log = self._leads.get(query.topic, query.partition).log
            check_epoch(log, query.current_leader_epoch)
        except (RequestError, StorageError) as error:
            settle(list_offsets.Found(code_of(error)))
            return

        end = log.last_stable_offset if query.read_committed else log.high_watermark
        looked_for = timestamp_ms
        if timestamp_ms == list_offsets.MAX_TIMESTAMP:
            looked_for = max(segment.max_timestamp for segment in log.segments)
        if timestamp_ms in (list_offsets.EARLIEST, list_offsets.EARLIEST_LOCAL):
            offset = log.log_start_offset
            settle(list_offsets.Found(0, offset, -1, log.epochs.at(offset)))
        elif timestamp_ms == list_offsets.LATEST:
            settle(list_offsets.Found(0, end, -1, log.leader_epoch))
        elif looked_for < 0:  # lies elsewhere, where nothing does; or there is no timestamp at all
            settle(list_offsets.Found())
        else:
            found = partial(_found_place, log, end, settle)
            OffsetLookup(self._work, log, looked_for, found, is_unwanted).start()

    def _offset_for_leader_epoch(self, call: Call) -> None:
        call.answer(offset_for_leader_epoch.answer(call.request, self._find_epoch_end))

    def _find_epoch_end(self, topic: str, index: int, known_epoch: int, epoch: int) -> offset_for_leader_epoch.Found:
        try:
            log = self._leads.get(topic, index).log
            check_epoch(log, known_epoch)
        except (RequestError, StorageError) as error:
            return offset_for_leader_epoch.Found(code_of(error))
        return offset_for_leader_epoch.Found(0, *log.epoch_end_offset(epoch))

    def _describe_producers(self, call: Call) -> None:
        call.answer(describe_producers.answer(call.request, self._producers_of))

    def _producers_of(self, topic: str, index: int) -> describe_producers.Known:
        try:
            log = self._leads.get(topic, index).log
        except RequestError as error:
            return describe_producers.Known(error_code=error.code, message=str(error))
        found = []
        for producer_id, producer in log.producers:
            last = producer.batches[-1] if producer.batches else None
            sequence, timestamp_ms = (last.last_sequence, last.timestamp) if last else (-1, -1)
            found.append(describe_producers.ActiveProducer(producer_id, producer.epoch, sequence, timestamp_ms))
        return describe_producers.Known(found)


def _found_place(
    log: PartitionLog,
    end: int,
    settle: Callable[[list_offsets.Found], None],
    place: Place | None,
    error: KbrokerError | None,
) -> None:
    if error is not None:
        settle(list_offsets.Found(code_of(error)))
    elif place is None or place[0] >= end:
        settle(list_offsets.Found())
    else:
        settle(list_offsets.Found(0, place[0], place[1], log.epochs.at(place[0])))
