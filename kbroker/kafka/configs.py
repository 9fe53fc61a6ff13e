"""DescribeConfigs, AlterConfigs and IncrementalAlterConfigs: settings as Kafka's admin tools see them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kbroker.config import SETTINGS, TOPIC_SETTINGS, Config, Known, topic_log_config, value_text
from kbroker.errors import InvalidConfig, InvalidRequest, RequestError, UnknownTopicOrPartition
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.topics import Result

TOPIC: Final = 2
BROKER: Final = 4

_FROM_TOPIC: Final = 1
_FROM_FILE: Final = 4
_DEFAULT: Final = 5
_KINDS: Final = {bool: 1, str: 2, int: 5}
_SET, _DELETE = 0, 1


class Alteration(NamedTuple):
    """A topic's own settings: what to set, and what falls back to the broker's. `only`: all others fall back too."""

    topic: str
    set: dict[str, str]
    remove: list[str]
    only: bool


def described(request: Any, config: Config, topics: Mapping[str, Mapping[str, str]], nodes: Collection[int]) -> Any:
    """The answer to DescribeConfigs. `topics` has each topic's own settings."""
    types = codec.response_types(ApiKey.DESCRIBE_CONFIGS)
    results = []
    for resource in request.resources:
        result = types.DescribeConfigsResult(
            resource_type=resource.resource_type, resource_name=resource.resource_name, configs=[]
        )
        results.append(result)
        try:
            if resource.resource_type == TOPIC:
                found = _of_topic(types, config, resource.resource_name, topics)
            elif resource.resource_type == BROKER:
                found = _of_broker(types, config, resource.resource_name, nodes)
            else:
                raise InvalidRequest(f"resources of type {resource.resource_type} have no settings here")
        except RequestError as error:
            result.error_code, result.error_message = error.code, str(error)
            continue
        keys = resource.configuration_keys
        for entry, known in found:
            if keys and entry.name not in keys:
                continue
            if request.include_documentation:
                entry.documentation = known.setting.doc
            if not request.include_synonyms:
                entry.synonyms = []
            result.configs.append(entry)
    return types.DescribeConfigsResponse(results=results)


def _of_topic(
    types: Any, config: Config, name: str, topics: Mapping[str, Mapping[str, str]]
) -> list[tuple[Any, Known]]:
    own = topics.get(name)
    if own is None:
        raise UnknownTopicOrPartition(f"there is no topic {name!r:.80}")
    effective = topic_log_config(config.log, own)
    found = []
    for topic_name, known in sorted(TOPIC_SETTINGS.items()):
        value = value_text(getattr(effective, known.attribute))
        broker_value = getattr(config.log, known.attribute)
        source = _FROM_TOPIC if topic_name in own else _source(broker_value, known)
        entry = _entry(types, topic_name, value, source, known, read_only=False)
        if source == _FROM_TOPIC:
            entry.synonyms = [types.DescribeConfigsSynonym(name=topic_name, value=value, source=_FROM_TOPIC)]
            entry.synonyms += _synonyms(types, broker_value, known)
        found.append((entry, known))
    return found


def _of_broker(types: Any, config: Config, name: str, nodes: Collection[int]) -> list[tuple[Any, Known]]:
    if name and (not name.isdigit() or int(name) not in nodes):
        raise InvalidRequest(f"there is no node {name!r:.80}")
    if not name:
        return []  # defaults that were set while the broker runs: there are none
    found = []
    for own_name, known in sorted(SETTINGS.items()):
        value = getattr(getattr(config, known.section), known.attribute)
        found.append((_entry(types, own_name, value_text(value), _source(value, known), known, read_only=True), known))
    return found


def _entry(types: Any, name: str, value: str, source: int, known: Known, *, read_only: bool) -> Any:
    return types.DescribeConfigsResourceResult(
        name=name,
        value=value,
        read_only=read_only,
        config_source=source,
        config_type=_KINDS.get(known.kind, 2),
        synonyms=_synonyms(types, value, known),
    )


def _synonyms(types: Any, value: object, known: Known) -> list[Any]:
    name, source = known.setting.name, _source(value, known)
    found = [types.DescribeConfigsSynonym(name=name, value=value_text(value), source=source)]
    if source != _DEFAULT:
        found.append(types.DescribeConfigsSynonym(name=name, value=value_text(known.default), source=_DEFAULT))
    return found


def _source(value: object, known: Known) -> int:
    return _DEFAULT if value_text(value) == value_text(known.default) else _FROM_FILE


def alterations(request: Any, *, incremental: bool) -> list[Alteration | Result]:
    """For each resource of the request what is to be altered, or why it cannot be."""
    return [_alteration(resource, incremental) for resource in request.resources]


def _alteration(resource: Any, incremental: bool) -> Alteration | Result:
    if resource.resource_type != TOPIC:
        return Result(
            InvalidRequest.code, "only topics' settings can be altered; the broker's are in its file (SIGHUP)"
        )
    changed: dict[str, str] = {}
    removed: list[str] = []
    for item in resource.configs:
        operation = item.config_operation if incremental else _SET if item.value is not None else _DELETE
        if operation == _SET and item.value is not None:
            changed[item.name] = item.value
        elif operation == _DELETE:
            removed.append(item.name)
        else:
            return Result(InvalidConfig.code, f"{item.name:.80}: only to set and to delete is possible")
    return Alteration(resource.resource_name, changed, removed, only=not incremental)


def altered(api_key: int, request: Any, results: Sequence[Result]) -> Any:
    """The answer to AlterConfigs or IncrementalAlterConfigs."""
    types = codec.response_types(api_key)
    message = (
        types.IncrementalAlterConfigsResponse
        if api_key == ApiKey.INCREMENTAL_ALTER_CONFIGS
        else types.AlterConfigsResponse
    )
    return message(
        responses=[
            types.AlterConfigsResourceResponse(
                error_code=result.error_code,
                error_message=result.message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
            )
            for resource, result in zip(request.resources, results, strict=True)
        ]
    )
