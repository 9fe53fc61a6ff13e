"""No client can make a group larger than a batch of `__consumer_offsets`: who asks for too much is refused by name."""

from __future__ import annotations

import pytest

from kbroker.errors import (
    GroupMaxSizeReached,
    InvalidCommitOffsetSize,
    InvalidGroupId,
    InvalidRequest,
    UnknownMemberId,
    UnsupportedVersion,
)
from kbroker.groups.classic import ClassicGroup
from kbroker.groups.events import LeavingMember, OffsetToCommit
from kbroker.groups.limits import (
    COMMIT_BYTES_MAX,
    COMMIT_OFFSETS_MAX,
    GROUP_BYTES_MAX,
    MEMBER_METADATA_BYTES_MAX,
    NAME_BYTES_MAX,
    PATTERNS_MAX,
    SUBSCRIPTION_BYTES_MAX,
)
from kbroker.groups.settings import GroupSettings
from kbroker.workers.offsets_log import BATCH_BYTES_MAX
from tests.groups.coordinator import GROUP, Coordinator, subscription
from tests.groups.kip848 import ConsumerCoordinator


def large(size: int) -> tuple[tuple[str, bytes], ...]:
    """A protocol whose metadata has that size."""
    return (("range", subscription("a") + bytes(size)),)


NEARLY = MEMBER_METADATA_BYTES_MAX - 100
ENOUGH = GROUP_BYTES_MAX // MEMBER_METADATA_BYTES_MAX


class TestClassicGroups:
    def test_one_members_metadata(self) -> None:
        one = Coordinator()
        assert one.join(protocols=large(NEARLY)).waits
        for _ in range(3):
            assert one.join(protocols=large(MEMBER_METADATA_BYTES_MAX)).error == InvalidRequest.code
        (notice,) = [notice for notice in one.notices if "refused" in notice]
        assert str(MEMBER_METADATA_BYTES_MAX) in notice

    def test_all_members_metadata(self) -> None:
        one = Coordinator()
        joined = [one.join(protocols=large(NEARLY)) for _ in range(ENOUGH)]
        assert one.join(protocols=large(NEARLY)).error == GroupMaxSizeReached.code
        assert any(str(GROUP_BYTES_MAX) in notice for notice in one.notices)
        one.advance(0)
        ids = [each.answer.member_id for each in joined]
        one.synced(ids, 1)
        assert max(len(record.value or b"") for record in one.log) < BATCH_BYTES_MAX
        assert one.join(ids[0], protocols=large(NEARLY)).waits, "those that are there may join again"
        one.leave(LeavingMember(ids[1]))
        assert one.join(protocols=large(NEARLY)).waits, "and make room when they go"

    def test_what_is_counted_follows_the_members(self) -> None:
        one = Coordinator()
        first = one.join(instance_id="i", protocols=large(1000))
        one.advance(0)
        one.synced([first.answer.member_id], 1)
        group = one.groups._groups[GROUP]
        assert isinstance(group, ClassicGroup)
        one.join(instance_id="i", protocols=large(500), client_id="another", client_host="elsewhere")
        assert group.group.members.size_bytes == sum(member.size_bytes for member in group.members) > 500
        one.restart()
        one.advance(60_000)
        assert one.state == "Empty"
        group = one.groups._groups[GROUP]
        assert isinstance(group, ClassicGroup)
        assert group.group.members.size_bytes == 0

    def test_what_a_leader_assigns(self) -> None:
        one = Coordinator()
        joining = one.join()
        one.advance(0)
        leader = joining.answer.member_id
        assert one.sync(leader, 1, {leader: bytes(GROUP_BYTES_MAX + 1)}).error == InvalidRequest.code
        # What is for nobody of the group is not kept, so it does not count; the group waits for its leader still.
        assert one.sync(leader, 1, {"nobody": bytes(GROUP_BYTES_MAX + 1)}).error == 0


