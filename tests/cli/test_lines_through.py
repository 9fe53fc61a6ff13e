"""`kbroker produce` and `kbroker consume` against a real broker: what goes in comes out, byte for byte."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from kbroker import Admin, TopicPartition
from tests.cli.served import Served, serve, short_folder

ALL = ("--from-beginning", "--exit-at-end")


@pytest.mark.slow
def test_every_byte_but_the_newline_passes(served: Served, tmp_path: Path) -> None:
    text = b"\n".join([b"", b"\r", b"\x00", b"\xff\xfe", "é".encode(), b"  spaces  ", b"last, without a newline"])
    file = tmp_path / "text"
    file.write_bytes(text)
    done = served.run("produce", "bytes", str(file))
    assert (done.returncode, done.stderr) == (
        0,
        b"kbroker: the topic bytes was not there: created it\nkbroker: 7 records acknowledged\n",
    )
    assert served.must("consume", "bytes", *ALL) == text + b"\n"
    assert served.must("consume", "bytes", *ALL, "-f", "%v|", "-n", "2") == b"|\r|"


@pytest.mark.slow
def test_keys_headers_and_partitions(served: Served) -> None:
    served.must("topic", "create", "keyed", "-p", "4")
    done = served.run(
        "produce", "keyed", "-K", r"\t", "-H", "from=tests", "-H", "from=here", given=b"a\t1\nb\t2\na\t3\nnone\n"
    )
    assert done.returncode == 0
    assert b"1 line without the key separator" in done.stderr
    records = [json.loads(line) for line in served.must("consume", "keyed", *ALL, "--json").splitlines()]
    assert sorted((r["key"], r["value"]) for r in records if r["key"]) == [("a", "1"), ("a", "3"), ("b", "2")]
    assert [r["value"] for r in records if r["key"] is None] == ["none"]
    assert [r["value"] for r in records if r["key"] == "a"] == ["1", "3"]
    assert {r["partition"] for r in records if r["key"] == "a"}.__len__() == 1
    headers = [{"name": "from", "value": "tests"}, {"name": "from", "value": "here"}]
    assert all(r["headers"] == headers for r in records)

    served.must("produce", "keyed", "-k", "fixed", "-p", "2", "-z", "zstd", given=b"x\n" * 100)
    out = served.must("consume", "keyed", *ALL, "-p", "2", "-f", "%t %p %k %v\n")
    assert out.count(b"keyed 2 fixed x\n") == 100


@pytest.mark.slow
def test_where_to_start_and_how_many(served: Served) -> None:
    served.must("produce", "numbers", given=b"".join(b"%d\n" % n for n in range(100)))
    assert served.must("consume", "numbers", "--offset", "97", "--exit-at-end") == b"97\n98\n99\n"
    assert served.must("consume", "numbers", "--offset", "-2", "--exit-at-end") == b"98\n99\n"
    assert served.must("consume", "numbers", *ALL, "-n", "3", "-f", "%o,") == b"0,1,2,"
    assert served.must("consume", "numbers", "--exit-at-end") == b""
    first = json.loads(served.must("consume", "numbers", *ALL, "--json", "-n", "1"))
    since = str(first["timestamp_ms"])
    assert served.must("consume", "numbers", "--from-timestamp", since, "--exit-at-end", "-n", "1") == b"0\n"
    done = served.run("consume", "numbers", "--from-timestamp", "2999-01-01", "--exit-at-end")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"2999-01-01 names no zone: taken as local time, 2999-01-01T00:00:00" in done.stderr
    assert b"no record is that young" in done.stderr
    done = served.run("consume", "numbers", "--from-timestamp", "2000-01-01T00:00:00Z", "--exit-at-end", "-n", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")


def begin_at(served: Served, topic: str, offset: int) -> None:
    """As retention would have it."""
    with Admin(served.server) as admin:
        admin.delete_records({TopicPartition(topic, 0): offset})


@pytest.mark.slow
def test_offsets_that_are_not_there_are_told(served: Served) -> None:
    """The nearest that is there is taken, and stderr says so."""
    served.must("produce", "begun", given=b"".join(b"%d\n" % n for n in range(10)))
    begin_at(served, "begun", 7)
    rest = b"7\n8\n9\n"
    for offset, printed, said in (
        ("3", rest, b"begun-0: offset 3 is before the first one there, 7; starting there"),
        ("11", b"", b"begun-0: offset 11 is past the end, 10; starting there"),
        ("-30", rest, b"begun-0: 30 records back is before the first one there, 7; starting there"),
    ):
        done = served.run("consume", "begun", f"--offset={offset}", "--exit-at-end")
        assert (done.returncode, done.stdout, done.stderr) == (0, printed, b"kbroker: " + said + b"\n")
    for offset in ("7", "10", "-3"):
        assert served.run("consume", "begun", f"--offset={offset}", "--exit-at-end").stderr == b""


@pytest.mark.slow
@pytest.mark.parametrize(("committed", "said"), [(3, b"before the first one there, 7"), (12, b"past the end, 10")])
def test_a_group_whose_offset_is_not_there_is_told(served: Served, committed: int, said: bytes) -> None:
    topic = f"group{committed}"
    served.must("produce", topic, given=b"".join(b"%d\n" % n for n in range(10)))
    begin_at(served, topic, 7)
    with Admin(served.server) as admin:
        admin.alter_consumer_group_offsets(topic, {TopicPartition(topic, 0): committed})
    with served.start("consume", topic, "-g", topic, "-n", "3") as consumer:
        assert consumer.stdout is not None
        assert consumer.stderr is not None
        line = consumer.stderr.readline()
        assert b"the group's committed offset %d is " % committed + said in line
        if committed > 10:
            served.must("produce", topic, given=b"7\n8\n9\n")
        assert consumer.stdout.read() == b"7\n8\n9\n"
        assert consumer.wait(20) == 0


def test_a_near_topic_is_named(served: Served) -> None:
    served.must("topic", "create", "payments", "--if-not-exists")
    for command in (
        ["consume", "paymnts"],
        ["topic", "describe", "paymnts"],
        ["topic", "delete", "paymnts", "--yes"],
        ["topic", "alter", "paymnts", "--set", "retention.ms=1"],
        ["topic", "add-partitions", "paymnts", "7"],
    ):
        done = served.run(*command)
        assert done.returncode == 1
        assert done.stderr == b"kbroker: there is no topic 'paymnts'; did you mean payments?\n"


@pytest.mark.slow
def test_a_new_topic_out_of_a_pipe() -> None:
    """It is made as the broker has it, and stderr says so; --create makes it wherever."""
    with short_folder() as folder, serve(folder, "--set", "auto.create.topics.enable=false") as broker:
        broker.must("topic", "create", "payments")
        done = broker.run("produce", "paymnts", given=b"x\n")
        assert done.returncode == 1
        assert b"did you mean payments?; --create makes it" in done.stderr
        assert broker.must("topic", "list") == b"payments\n"
        done = broker.run("produce", "paymnts", "--create", given=b"x\n")
        assert done.stderr == b"kbroker: created the topic paymnts\nkbroker: 1 record acknowledged\n"
        assert broker.run("produce", "paymnts", "--create", given=b"x\n").stderr == b"kbroker: 1 record acknowledged\n"


def test_verbose_says_which_way_it_was_read(served: Served) -> None:
    served.must("produce", "way", given=b"x\n" * 1000)
    done = served.run("consume", "way", *ALL, "--verbose")
    assert done.stderr == b"kbroker: 1000 records, read through shm\n"


@pytest.mark.slow
def test_a_consumer_that_waits_prints_what_comes(served: Served) -> None:
    served.must("topic", "create", "tail")
    with served.start("consume", "tail", "--from-beginning") as consumer:
        assert consumer.stdout is not None
        assert consumer.stderr is not None
        for line in (b"first\n", b"second\n"):
            served.must("produce", "tail", given=line)
            assert consumer.stdout.readline() == line
        consumer.send_signal(signal.SIGINT)
        assert consumer.wait(20) == 130
        assert consumer.stderr.read() == b""


@pytest.mark.slow
def test_a_consumer_whose_reader_goes_is_quiet(served: Served) -> None:
    served.must("produce", "pipe", given=b"x" * 100 + b"\n" + b"y\n" * 50_000)
    with served.start("consume", "pipe", *ALL) as consumer:
        assert consumer.stdout is not None
        assert consumer.stderr is not None
        assert consumer.stdout.read(1) == b"x"
        consumer.stdout.close()
        assert consumer.wait(20) == 141
        assert consumer.stderr.read() == b""


def test_a_typed_line_is_sent_before_the_next(served: Served) -> None:
    served.must("topic", "create", "typed")
    with served.start("produce", "typed") as producer:
        assert producer.stdin is not None
        producer.stdin.write(b"now\n")
        producer.stdin.flush()
        assert served.must("consume", "typed", "--from-beginning", "-n", "1") == b"now\n"
        producer.stdin.close()
        assert producer.wait(20) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["consume", "nothing-here"], "nothing-here", 1),
        (["consume", "refused", "-p", "7"], "7", 1),
        (["produce", "refused", "-p", "7"], "7", 2),
        (["produce", "no/name"], "no/name", 1),
    ],
)
def test_what_is_not_there_is_named(served: Served, arguments: list[str], said: str, code: int) -> None:
    served.must("topic", "create", "refused", "--if-not-exists")
    done = served.run(*arguments, given=b"x\n")
    assert done.returncode == code
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_record_that_is_too_large_fails_and_says_so(served: Served) -> None:
    served.must("topic", "create", "small", "--set", "max.message.bytes=1000")
    done = served.run("produce", "small", given=b"x" * 5000 + b"\n")
    assert done.returncode == 1
    summary, reason = done.stderr.decode().splitlines()
    assert summary == "kbroker: 0 of 1 records acknowledged"
    assert "1000" in reason


@pytest.mark.slow
def test_the_files_can_be_looked_into(served: Served) -> None:
    served.must("produce", "files", given=b"one\ntwo\n")
    folder = served.data_dir / "files-0"
    (facts,) = json.loads(served.must("log", "verify", str(folder), "--json"))
    assert (facts["records"], facts["problems"]) == (2, [])
    lines = [json.loads(line) for line in served.must("log", "dump", str(folder), "--records", "--json").splitlines()]
    assert lines[0]["records"] == 2
    assert [line["value"] for line in lines[1:]] == ["one", "two"]


@pytest.mark.slow
def test_damage_in_a_file_is_found_and_told_from_the_rest(served: Served, tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n", b"three\n"):
        served.must("produce", "damaged", given=text)
    data = bytearray((served.data_dir / "damaged-0" / f"{0:020d}.log").read_bytes())
    data[len(data) // 2] ^= 0xFF
    copy = tmp_path / f"{0:020d}.log"
    copy.write_bytes(data)
    done = served.run("log", "verify", str(copy), "--json")
    assert done.returncode == 1
    (facts,) = json.loads(done.stdout)
    assert facts["records"] == 2
    assert "offsets 1 to 1" in facts["problems"][0]
