"""An idempotent producer by hand: numbered records, five requests in flight, sent again until they are acknowledged."""

from __future__ import annotations

import zmq

from kbroker.errors import RetriableError
from kbroker.wire import codec
from kbroker.wire import messages as m

from .raw_client import RawClient, batch

IN_FLIGHT = 5
ANSWER_MS = 300
"""What was not answered by then is sent again; a duplicate does no harm."""


class Writer:
    """Writes `0`, `1`, … to one partition; `acknowledged` is how many were taken."""

    def __init__(self, client: RawClient, topic: str, partition: int = 0, acks: int = -1) -> None:
        self.client = client
        self.request = m.Produce(topic, partition, acks)
        self.producer_id = client.ask_until_served(m.ProducerIdAnswer, m.InitProducerId()).producer_id
        self.acknowledged = 0
        self._sent: list[bytes] = []
        client.socket.setsockopt(zmq.RCVTIMEO, ANSWER_MS)

    def send(self) -> None:
        """Fill up to IN_FLIGHT requests; answers are not waited for."""
        while len(self._sent) < IN_FLIGHT:
            number = self.acknowledged + len(self._sent)
            record = batch([b"%d" % number], producer_id=self.producer_id, sequence=number)
            self._sent.append(self.client.send(self.request, record))

    def take(self) -> None:
        """Take the answers; from the first one that is an error or missing, all are sent again by the next `send`."""
        sent, self._sent = self._sent, []
        whole = True
        for request_id in sent:
            try:
                codec.decode_answer(m.ProduceAnswer, self.client.take(request_id)[0])
                self.acknowledged += whole
            except RetriableError:
                whole = False
            except zmq.Again:
                return
            except Exception:
                # A sequence out of order is what those behind a lost one get.
                if whole:
                    raise

    def write(self, count: int) -> None:
        """Go on until `count` more records are acknowledged."""
        goal = self.acknowledged + count
        while self.acknowledged < goal:
            self.send()
            self.take()

    def check(self) -> None:
        """Nothing acknowledged is lost, nothing is doubled, the order is kept."""
        values = [int(record[4] or b"") for record in self.client.records(self.request.topic, self.request.partition)]
        assert values == list(range(len(values)))
        assert self.acknowledged <= len(values) <= self.acknowledged + IN_FLIGHT
