"""What a node answers in place of the controller, when it could not pass a request on or got no answer.

Each code is one at which clients try again: NOT_CONTROLLER for changes that were not made, REQUEST_TIMED_OUT where that
is not known and for what changes nothing, COORDINATOR_LOAD_IN_PROGRESS for a producer id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kbroker.errors import CoordinatorLoadInProgress, RequestTimedOut
from kbroker.kafka import codec, configs, coordination
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.topics import BY_ID, Result

NOT_CONTROLLER = 41


def refused(api_key: int, version: int, body: bytes, why: str, *, is_unknown: bool) -> Any:
    """The answer to a request with that body: not done, or (`is_unknown`) perhaps done. None: this API has none, and
    its client is to be hung up on. Raises RequestError when the body is at fault."""
    make = _ANSWERS.get(api_key)
    if make is None:
        return None
    code = NOT_CONTROLLER if api_key in _CHANGES and not is_unknown else RequestTimedOut.code
    return make(codec.read_request(api_key, version, memoryview(body)), version, api_key, Result(code, why))


def _topics_created(request: Any, _version: int, _api_key: int, result: Result) -> Any:
    types = codec.response_types(ApiKey.CREATE_TOPICS)
    names = dict.fromkeys(topic.name for topic in request.topics)
    return types.CreateTopicsResponse(
        topics=[
            types.CreatableTopicResult(
                name=name, error_code=result.error_code, error_message=result.message, configs=[]
            )
            for name in names
        ]
    )


def _topics_deleted(request: Any, version: int, _api_key: int, result: Result) -> Any:
    types = codec.response_types(ApiKey.DELETE_TOPICS)
    named = (
        [{"name": name} for name in request.topic_names]
        if version < BY_ID
        else [{"name": topic.name, "topic_id": topic.topic_id} for topic in request.topics]
    )
    return types.DeleteTopicsResponse(
        responses=[
            types.DeletableTopicResult(**one, error_code=result.error_code, error_message=result.message)
            for one in named
        ]
    )


def _partitions_created(request: Any, _version: int, _api_key: int, result: Result) -> Any:
    types = codec.response_types(ApiKey.CREATE_PARTITIONS)
    return types.CreatePartitionsResponse(
        results=[
            types.CreatePartitionsTopicResult(
                name=topic.name, error_code=result.error_code, error_message=result.message
            )
            for topic in request.topics
        ]
    )


def _configs_described(request: Any, _version: int, _api_key: int, result: Result) -> Any:
    types = codec.response_types(ApiKey.DESCRIBE_CONFIGS)
    return types.DescribeConfigsResponse(
        results=[
            types.DescribeConfigsResult(
                error_code=result.error_code,
                error_message=result.message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
                configs=[],
            )
            for resource in request.resources
        ]
    )


def _configs_altered(request: Any, _version: int, api_key: int, result: Result) -> Any:
    return configs.altered(api_key, request, [result] * len(request.resources))


def _configs_listed(_request: Any, _version: int, _api_key: int, result: Result) -> Any:
    return codec.response_types(ApiKey.LIST_CONFIG_RESOURCES).ListConfigResourcesResponse(error_code=result.error_code)


def _no_producer_id(_request: Any, _version: int, _api_key: int, _result: Result) -> Any:
    return coordination.producer_id_refused(CoordinatorLoadInProgress.code)


_CHANGES = frozenset(
    {
        ApiKey.CREATE_TOPICS,
        ApiKey.DELETE_TOPICS,
        ApiKey.CREATE_PARTITIONS,
        ApiKey.ALTER_CONFIGS,
        ApiKey.INCREMENTAL_ALTER_CONFIGS,
    }
)
_ANSWERS: Mapping[int, Callable[[Any, int, int, Result], Any]] = {
    ApiKey.CREATE_TOPICS: _topics_created,
    ApiKey.DELETE_TOPICS: _topics_deleted,
    ApiKey.CREATE_PARTITIONS: _partitions_created,
    ApiKey.DESCRIBE_CONFIGS: _configs_described,
    ApiKey.ALTER_CONFIGS: _configs_altered,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: _configs_altered,
    ApiKey.LIST_CONFIG_RESOURCES: _configs_listed,
    ApiKey.INIT_PRODUCER_ID: _no_producer_id,
}
