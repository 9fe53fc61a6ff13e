"""Limits of all doors together fit into the descriptors of a process."""

from __future__ import annotations

import pytest

from kbroker.config import make_config
from kbroker.errors import ConfigError
from kbroker.workers.descriptors import KEPT_FOR_THE_LOG, LEAST, OWN, fitted, kept_for_log


def together(settings: dict[str, str], limit: int) -> tuple[int, int, int]:
    config = fitted(make_config(settings), limit)
    return config.kafka.connections_max, config.native.clients_max, config.shm.connections_max


def test_where_there_is_plenty_nothing_shrinks() -> None:
    assert together({}, 1 << 20) == (20_000, 4_096, 1_024)


@pytest.mark.parametrize("limit", [400, 1_024, 1_200, 4_096, 20_000, 30_000])
def test_limits_that_nobody_has_set_shrink_to_what_is_left(limit: int) -> None:
    limits = together({}, limit)
    assert sum(limits) <= limit - OWN - kept_for_log(limit)
    assert kept_for_log(limit) > KEPT_FOR_THE_LOG
    assert min(limits) >= LEAST
    assert limits[0] > limits[1] > limits[2] or limits[2] == LEAST


def test_those_set_by_hand_stay_and_the_others_shrink() -> None:
    kafka, native, readers = together({"max.connections": "500"}, 1_200)
    assert kafka == 500
    assert native + readers <= 1_200 - OWN - kept_for_log(1_200) - 500


@pytest.mark.parametrize("value", ["20000", "900"])  # one is the default, said by hand all the same
def test_those_set_by_hand_that_do_not_fit_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=f"max.connections={value} ask.* of 1200 .*LimitNOFILE.*ulimit -n"):
        fitted(make_config({"max.connections": value}), 1_200)
    both = {"max.connections": "400", "native.clients.max": "450"}
    with pytest.raises(ConfigError, match=r"max\.connections=400 and native\.clients\.max=450 ask for 850 descriptors"):
        fitted(make_config(both), 1_200)


def test_a_door_that_is_not_there_takes_nothing() -> None:
    room = 1_200 - OWN - kept_for_log(1_200)
    kafka, native, _ = together({"shm.enable": "false"}, 1_200)
    assert room - 3 <= kafka + native <= room
    _, native, readers = together({"listeners": ""}, 1_200)
    assert room - 3 <= native + readers <= room


def test_too_few_for_anything_are_refused() -> None:
    with pytest.raises(ConfigError, match="64 descriptors for each process are too few"):
        fitted(make_config({}), 64)


def test_fitting_twice_changes_nothing() -> None:
    once = fitted(make_config({}), 1_200)
    assert fitted(once, 1_200) == once
