"""Committed offsets: their records there and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kbroker.groups.committed import Committed, CommittedOffsets, Place, decode, encode_key, encode_value

TEXT = st.text(max_size=50)
INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
PLACES = st.builds(Place, TEXT, TEXT, INT32)
COMMITS = st.builds(Committed, INT64, INT32, TEXT, INT64, st.just(-1)) | st.builds(
    Committed, INT64, st.just(-1), TEXT, INT64, st.integers(0, 2**63 - 1)
)


@given(PLACES, COMMITS)
def test_a_record_reads_back(place: Place, committed: Committed) -> None:
    assert decode(encode_key(place), encode_value(committed)) == (place, committed)
    assert decode(encode_key(place), None) == (place, None)


@given(st.binary(max_size=60), st.none() | st.binary(max_size=60))
def test_damaged_records_are_left_out(key: bytes, value: bytes | None) -> None:
    decode(key, value)
    decode(encode_key(Place("g", "t", 1)), value)


def test_the_last_commit_counts_and_none_forgets() -> None:
    offsets = CommittedOffsets()
    place = Place("g", "t", 0)
    offsets.put(place, Committed(1, -1, "", 0))
    offsets.put(place, Committed(2, -1, "", 0))
    offsets.put(Place("g", "t", 1), Committed(9, -1, "", 0))
    assert offsets.get(place) == Committed(2, -1, "", 0)
    assert offsets.groups() == ["g"]
    offsets.put(place, None)
    assert list(offsets.of_group("g")) == [("t", 1)]
    offsets.put(Place("g", "t", 1), None)
    assert offsets.groups() == []
