"""From a request's bytes to whoever answers its API, and from the answer to bytes: the same in every process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from kbroker.errors import UnsupportedVersion
from kbroker.kafka import acls, api_versions, codec, credentials, listings, quotas, replicas
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.framing import Request
from kbroker.workers.caller import CLIENT_ID_CHARS_MAX, KAFKA, NOBODY, Caller
from kbroker.workers.dear_time import LARGE_BYTES, LARGE_FETCH_BYTES
from kbroker.workers.kafka_connection import Asked, Part

SERVED = frozenset(
    {
        ApiKey.PRODUCE,
        ApiKey.FETCH,
        ApiKey.LIST_OFFSETS,
        ApiKey.METADATA,
        ApiKey.OFFSET_COMMIT,
        ApiKey.OFFSET_FETCH,
        ApiKey.FIND_COORDINATOR,
        ApiKey.JOIN_GROUP,
        ApiKey.HEARTBEAT,
        ApiKey.LEAVE_GROUP,
        ApiKey.SYNC_GROUP,
        ApiKey.DESCRIBE_GROUPS,
        ApiKey.DELETE_GROUPS,
        ApiKey.OFFSET_DELETE,
        ApiKey.CONSUMER_GROUP_HEARTBEAT,
        ApiKey.CONSUMER_GROUP_DESCRIBE,
        ApiKey.API_VERSIONS,
        ApiKey.CREATE_TOPICS,
        ApiKey.DELETE_TOPICS,
        ApiKey.DELETE_RECORDS,
        ApiKey.INIT_PRODUCER_ID,
        ApiKey.OFFSET_FOR_LEADER_EPOCH,
        ApiKey.DESCRIBE_CONFIGS,
        ApiKey.ALTER_CONFIGS,
        ApiKey.CREATE_PARTITIONS,
        ApiKey.ELECT_LEADERS,
        ApiKey.INCREMENTAL_ALTER_CONFIGS,
        ApiKey.ALTER_PARTITION_REASSIGNMENTS,
        ApiKey.LIST_PARTITION_REASSIGNMENTS,
        ApiKey.DESCRIBE_CLIENT_QUOTAS,
        ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS,
        ApiKey.DESCRIBE_CLUSTER,
        ApiKey.DESCRIBE_ACLS,
        ApiKey.CREATE_ACLS,
        ApiKey.DELETE_ACLS,
        ApiKey.LIST_GROUPS,
        ApiKey.DESCRIBE_PRODUCERS,
        ApiKey.LIST_TRANSACTIONS,
        ApiKey.LIST_CONFIG_RESOURCES,
        ApiKey.DESCRIBE_LOG_DIRS,
        ApiKey.DESCRIBE_TOPIC_PARTITIONS,
    }
)
"""What every node answers, by itself or through the coordinator. Requests about groups are refused by workers."""


DEAR_MS: Final = 3
"""Who held the loop for so long by one request is served on only after a rest."""
LATER_BYTES_PER_MS: Final = 4 << 10
"""What is still to be done of a request that has no answer yet, at a guess: here in slices, or by the coordinator."""

Send = Callable[[Sequence[Part]], None]
GiveUp = Callable[[str], None]
"""Hang up on the client; the text goes to the log."""


def _nowhere(_answer: object) -> None:
    pass


class Call:
    """A decoded request. `host`: the address at which its client reached the broker; `client_address`: the client's
    own, HOST:PORT. `request` lives as long as the frame does, which is until the call that serves it returns; text and
    numbers in it stay."""

    __slots__ = (
        "_send", "api_key", "client_address", "client_id", "correlation_id", "give_up", "head", "host", "is_gone",
        "on_cancel", "request", "version",
    )  # fmt: skip

    def __init__(self, head: Request, host: str, send: Send, give_up: GiveUp, client_address: str) -> None:
        self.api_key = head.api_key
        self.version = head.version
        self.correlation_id = head.correlation_id
        self.client_id = head.client_id or ""
        self.host = host
        self.client_address = client_address
        self.head = head
        self.request: Any = None
        self.is_gone = False
        """Whether the client has hung up: nobody wants the answer."""
        self.on_cancel: Callable[[], object] | None = None
        """Called when it hangs up before it has its answer."""
        self._send = send
        self.give_up = give_up

    @property
    def client_host(self) -> str:
        """The client's own address, without the port."""
        return self.client_address.rpartition(":")[0].strip("[]")

    @property
    def caller(self) -> Caller:
        """Who asks, for the log."""
        return Caller(KAFKA, self.client_address, NOBODY, self.client_id[:CLIENT_ID_CHARS_MAX])

    def cancel(self) -> None:
        """The client has hung up: whoever works on this keeps nothing of it alive, and its answer goes nowhere."""
        self.is_gone = True
        self._send = self.give_up = _nowhere
        if self.on_cancel is not None:
            self.on_cancel()

    def take_request(self) -> Any:
        """The request, which is let go of here: the answer may come much later, and is not to keep what came."""
        request, self.request = self.request, None
        self.head.body = memoryview(b"")
        return request

    def answer(self, message: Any) -> None:
        """Send a message of this API's response."""
        self._send(codec.write_response(self.api_key, self.version, self.correlation_id, message))

    def answer_pieces(self, pieces: Sequence[Part]) -> None:
        """Send an answer that was encoded already. Empty: there is none."""
        self._send(pieces)


