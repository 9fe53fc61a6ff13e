"""Values of settings: what is taken, and what is said of what is not."""

from __future__ import annotations

import pytest

from kbroker.config import (
    ALL_SETTINGS,
    TOPIC_SETTINGS,
    Config,
    allowed,
    check_topic_settings,
    make_config,
    parse_toml,
    parse_value,
    topic_log_config,
    topic_value,
    value_text,
)
from kbroker.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("cleanup.policy", " compact , delete,compact", ("compact", "delete")),
        ("cleanup.policy", "", ()),
        ("min.cleanable.dirty.ratio", "5e-1", 0.5),
        ("retention.ms", " +5 ", 5),
        ("preallocate", "TRUE", True),
        ("remote.storage.enable", "False", False),
        ("compression.gzip.level", "-1", -1),
        ("follower.replication.throttled.replicas", "0:1, 2:3", ("0:1", "2:3")),
        ("follower.replication.throttled.replicas", "*", ("*",)),
    ],
)
def test_what_is_taken(name: str, text: str, value: object) -> None:
    assert topic_value(Config(), {name: text}, name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cleanup.policy", "compact,drop"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("min.cleanable.dirty.ratio", "1.1"),
        ("retention.ms", "1_000"),
        ("retention.ms", "1.0"),
        ("retention.ms", "\u0661"),
        ("preallocate", "yes"),
        ("remote.storage.enable", "true"),
        ("compression.gzip.level", "0"),
        ("compression.type", "Gzip"),
        ("follower.replication.throttled.replicas", "0:1,*x"),
    ],
)
def test_what_is_not_taken_is_told_with_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_topic_settings({name: text})
    assert name in str(refused.value)
    assert allowed(TOPIC_SETTINGS[name]) in str(refused.value)


def test_every_default_reads_back() -> None:
    for known in ALL_SETTINGS:
        name = known.setting.name or str(known.setting.topic_name)
        assert parse_value(known, value_text(known.default), name) == known.default


def test_a_file_may_hold_lists_and_fractions() -> None:
    values = parse_toml(
        '[log.cleanup]\npolicy = ["compact", "delete"]\n[log.cleaner.min.cleanable]\nratio = 0.25\n', "f"
    )
    config = make_config(values)
    assert (config.log.cleanup_policy, config.cleaner.min_cleanable_ratio) == (("compact", "delete"), 0.25)


def test_a_topic_goes_on_top_of_the_broker() -> None:
    config = make_config({"log.retention.ms": "5", "min.insync.replicas": "2"})
    own = {"flush.messages": "7", "preallocate": "true"}
    assert topic_value(config, own, "preallocate") is True
    assert topic_value(config, own, "min.insync.replicas") == 2
    effective = topic_log_config(config.log, own)
    assert (effective.flush_messages, effective.retention_ms) == (7, 5)


def test_lags_must_agree() -> None:
    with pytest.raises(ConfigError, match=r"min\.compaction\.lag\.ms=9 is more than max\.compaction\.lag\.ms=5"):
        check_topic_settings({"min.compaction.lag.ms": "9", "max.compaction.lag.ms": "5"})
