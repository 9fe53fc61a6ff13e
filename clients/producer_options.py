"""The producer's options: names and meanings as in kafka-python, each checked, each error naming its argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kbroker.errors import ConfigError
from kbroker.records.compression import CODECS

Serializer = Callable[[Any], bytes | None]
Partitioner = Callable[[bytes | None, list[int], list[int]], int]

_ACKS: dict[Any, int] = {"all": -1, "0": 0, "1": 1, 0: 0, 1: 1, -1: -1, "-1": -1}


@dataclass(frozen=True, slots=True)
class ProducerOptions:
    """What `Producer(…)` was given; see there."""

    acks: int
    codec: int
    idempotent: bool
    batch_size: int
    linger_ms: int
    buffer_memory: int
    max_block_ms: int
    retries: int
    retry_backoff_ms: int
    request_timeout_ms: int
    delivery_timeout_ms: int
    max_in_flight: int
    max_request_size: int
    metadata_max_age_ms: int


def whole_number(name: str, value: object, least: int, most: int = 2**31 - 1) -> int:
    """`value`, if it is a whole number within its bounds. Raises ConfigError naming it."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name}={value!r} is not valid: it must be a whole number, {least} … {most}")
    return value


def check_acks(acks: object) -> int:
    """-1 for "all". Raises ConfigError."""
    if isinstance(acks, bool) or not isinstance(acks, (int, str)) or acks not in _ACKS:
        raise ConfigError(f"acks={acks!r} is not valid: it must be 0, 1 or 'all'")
    return _ACKS[acks]


def check_compression(name: str | None) -> int:
    """The codec's number. Raises ConfigError."""
    if name is None:
        return 0
    if name not in CODECS:
        raise ConfigError(f"compression_type={name!r} is not valid: it must be None or one of {', '.join(CODECS)}")
    return CODECS[name]


def check_idempotence(enable: bool | None, acks: int, retries: int, max_in_flight: int) -> bool:
    """As in Kafka: on unless another option rules it out; asked for against such an option, an error."""
    hindrance = None
    if acks != -1:
        hindrance = f"acks={acks} (it needs acks='all')"
    elif retries == 0:
        hindrance = "retries=0 (it needs at least 1)"
    elif max_in_flight > 5:
        hindrance = f"max_in_flight_requests_per_connection={max_in_flight} (it allows at most 5)"
    if enable and hindrance:
        raise ConfigError(f"enable_idempotence=True does not go with {hindrance}")
    return hindrance is None if enable is None else bool(enable)


def check_callable(name: str, value: object) -> None:
    """Raises ConfigError unless `value` is None or can be called."""
    if value is not None and not callable(value):
        raise ConfigError(f"{name}={value!r} is not valid: it must be a function")
