"""Cursors: whatever way the bytes came, each record is given out once, in order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbroker.clients.consumer_core import ConsumerCore, Cursor
from kbroker.clients.records import ConsumerRecord
from kbroker.errors import CorruptRecord, DeserializationError, LogTruncated
from kbroker.records.batch import write_crc
from kbroker.records.codec import BatchBuilder
from kbroker.types import TopicPartition

TP = TopicPartition("t", 0)


def make_batch(base_offset: int, count: int) -> bytes:
    builder = BatchBuilder()
    for number in range(count):
        builder.append(1000 + number, None, b"%d" % (base_offset + number))
    batch = builder.build()
    batch[0:8] = base_offset.to_bytes(8, "big")
    batch[12:16] = (3).to_bytes(4, "big")
    return bytes(batch)


def at(offset: int) -> Cursor:
    cursor = Cursor(TP)
    cursor.move(offset)
    return cursor


def offsets(records: list[ConsumerRecord]) -> list[int]:
    return [record.offset for record in records]


LOG = b"".join(make_batch(base, 5) for base in range(0, 50, 5))


class TestCursor:
    def test_the_first_batch_may_begin_before_the_position(self) -> None:
        cursor = at(3)
        cursor.put(LOG, True)
        assert cursor.decode(100)
        assert offsets(cursor.take(100)) == [3, 4]
        assert cursor.position == 5
        assert cursor.last_epoch == 3
        assert cursor.fetch_offset == 50

    def test_the_same_bytes_twice_are_taken_once(self) -> None:
        cursor = at(0)
        assert cursor.put(LOG, True) == 10
        assert cursor.put(LOG, True) == 0

    def test_half_a_batch_at_the_end_is_left_out(self) -> None:
        cursor = at(0)
        assert cursor.put(LOG[:-1], True) == 9
        assert cursor.fetch_offset == 45

    def test_an_impossible_length_is_told_behind_what_came_before(self) -> None:
        bad = bytearray(make_batch(5, 5))
        bad[8:12] = (48).to_bytes(4, "big")
        core = ConsumerCore()
        (cursor,) = core.assign([TP])
        cursor.move(0)
        assert cursor.put(make_batch(0, 5) + bytes(bad), True) == 1
        assert core.next_ready() is cursor
        assert cursor.decode(10)
        assert offsets(cursor.take(10)) == [0, 1, 2, 3, 4]
        with pytest.raises(CorruptRecord, match="t-0: offset 5 is corrupt: a batch says length 48; seek to 6"):
            core.next_ready()

    def test_take_in_parts(self) -> None:
        cursor = at(0)
        cursor.put(LOG, True)
        cursor.decode(100)
        assert offsets(cursor.take(2)) == [0, 1]
        assert cursor.position == 2
        assert offsets(cursor.take(10)) == [2, 3, 4]
        assert cursor.position == 5

    def test_a_batch_decoded_by_parts(self) -> None:
        cursor = at(1)
        cursor.put(LOG, True)
        assert cursor.decode(2)
        assert offsets(cursor.take(5)) == [1, 2]
        assert cursor.position == 3
        assert cursor.buffered_bytes == len(LOG)
        assert cursor.decode(2)
        assert offsets(cursor.take(5)) == [3, 4]
        assert cursor.buffered_bytes == len(LOG) - len(make_batch(0, 5))

    def test_a_batch_that_does_not_decode_stays_where_it_is(self) -> None:
        cursor = at(0)
        cursor.put(LOG, True)

        def refuse(value: bytes | None) -> bytes | None:
            if value == b"3":
                raise ValueError("3")
            return value

        assert cursor.decode(10, None, refuse)
        assert offsets(cursor.take(10)) == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(DeserializationError, match="t-0, offset 3: value_deserializer raised ValueError: 3"):
                cursor.decode(3, None, refuse)
        assert cursor.decode(3)
        assert offsets(cursor.take(3)) == [3, 4]

    def test_leaving_an_iteration_loses_nothing(self) -> None:
        cursor = at(0)
        cursor.put(LOG, True)
        cursor.decode(100)
        cursor.given = cursor.records[1]
        assert cursor.now_at() == 2
        cursor.settle()
        assert offsets(cursor.take(10)) == [2, 3, 4]

    def test_batches_after_records_start_in_the_middle(self) -> None:
        cursor = at(0)
        cursor.put(LOG, True)
        cursor.decode(100)
        cursor.take(2)
        batches = cursor.take_batches()
        assert offsets([record for batch in batches for record in batch]) == list(range(2, 50))
        assert cursor.position == 50

    def test_a_seek_drops_what_was_read(self) -> None:
        cursor = at(0)
        cursor.put(LOG, True)
        cursor.decode(100)
        ticket = cursor.ticket
        cursor.move(40)
        assert cursor.ticket != ticket
        assert not cursor.decode(100)
        cursor.put(LOG, True)
        cursor.decode(100)
        assert offsets(cursor.take(10)) == [40, 41, 42, 43, 44]

    def test_transaction_markers_are_passed_over(self) -> None:
        marker = bytearray(make_batch(0, 1))
        marker[22] |= 0x20
        write_crc(marker, 0, len(marker))
        cursor = at(0)
        assert cursor.put(bytes(marker), True) == 0
        assert cursor.position == 1

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("prbdsi"), st.integers(0, 12)), max_size=40))
    def test_each_record_once_in_order_whatever_is_done(self, steps: list[tuple[str, int]]) -> None:
        cursor = at(0)
        seen: list[int] = []
        for name, number in steps:
            if name == "p":  # bytes come, from a batch at or before the place
                start = max(0, cursor.fetch_offset // 5 - number % 3)
                cursor.put(b"".join(make_batch(base * 5, 5) for base in range(start, min(start + 4, 10))), True)
            elif name == "r" and cursor.decode(number // 2 + 1):
                seen += offsets(cursor.take(number + 1))
            elif name == "b":
                seen += offsets([record for batch in cursor.take_batches() for record in batch])
            elif name == "d":  # the way to read changes
                cursor.drop()
            elif name == "s":
                cursor.settle()
            elif name == "i" and cursor.decode(number // 2 + 1):
                records = cursor.records
                for record in records[: number + 1]:
                    cursor.given = record
                    seen.append(record.offset)
                if cursor.given is records[-1]:
                    cursor.finish()
                else:
                    cursor.settle()
            assert seen == list(range(len(seen)))
            assert cursor.now_at() == len(seen)


class TestConsumerCore:
    def test_partitions_take_turns(self) -> None:
        core = ConsumerCore()
        cursors = core.assign([TopicPartition("t", n) for n in range(3)])
        for cursor in cursors:
            cursor.move(0)
            cursor.put(LOG, True)
        turns = [core.next_ready() for _ in range(6)]
        assert turns == cursors * 2

    def test_paused_ones_are_passed_over_but_stay(self) -> None:
        core = ConsumerCore()
        one, two = core.assign([TopicPartition("t", n) for n in range(2)])
        for cursor in (one, two):
            cursor.move(0)
            cursor.put(LOG, True)
        one.paused = True
        assert [core.next_ready() for _ in range(2)] == [two, two]
        assert core.wanting(0, 10**9) == [two]

    def test_a_fault_is_raised_until_a_seek(self) -> None:
        core = ConsumerCore()
        (cursor,) = core.assign([TP])
        cursor.move(7)
        cursor.fault = LogTruncated(TP, 7, 5)
        for _ in range(2):
            with pytest.raises(LogTruncated, match="truncated to offset 5"):
                core.next_ready()
        cursor.move(5)
        assert core.next_ready() is None

    def test_an_assignment_keeps_those_that_stay(self) -> None:
        core = ConsumerCore()
        (one,) = core.assign([TP])
        one.move(5)
        (two,) = core.assign([TP, TopicPartition("t", 1)])
        assert core.cursors[TP] is one
        assert two.topic_partition.partition == 1
        assert core.assign([TopicPartition("t", 1)]) == []
        assert list(core.cursors) == [TopicPartition("t", 1)]
