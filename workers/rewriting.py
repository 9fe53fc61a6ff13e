"""Batches on their way into topics that ask more of their records: looked into and compressed anew, in order.

What takes long is done beside the loop (`RecordWork`), one request of a partition at a time; small ones that nobody is
ahead of are done at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from kbroker.errors import CorruptMessage, KbrokerError, NotLeaderOrFollower, RequestTimedOut
from kbroker.records.policy import RecordPolicy
from kbroker.records.steps import TURN, Steps
from kbroker.workers.partition import Partition
from kbroker.workers.record_work import RecordWork

log = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview
Done = Callable[[Buffer, KbrokerError | None], None]
"""Gets the batches as the topic wants them, or why it does not want them."""

WAITING_BYTES_MAX = 256 << 20
"""More than this of one worker's requests is not kept waiting: the client is asked to try again."""
WAITING_MAX = 10_000
"""The same for their number."""


class Rewrite(NamedTuple):
    """A request's batches for one partition. `policy` None: they only wait for those ahead of them."""

    batches: bytes
    policy: RecordPolicy | None
    done: Done


class Rewriting:
    """All such requests of a worker; `is_served` tells whether a partition is still there to be appended to."""

    def __init__(self, work: RecordWork, now_ms: Callable[[], int], is_served: Callable[[Partition], bool]) -> None:
        self._work = work
        self._now_ms = now_ms
        self._is_served = is_served
        self._waiting_bytes = 0
        self._waiting = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._waiting

    def rewrite(self, partition: Partition, batches: Buffer, done: Done) -> None:
        """Call `done` when it is the turn of these batches. A copy is kept of what has to wait.

        Raises RequestError for batches that are not sound, RequestTimedOut when too much is waiting.
        """
        policy = partition.log.policy
        view = memoryview(batches)
        if not partition.rewrites and policy is not None and policy.is_light(view):
            try:
                rewritten = policy.apply(view, self._now_ms())
            except Exception as error:
                raise _refusal(partition, error) from error
            done(rewritten, None)
            return
        if self._waiting_bytes + len(view) > WAITING_BYTES_MAX or self._waiting >= WAITING_MAX:
            raise RequestTimedOut(f"{partition.name}: too many records wait to be looked into; try again")
        self._waiting_bytes += len(view)
        self._waiting += 1
        partition.rewrites.append(Rewrite(bytes(view), policy, done))
        if len(partition.rewrites) == 1:
            self._begin(partition)

    def _begin(self, partition: Partition) -> None:
        batches, policy, _done = partition.rewrites[0]
        if policy is None:
            self._work.submit(_unchanged(batches), partial(self._finish, partition))
        else:
            self._work.submit(policy.steps(memoryview(batches), self._now_ms()), partial(self._finish, partition))

    def _finish(self, partition: Partition, rewritten: Buffer | None, error: BaseException | None) -> None:
        batches, _policy, done = partition.rewrites.popleft()
        self._waiting_bytes -= len(batches)
        self._waiting -= 1
        refusal = None if error is None else _refusal(partition, error)
        if refusal is None and not self._is_served(partition):
            refusal = NotLeaderOrFollower(f"{partition.name} is not served here any longer")
        done(rewritten or b"", refusal)
        if partition.rewrites:
            self._begin(partition)
        else:
            partition.is_rewritten = partition.log.policy is not None


def _unchanged(batches: bytes) -> Steps[Buffer]:
    """What only waits for those ahead of it."""
    yield TURN
    return batches


def _refusal(partition: Partition, error: BaseException) -> KbrokerError:
    """What the client is told. Records come from outside: whatever they make a codec do, the worker goes on."""
    if isinstance(error, KbrokerError):
        return error
    log.error("%s: batches could not be looked into", partition.name, exc_info=error)
    return CorruptMessage(f"{partition.name}: the records cannot be read: {error!r:.200}")
