"""DescribeClientQuotas: there are none."""

from __future__ import annotations

from typing import Any

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey


def described() -> Any:
    """The answer, whatever was asked for."""
    return codec.response_types(ApiKey.DESCRIBE_CLIENT_QUOTAS).DescribeClientQuotasResponse(entries=[])
