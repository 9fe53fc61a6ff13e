"""The coordinator asks the supervisor for its status for clients elsewhere: once for all, never without end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from kbroker.errors import CoordinatorNotAvailable, ThrottlingQuotaExceeded
from kbroker.wire import codec
from kbroker.wire import messages as m
from kbroker.workers.doors import Asked
from kbroker.workers.loop import Loop
from kbroker.workers.status_requests import WAITING_MAX, StatusRequests
from tests.cli.served import short_folder


class Client:
    """Stands for a request: keeps what it was answered."""

    def __init__(self) -> None:
        self.header: bytes | None = None
        self.error: BaseException | None = None

    def answer(self, header: bytes) -> None:
        self.header = header

    def refuse(self, error: BaseException) -> None:
        self.error = error


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def ask(requests: StatusRequests, client: Client) -> None:
    requests.serve(cast(Asked, client), m.BrokerStatus())


def test_one_question_for_all_who_wait(folder: Path) -> None:
    loop = Loop()
    requests = StatusRequests(folder, loop)
    asked: list[int] = []
    may_answer = threading.Event()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "supervisor.sock"))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(1)
                may_answer.wait()
                connection.sendall(json.dumps({"state": "ready"}).encode())

        thread = threading.Thread(target=serve)
        thread.start()
        clients = [Client() for _ in range(WAITING_MAX)]
        for client in clients:
            ask(requests, client)
        with pytest.raises(ThrottlingQuotaExceeded):
            ask(requests, Client())
        may_answer.set()
        while clients[-1].header is None:
            loop.turn()
        thread.join()
    assert asked == [1]
    for client in clients:
        answer: Any = codec.decode_answer(m.BrokerStatusAnswer, client.header or b"")
        assert json.loads(answer.document) == {"state": "ready"}
    requests.close()


def test_without_a_supervisor_it_may_be_tried_again(folder: Path) -> None:
    loop = Loop()
    requests = StatusRequests(folder, loop)
    client = Client()
    ask(requests, client)
    while client.error is None:
        loop.turn()
    assert isinstance(client.error, CoordinatorNotAvailable)
    requests.close()
