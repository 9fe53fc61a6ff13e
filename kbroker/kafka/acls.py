"""DescribeAcls, CreateAcls and DeleteAcls: there is no authorizer, and that is what they say."""

from __future__ import annotations

from typing import Any, Final

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey

SECURITY_DISABLED: Final = 54
_WHY: Final = "there are no access rules: no authorizer is configured"


def answer(api_key: int, request: Any) -> Any:
    """The answer to any of the three."""
    types = codec.response_types(api_key)
    if api_key == ApiKey.DESCRIBE_ACLS:
        return types.DescribeAclsResponse(error_code=SECURITY_DISABLED, error_message=_WHY)
    if api_key == ApiKey.CREATE_ACLS:
        refused = types.AclCreationResult(error_code=SECURITY_DISABLED, error_message=_WHY)
        return types.CreateAclsResponse(results=[refused] * len(request.creations))
    refused = types.DeleteAclsFilterResult(error_code=SECURITY_DISABLED, error_message=_WHY)
    return types.DeleteAclsResponse(filter_results=[refused] * len(request.filters))