def caller_of(asked: Asked) -> Caller:
    """Who has sent a request that is not decoded, for the log."""
    client_id = (asked.request.client_id or "")[:CLIENT_ID_CHARS_MAX]
    return Caller(KAFKA, asked.connection.address, NOBODY, client_id)


Serve = Callable[[Call], None]


class KafkaService:
    """Which API is answered by what. `by_hand` gets requests as they came, body not decoded; `otherwise` the requests
    of all APIs that are in neither. `elements_max` bounds what one request may list."""

    def __init__(
        self,
        serves: Mapping[int, Serve],
        otherwise: Serve | None = None,
        *,
        by_hand: Mapping[int, Callable[[Asked], None]],
        elements_max: int,
    ) -> None:
        self._elements_max = elements_max
        self._serves = {**_EVERYWHERE, **serves}
        self._otherwise = otherwise
        self._by_hand = dict(by_hand)

    def serve(self, asked: Asked) -> None:
        """Serve a connection's request. Raises RequestError when its bytes are at fault."""
        request, connection = asked.request, asked.connection
        by_hand = self._by_hand.get(request.api_key)
        if by_hand is not None and len(request.body) < LARGE_FETCH_BYTES:
            by_hand(asked)
            return
        if len(request.body) >= LARGE_BYTES and not connection.dear_time.is_free:
            self._serve_later(asked)
            return
        self._serve_now(asked)

    def _serve_now(self, asked: Asked) -> None:
        request, connection = asked.request, asked.connection
        by_hand = self._by_hand.get(request.api_key)
        is_elsewhere = request.api_key not in self._serves and by_hand is None
        if request.supported and not is_elsewhere:
            # Made on first use, which is not the client's fault.
            codec.request_reader(request.api_key, request.version)
            codec.response_writer(request.api_key, request.version)
        # By the time that it computed: what it waited for is not its doing.
        began_ns = time.thread_time_ns()
        if by_hand is not None:
            by_hand(asked)
        else:
            call = Call(request, connection.host, asked.answer, connection.close, connection.address)
            asked.waits = call
            self.serve_call(call)
        took_ms = (time.thread_time_ns() - began_ns) // 1_000_000
        if by_hand is None and asked.parts is None:
            took_ms += len(request.body) // LATER_BYTES_PER_MS
        if took_ms >= DEAR_MS:
            connection.rest(took_ms)

    def _serve_later(self, asked: Asked) -> None:
        """Serve a large request when it is its turn; its connection's next ones wait for it."""
        request, connection = asked.request, asked.connection
        asked.request = kept = replace(request, body=memoryview(bytes(request.body)))
        size_bytes = len(kept.body)
        connection.count_kept(size_bytes)
        connection.hold()

        def serve() -> None:
            connection.count_kept(-size_bytes)
            if asked.parts is None and not connection.is_closed:  # its client is still there
                try:
                    self._serve_now(asked)
                except Exception as error:
                    asked.fail(error)
            kept.body = memoryview(b"")
            connection.release()

        connection.dear_time.later(connection.client_host, serve)

    def serve_call(self, call: Call) -> None:
        """Serve a request from wherever it came."""
        serve = self._serves.get(call.api_key)
        if serve is None:
            if self._otherwise is None or call.api_key not in SERVED:
                raise UnsupportedVersion(f"API {call.api_key} is not served yet")
            self._otherwise(call)
            return
        if not call.head.supported:
            # Only ApiVersions comes here so. Whatever version it was, every client reads this answer in version 0.
            call.version = 0
            call.answer(api_versions.answer(SERVED, is_too_new=True))
            return
        call.request = codec.read_request(call.api_key, call.version, call.head.body, self._elements_max)
        serve(call)


def _api_versions(call: Call) -> None:
    call.answer(api_versions.answer(SERVED))


def _acls(call: Call) -> None:
    call.answer(acls.answer(call.api_key, call.request))


def _list_transactions(call: Call) -> None:
    call.answer(listings.transactions(call.request))


def _list_reassignments(call: Call) -> None:
    call.answer(replicas.reassignments())


def _describe_quotas(call: Call) -> None:
    call.answer(quotas.described())


def _describe_credentials(call: Call) -> None:
    call.answer(credentials.described(call.request))


_EVERYWHERE: dict[int, Serve] = {
    ApiKey.API_VERSIONS: _api_versions,
    ApiKey.DESCRIBE_ACLS: _acls,
    ApiKey.CREATE_ACLS: _acls,
    ApiKey.DELETE_ACLS: _acls,
    ApiKey.LIST_TRANSACTIONS: _list_transactions,
    ApiKey.LIST_PARTITION_REASSIGNMENTS: _list_reassignments,
    ApiKey.DESCRIBE_CLIENT_QUOTAS: _describe_quotas,
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: _describe_credentials,
}
