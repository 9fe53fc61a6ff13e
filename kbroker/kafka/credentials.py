"""DescribeUserScramCredentials: there are none."""

from __future__ import annotations

from typing import Any, Final

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey

_RESOURCE_NOT_FOUND: Final = 91


def described(request: Any) -> Any:
    """The answer: nobody, when everybody is asked for; else that each is not known."""
    types = codec.response_types(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS)
    return types.DescribeUserScramCredentialsResponse(
        results=[
            types.DescribeUserScramCredentialsResult(
                user=user.name,
                error_code=_RESOURCE_NOT_FOUND,
                error_message=f"there are no credentials of {user.name!r:.80}: clients do not authenticate yet",
            )
            for user in request.users or ()
        ]
    )