class TestConsumerGroups:
    def test_all_members_subscriptions(self) -> None:
        one = ConsumerCoordinator()
        topics = tuple(f"{number:0200}" for number in range(SUBSCRIPTION_BYTES_MAX // 204))
        codes = [one.beat(f"m{number}", 0, topics=topics).error_code for number in range(140)]
        accepted = codes.count(0)
        assert 120 < accepted < 130
        assert set(codes[accepted:]) == {GroupMaxSizeReached.code}
        assert one.beat("m0", 0, topics=("a",)).error_code == 0
        assert one.beat("new", 0, topics=topics).error_code == 0, "there is room again"

    def test_classic_members_count_as_well(self) -> None:
        one = ConsumerCoordinator()
        one.beat("m", 0)
        joined = [one.join(protocols=large(NEARLY)) for _ in range(ENOUGH + 1)]
        assert [each.error for each in joined] == [0] * ENOUGH + [GroupMaxSizeReached.code]

    def test_patterns(self) -> None:
        one = ConsumerCoordinator()
        for number in range(PATTERNS_MAX):
            assert one.beat(f"m{number}", 0, topics=(), pattern=f"a{number}").error_code == 0
        answer = one.beat("one more", 0, topics=(), pattern="b")
        assert answer.error_code == InvalidRequest.code
        assert answer.error_message is not None
        assert str(PATTERNS_MAX) in answer.error_message
        assert one.beat("one more", 0, topics=(), pattern="a0").error_code == 0, "one that is there"
        one.beat("m1", -1)
        assert one.beat("another", 0, topics=(), pattern="b").error_code == 0

    @pytest.mark.parametrize("field", ["client_id", "client_host", "rack_id", "instance_id"])
    def test_names(self, field: str) -> None:
        one = ConsumerCoordinator()
        answer = one.beat("m", 0, **{field: "é" * (NAME_BYTES_MAX // 2 + 1)})
        assert answer.error_code == InvalidRequest.code
        assert one.groups.listed() == []


class TestCommits:
    def test_too_many_at_once(self) -> None:
        one = Coordinator()
        codes = one.commit(*[OffsetToCommit("a", 0, 1)] * (COMMIT_OFFSETS_MAX + 1))
        assert set(codes) == {InvalidCommitOffsetSize.code}
        assert one.groups.listed() == []
        assert str(COMMIT_OFFSETS_MAX) in one.notices[0]

    def test_too_large_at_once(self) -> None:
        one = Coordinator()
        group = "g" * NAME_BYTES_MAX
        count = COMMIT_BYTES_MAX // (NAME_BYTES_MAX + 4096)
        offsets = [OffsetToCommit("a", 0, number, -1, "x" * 4096) for number in range(count + 1)]
        assert set(one.commit(*offsets, group_id=group)) == {InvalidCommitOffsetSize.code}
        assert one.fetch(group=group).offsets == ()
        assert one.groups.listed() == []
        assert set(one.commit(*offsets[: count * 9 // 10], group_id=group)) == {0}

    def test_a_long_name(self) -> None:
        one = Coordinator()
        name = "n" * (NAME_BYTES_MAX + 1)
        for _ in range(2):
            assert one.commit(OffsetToCommit("a", 0, 1), group_id=name) == (InvalidGroupId.code,)
        (notice,) = one.notices
        assert len(notice) < 300

    def test_a_group_with_offsets_that_have_not_expired_is_never_dropped_for_others(self) -> None:
        one = Coordinator(GroupSettings(groups_max=3))
        offset = OffsetToCommit("a", 0, 7)
        for number in range(3):
            assert one.commit(offset, group_id=f"kept {number}") == (0,)
        for number in range(50):
            one.advance(60_000)
            assert one.commit(offset, group_id=f"more {number}") == (GroupMaxSizeReached.code,)
        assert [group.group_id for group in one.groups.listed()] == ["kept 0", "kept 1", "kept 2"]
        one.advance(one.settings.offsets_retention_ms)
        assert one.commit(offset, group_id="more") == (0,), "expired ones make room"

    def test_a_kip_848_members_by_an_old_version(self) -> None:
        one = ConsumerCoordinator()
        offset = OffsetToCommit("a", 0, 7)
        one.beat("m", 0)
        old = {"member_id": "m", "generation_id": 1, "knows_member_epochs": False}
        assert one.commit(offset, **old) == (UnsupportedVersion.code,)
        assert one.commit(offset, **(old | {"member_id": "nobody"})) == (UnknownMemberId.code,)
        assert one.commit(offset, **(old | {"knows_member_epochs": True})) == (0,)
        one.beat("m", -1)
        assert one.commit(offset, knows_member_epochs=False) == (0,), "an administrator's, of an empty group"

    def test_a_classic_members_by_an_old_version_in_a_consumer_group(self) -> None:
        one = ConsumerCoordinator()
        one.beat("m", 0)
        member = one.join().answer
        codes = one.commit(
            OffsetToCommit("a", 0, 7),
            member_id=member.member_id,
            generation_id=member.generation_id,
            knows_member_epochs=False,
        )
        assert codes == (0,)


@pytest.mark.parametrize("group", ["", " "])
def test_consumer_groups_have_names(group: str) -> None:
    one = ConsumerCoordinator()
    assert one.commit(OffsetToCommit("a", 0, 7), group_id=group) == (0,)
    for epoch in (0, 1, -1):
        answer = one.beat("m", epoch, group_id=group)
        assert (answer.error_code, answer.error_message) == (InvalidRequest.code, "GroupId can't be empty.")
