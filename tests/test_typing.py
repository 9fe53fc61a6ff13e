"""What type checkers and readers see of the package: every name that exists, and no other."""

from __future__ import annotations

import ast
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import kbroker
from kbroker import errors

ROOT = Path(__file__).parent.parent

GOOD = """
import json
from pathlib import Path
from typing import Any

import kbroker
from kbroker import (
    Admin, BrokerUnavailable, Consumer, ConsumerRecord, CorruptRecord, DeserializationError, KbrokerError, NewTopic,
    OffsetAndMetadata, Producer, RecordFuture, RecordMetadata, TopicPartition, aio,
)

def serialized(value: object) -> bytes:
    return json.dumps(value).encode()

def text(data: bytes | None) -> str | None:
    return data.decode() if data else None

consumer = Consumer("t", value_deserializer=json.loads, key_deserializer=text, on_corrupt="skip")
producer = Producer("localhost:7092", value_serializer=serialized, linger_ms=0)
metadata: RecordMetadata = producer.send("t", {"a": 1}).get(1)
consumer.commit({TopicPartition("t", 0): OffsetAndMetadata(metadata.offset + 1)})
try:
    for record in consumer:
        print(record.value, record.offset)
except (CorruptRecord, DeserializationError) as error:
    consumer.seek(error.topic_partition, error.offset + 1)
options: dict[str, Any] = {}
Admin(**options).create_topics([NewTopic("t", 3)])
aio.Producer("localhost", linger_ms=3)
aio.Consumer("t", value_deserializer=json.loads)
fatal: type[KbrokerError] = kbroker.BrokerUnavailable
"""

BAD = """
import kbroker
from kbroker import Produer
from kbroker import *
from kbroker import Consumer, Producer, aio
kbroker.Consumr
Producer(bootstrap_servers="localhost:9092")
Producer(["localhost:7092"])
Producer(lingerms=5)
Consumer("t", value_deserialiser=len)
Consumer("t", value_deserializer=3)
aio.Producer(linger=5)
aio.Consumer("t", group_idd="g")
Consumer("t").pol()
"""


def mypy(folder: Path, name: str, text: str) -> list[str]:
    """The lines that `mypy --strict` complains about."""
    program = folder / f"{name}.py"
    program.write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-incremental", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=110, check=False)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if ": error: " in line]


@pytest.mark.slow
def test_programs_type_check_or_not(tmp_path: Path) -> None:
    assert mypy(tmp_path, "good", GOOD) == []
    numbers = {int(line.split(":")[1]) for line in mypy(tmp_path, "bad", BAD)}
    lines = BAD.splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line and not line.startswith(("import", "from kb"))}
    assert numbers == expected | {lines.index("from kbroker import Produer") + 1}


def test_the_names_of_clients_are_written_twice_alike() -> None:
    """Once for type checkers, once for the interpreter."""
    tree = ast.parse((ROOT / "kbroker" / "__init__.py").read_text())
    (choice,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module for node in choice.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert vars(kbroker)["_HOMES"] == typed


def test_every_error_is_exported() -> None:
    theirs = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == "kbroker.errors"
    }
    assert theirs <= set(kbroker.__all__)
    assert all(getattr(kbroker, name) is getattr(errors, name) for name in theirs)


def test_the_names_can_be_looked_at() -> None:
    assert set(kbroker.__all__) <= set(dir(kbroker))
    assert all(hasattr(kbroker, name) for name in kbroker.__all__)
    text = pydoc.plain(pydoc.render_doc(kbroker))
    for name in ("class Producer", "class Consumer", "class Admin", "class RecordMetadata", "class CorruptRecord"):
        assert name in text


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'kbroker' has no attribute 'Produer'"):
        kbroker.Produer  # type: ignore[attr-defined]  # noqa: B018


def test_the_clients_are_loaded_when_they_are_used() -> None:
    code = "import sys, kbroker; print([name for name in sys.modules if name.startswith(('zmq', 'kbroker.clients'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
