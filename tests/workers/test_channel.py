from __future__ import annotations

from kbroker.workers.channel import Channel, channel_pair
from kbroker.workers.loop import Loop


def pair() -> tuple[Channel, Channel]:
    ours, theirs = channel_pair()
    return Channel(ours), Channel(theirs)


def test_messages_arrive_in_order() -> None:
    ours, theirs = pair()
    ours.send("a", ["ping", 1])
    ours.send("b", ["drain"])
    assert theirs.receive() == [["ping", 1], ["drain"]]
    assert theirs.receive() == []
    assert not theirs.closed


def test_a_full_channel_never_blocks_and_keeps_the_newest_of_each_subject() -> None:
    ours, theirs = pair()
    for number in range(100_000):
        ours.send("peers", ["peers", number])
    ours.send("drain", ["drain"])
    assert len(ours._waiting) == 2
    received = []
    while some := theirs.receive():
        received += some
        ours.flush()
    assert received[-2:] == [["peers", 99_999], ["drain"]]
    numbers = [message[1] for message in received[:-1]]
    assert numbers == sorted(numbers)


def test_what_waited_goes_out_when_there_is_room() -> None:
    ours, theirs = pair()
    loop = Loop()
    ours.watch(loop, lambda: None)
    while not ours._waiting:
        ours.send("x", ["x" * 1000])
    ours.send("last", ["last"])
    received = []
    while ["last"] not in received:
        received += theirs.receive()
        loop.turn(0)
    assert not ours._waiting
    ours.close()
    loop.close()


def test_the_other_end_gone() -> None:
    ours, theirs = pair()
    theirs.send("ready", ["ready", ""])
    theirs.close()
    ours.send("ping", ["ping", 1])
    assert ours.closed
    # What it sent before its end still comes.
    assert ours.receive() == [["ready", ""]]


def test_nonsense_is_skipped() -> None:
    ours, theirs = channel_pair()
    channel = Channel(ours)
    for packed in (b"\xc1", b"\x90", b"\x01", b"\x91\x01", b"garbage", b"\x91\xa1a"):
        theirs.send(packed)
    assert channel.receive() == [["a"]]
    theirs.close()
    channel.close()
