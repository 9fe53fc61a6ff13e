"""ApiVersions: what may be asked here, in which versions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kbroker.kafka import codec
from kbroker.kafka.apis import APIS, ApiKey

UNSUPPORTED_VERSION = 35


def answer(served: Collection[int], *, is_too_new: bool = False) -> Any:
    """The APIs that are `served`. `is_too_new`: the client asked in a version unknown here, and is told so too."""
    types = codec.response_types(ApiKey.API_VERSIONS)
    listed = [
        types.ApiVersion(int(api.key), api.advertised_min_version, api.max_version) for api in APIS if api.key in served
    ]
    return types.ApiVersionsResponse(error_code=UNSUPPORTED_VERSION if is_too_new else 0, api_keys=listed)
