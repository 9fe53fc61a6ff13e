"""The assignors: valid for any subscriptions, balanced, and sticky as far as balance allows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.groups import assignors
from kbroker.groups.assignment import Assignment, partitions_of, size
from kbroker.groups.assignors import ASSIGNORS, Subscriber, range_, uniform

TOPIC_IDS = [bytes([i]) * 16 for i in range(1, 5)]
A, B = TOPIC_IDS[:2]
Members = Mapping[str, Subscriber]
counts = st.fixed_dictionaries({topic: st.integers(0, 6) for topic in TOPIC_IDS})
owned = st.dictionaries(st.sampled_from(TOPIC_IDS), st.frozensets(st.integers(0, 8), min_size=1))
names = st.sampled_from([f"m{i}" for i in range(6)])
anything = st.dictionaries(
    names,
    st.builds(
        Subscriber,
        st.frozensets(st.sampled_from(TOPIC_IDS)),
        owned,
        st.none() | st.sampled_from("ij"),
    ),
)
alike = st.dictionaries(names, st.builds(Subscriber, st.just(frozenset(TOPIC_IDS)), owned), min_size=1)


def loads(assigned: Mapping[str, Assignment]) -> list[int]:
    return sorted(size(assignment) for assignment in assigned.values())


def kept(members: Members, assigned: Mapping[str, Assignment]) -> int:
    """How many partitions stay with whom they were."""
    return sum(len(set(partitions_of(assigned[m])) & set(partitions_of(members[m].owned))) for m in members)


def again(members: Members, assigned: Mapping[str, Assignment]) -> dict[str, Subscriber]:
    """The members as they are when that was assigned to them."""
    return {m: member._replace(owned=assigned[m]) for m, member in members.items() if m in assigned}


@pytest.mark.parametrize("name", ASSIGNORS)
@given(members=anything, partition_counts=counts)
def test_what_is_read_is_owned_once_and_by_one_who_reads_it(
    name: str, members: Members, partition_counts: dict[bytes, int]
) -> None:
    assigned = ASSIGNORS[name](members, partition_counts)
    assert assigned.keys() == members.keys()
    given_out = [p for assignment in assigned.values() for p in partitions_of(assignment)]
    read = {topic for member in members.values() for topic in member.topics}
    assert sorted(given_out) == sorted((topic, n) for topic in read for n in range(partition_counts[topic]))
    assert all(topic in members[m].topics and numbers for m in members for topic, numbers in assigned[m].items())


@pytest.mark.parametrize("name", ASSIGNORS)
@given(members=anything, partition_counts=counts)
def test_the_order_of_members_does_not_matter(name: str, members: Members, partition_counts: dict[bytes, int]) -> None:
    backwards = dict(sorted(members.items(), reverse=True))
    assert ASSIGNORS[name](members, partition_counts) == ASSIGNORS[name](backwards, partition_counts)


class TestUniform:
    @given(members=alike, partition_counts=counts)
    def test_like_subscriptions_give_like_loads(self, members: Members, partition_counts: dict[bytes, int]) -> None:
        found = loads(uniform(members, partition_counts))
        assert found[-1] - found[0] <= 1

    @given(members=alike, partition_counts=counts)
    def test_no_more_moves_than_balance_needs(self, members: Members, partition_counts: dict[bytes, int]) -> None:
        assigned = uniform(members, partition_counts)
        # What may stay: nobody's twice (the first has it), nothing that does not exist, no more than a fair share.
        seen: set[tuple[bytes, int]] = set()
        mine = []
        for m in sorted(members):
            valid = {(t, n) for t, n in partitions_of(members[m].owned) if n < partition_counts[t]} - seen
            seen |= valid
            mine.append(len(valid))
        least, extras = divmod(sum(partition_counts.values()), len(members))
        may_stay = sum(min(n, least) for n in mine) + min(extras, sum(n > least for n in mine))
        assert kept(members, assigned) >= may_stay

    @given(members=anything, partition_counts=counts)
    def test_nothing_moves_without_a_reason(self, members: Members, partition_counts: dict[bytes, int]) -> None:
        assigned = uniform(members, partition_counts)
        assert uniform(again(members, assigned), partition_counts) == assigned

    @given(members=alike, partition_counts=counts, data=st.data())
    def test_a_death_moves_only_what_the_dead_had(
        self, members: Members, partition_counts: dict[bytes, int], data: st.DataObject
    ) -> None:
        before = uniform(members, partition_counts)
        dead = data.draw(st.sampled_from(sorted(members)))
        others = {m: member for m, member in again(members, before).items() if m != dead}
        after = uniform(others, partition_counts)
        assert all(set(partitions_of(before[m])) <= set(partitions_of(after[m])) for m in others)

    @given(members=anything, partition_counts=counts)
    def test_no_move_makes_unlike_subscriptions_more_even(
        self, members: Members, partition_counts: dict[bytes, int]
    ) -> None:
        assigned = uniform(members, partition_counts)
        for assignment in assigned.values():
            for other, topic in product(assigned, assignment):
                assert topic not in members[other].topics or size(assignment) - size(assigned[other]) <= 1

    @given(
        subscriptions=st.lists(st.frozensets(st.sampled_from(TOPIC_IDS[:3])), min_size=1, max_size=3),
        partition_counts=st.fixed_dictionaries({topic: st.integers(0, 2) for topic in TOPIC_IDS[:3]}),
    )
    def test_nothing_is_more_even_at_all(
        self, subscriptions: list[frozenset[bytes]], partition_counts: dict[bytes, int]
    ) -> None:
        members = {f"m{i}": Subscriber(topics) for i, topics in enumerate(subscriptions)}
        takers = [
            [m for m in members if topic in members[m].topics]
            for topic, count in partition_counts.items()
            for _ in range(count)
        ]
        choices = product(*(each for each in takers if each))
        best = min(sorted(map(choice.count, members))[::-1] for choice in choices)
        assert loads(uniform(members, partition_counts))[::-1] == best

    def test_a_chain_of_moves(self) -> None:
        """m1 is overloaded, and what m3 could take of it has to come through m2."""
        c = TOPIC_IDS[2]
        members = {
            "m1": Subscriber(frozenset({A}), {A: frozenset({0, 1, 2, 3})}),
            "m2": Subscriber(frozenset({A, B}), {B: frozenset({0, 1})}),
            "m3": Subscriber(frozenset({B, c})),
        }
        assert loads(uniform(members, {A: 4, B: 2, c: 0})) == [2, 2, 2]

    def test_a_balance_that_takes_too_long_is_left_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        members = {"m1": Subscriber(frozenset({A, B}), {A: frozenset(range(9))}), "m2": Subscriber(frozenset({A}))}
        monkeypatch.setattr(assignors, "BALANCING_STEPS_MAX", 2)
        assert sum(loads(uniform(members, {A: 9, B: 0}))) == 9


class TestRange:
    def test_topics_are_cut_alike(self) -> None:
        both = frozenset({A, B})
        members = {m: Subscriber(both) for m in ("m2", "m1", "m3")}
        assigned = range_(members, {A: 7, B: 7})
        assert assigned["m1"] == {A: frozenset({0, 1, 2}), B: frozenset({0, 1, 2})}
        assert assigned["m2"] == {A: frozenset({3, 4}), B: frozenset({3, 4})}
        assert assigned["m3"] == {A: frozenset({5, 6}), B: frozenset({5, 6})}

    def test_static_members_come_first_by_their_instance_id(self) -> None:
        members = {
            "a": Subscriber(frozenset({A})),
            "b": Subscriber(frozenset({A}), instance_id="2"),
            "c": Subscriber(frozenset({A}), instance_id="1"),
        }
        assigned = range_(members, {A: 3})
        assert {m: set(assigned[m][A]) for m in members} == {"c": {0}, "b": {1}, "a": {2}}

    @given(members=alike, partition_counts=counts)
    def test_each_range_is_one_run(self, members: Members, partition_counts: dict[bytes, int]) -> None:
        for assignment in range_(members, partition_counts).values():
            assert all(max(numbers) - min(numbers) + 1 == len(numbers) for numbers in assignment.values())
