"""DescribeConfigs, AlterConfigs and IncrementalAlterConfigs: settings as Kafka's admin tools see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kbroker.config import INT32_MAX, SETTINGS, TOPIC_SETTINGS, Config, Known, list_items, parse_value, value_text
from kbroker.errors import InvalidConfig, InvalidRequest, RequestError, UnknownTopicOrPartition
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.topics import Result

TOPIC: Final = 2
BROKER: Final = 4
CLIENT_METRICS: Final = 16
GROUP: Final = 32

# Where a value comes from, the strongest first.
_FROM_TOPIC: Final = 1
_ALTERED_FOR_NODE: Final = 2
_ALTERED_FOR_ALL: Final = 3
_FROM_FILE: Final = 4
_DEFAULT: Final = 5

_BOOLEAN, _STRING, _INT, _SHORT, _LONG, _DOUBLE, _LIST = 1, 2, 3, 4, 5, 6, 7
_KINDS: Final = {bool: _BOOLEAN, str: _STRING, float: _DOUBLE, tuple: _LIST}
_OF_GROUPS: Final = ("group.consumer.heartbeat.interval.ms", "group.consumer.session.timeout.ms")
_SET, _DELETE, _APPEND, _SUBTRACT = 0, 1, 2, 3


class BrokerSettings(NamedTuple):
    """The broker's settings by where they come from: `config` at its start or SIGHUP, `altered` while it runs, by node
    ("" for all)."""

    config: Config
    altered: Mapping[str, Mapping[str, str]]


class _Layer(NamedTuple):
    """A value in one of the places where a setting can be given."""

    name: str
    value: str
    source: int


# --- describing ---


def described(
    request: Any,
    broker: BrokerSettings,
    topics: Mapping[str, Mapping[str, str]],
    nodes: Mapping[int, str],
    check_name: Callable[[str], None],
) -> Any:
    """The answer to DescribeConfigs. `topics` has each topic's own settings, `nodes` the address that each node has for
    whoever asks; `check_name` raises the RequestError about a name that no topic can have."""
    types = codec.response_types(ApiKey.DESCRIBE_CONFIGS)
    results = []
    often = _named(request)
    for resource in request.resources:
        result = types.DescribeConfigsResult(
            resource_type=resource.resource_type, resource_name=resource.resource_name, configs=[]
        )
        results.append(result)
        try:
            # A small request must not have an answer without end.
            _check_once(resource, often)
            if resource.resource_type == TOPIC:
                found = _of_topic(types, broker, resource.resource_name, topics, check_name)
            elif resource.resource_type == BROKER:
                found = _of_broker(types, broker, resource.resource_name, nodes)
            elif resource.resource_type == GROUP:
                found = _of_group(types, broker, resource.resource_name)
            elif resource.resource_type == CLIENT_METRICS:
                found = _of_client_metrics(resource.resource_name)
            else:
                raise InvalidRequest(f"resources of type {resource.resource_type} have no settings here")
        except RequestError as error:
            result.error_code, result.error_message = error.code, str(error)
            continue
        wanted = resource.configuration_keys
        for entry in found:
            if wanted and entry.name not in wanted:
                continue
            if not request.include_documentation:
                entry.documentation = None
            if not request.include_synonyms:
                entry.synonyms = []
            result.configs.append(entry)
    return types.DescribeConfigsResponse(results=results)


def _named(request: Any) -> Counter[tuple[int, str]]:
    return Counter((resource.resource_type, resource.resource_name) for resource in request.resources)


def _check_once(resource: Any, often: Counter[tuple[int, str]]) -> None:
    if often[resource.resource_type, resource.resource_name] > 1:
        raise InvalidRequest(f"{resource.resource_name!r:.80} is named more than once in one request")


def _of_topic(
    types: Any,
    broker: BrokerSettings,
    name: str,
    topics: Mapping[str, Mapping[str, str]],
    check_name: Callable[[str], None],
) -> list[Any]:
    own = topics.get(name)
    if own is None:
        check_name(name)
        raise UnknownTopicOrPartition(f"there is no topic {name!r:.80}")
    return [
        _entry(types, topic_name, known, _topic_layers(broker, topic_name, known, own), read_only=False)
        for topic_name, known in sorted(TOPIC_SETTINGS.items())
    ]


def _of_group(types: Any, broker: BrokerSettings, name: str) -> list[Any]:
    """What members of a consumer group are told; groups have no settings of their own."""
    if not name:
        raise InvalidRequest("a group's name must not be empty")
    return [
        _entry(types, own_name.removeprefix("group."), known, _broker_layers(broker, known, ""), read_only=True)
        for own_name, known in ((own_name, SETTINGS[own_name]) for own_name in _OF_GROUPS)
    ]


def _of_client_metrics(name: str) -> list[Any]:
    if not name:
        raise InvalidRequest("a client metrics resource's name must not be empty")
    return []


def _of_broker(types: Any, broker: BrokerSettings, name: str, nodes: Mapping[int, str]) -> list[Any]:
    if name and (not name.isdigit() or int(name) not in nodes):
        raise InvalidRequest(f"there is no node {name!r:.80}")
    found = _facts(types, broker, name, nodes[int(name)]) if name else []
    for own_name, known in sorted(SETTINGS.items()):
        layers = _broker_layers(broker, known, name)
        if not name:
            # Of all nodes: what was altered for them, and nothing else.
            layers = [layer for layer in layers if layer.source == _ALTERED_FOR_ALL]
        if layers:
            found.append(_entry(types, own_name, known, layers, read_only=not known.alterable))
    return found


def _facts(types: Any, broker: BrokerSettings, node: str, address: str) -> list[Any]:
    """What is no setting here, but is asked by tools under the names that it has in Kafka."""
    facts = (
        ("advertised.listeners", f"PLAINTEXT://{address}", _LIST, "Where the one who asks reaches the node."),
        ("broker.id", node, _INT, "The node's number: 0 the coordinator, from 1 on the workers."),
        ("node.id", node, _INT, "The node's number: 0 the coordinator, from 1 on the workers."),
        ("log.dirs", str(broker.config.data_dir), _LIST, "The one folder of the partitions."),
        ("default.replication.factor", "1", _INT, "There is one host, so each partition has one replica."),
        ("offsets.topic.replication.factor", "1", _SHORT, "There is one host, so each partition has one replica."),
        ("delete.topic.enable", "true", _BOOLEAN, "Topics can be deleted."),
    )
    return [
        types.DescribeConfigsResourceResult(
            name=name,
            value=text,
            read_only=True,
            config_source=_FROM_FILE,
            config_type=kind,
            synonyms=[types.DescribeConfigsSynonym(name=name, value=text, source=_FROM_FILE)],
            documentation=doc,
        )
        for name, text, kind, doc in facts
    ]


def _topic_layers(broker: BrokerSettings, name: str, known: Known, own: Mapping[str, str]) -> list[_Layer]:
    layers = [_Layer(name, _as_read(known, name, own[name]), _FROM_TOPIC)] if name in own else []
    return layers + _broker_layers(broker, known, "")


def _as_read(known: Known, name: str, text: str) -> str:
    """`TRUE` was written, `true` is shown."""
    return value_text(parse_value(known, text, name))


def _broker_layers(broker: BrokerSettings, known: Known, node: str) -> list[_Layer]:
    name = known.setting.name
    layers = []
    if node and name in broker.altered.get(node, ()):
        layers.append(_Layer(name, _as_read(known, name, broker.altered[node][name]), _ALTERED_FOR_NODE))
    if name in broker.altered.get("", ()):
        layers.append(_Layer(name, _as_read(known, name, broker.altered[""][name]), _ALTERED_FOR_ALL))
    given, default = value_text(getattr(getattr(broker.config, known.section), known.attribute)), default_text(known)
    if given != default:
        layers.append(_Layer(name, given, _FROM_FILE))
    layers.append(_Layer(name, default, _DEFAULT))
    return layers


def default_text(known: Known) -> str:
    """A setting's default as text."""
    return value_text(known.default)


def _entry(types: Any, name: str, known: Known, layers: Sequence[_Layer], *, read_only: bool) -> Any:
    return types.DescribeConfigsResourceResult(
        name=name,
        value=layers[0].value,
        read_only=read_only,
        config_source=layers[0].source,
        config_type=_config_type(known),
        # What only topics have, has no name at the broker.
        synonyms=[types.DescribeConfigsSynonym(**layer._asdict()) for layer in layers if layer.name],
        documentation=known.setting.doc,
    )


def _config_type(known: Known) -> int:
    if known.kind is int:
        return _INT if known.setting.most is not None and known.setting.most <= INT32_MAX else _LONG
    return _KINDS[known.kind]


def created_topic_configs(broker: BrokerSettings, own: Mapping[str, str]) -> list[Any]:
    """A new topic's settings, for the answer to CreateTopics."""
    types = codec.response_types(ApiKey.CREATE_TOPICS)
    found = []
    for name, known in sorted(TOPIC_SETTINGS.items()):
        layer = _topic_layers(broker, name, known, own)[0]
        found.append(types.CreatableTopicConfigs(name=name, value=layer.value, config_source=layer.source))
    return found


# --- altering ---


class Alteration(NamedTuple):
    """What to do to the settings of a topic, or of the node `name` ("" for all).

    `only`: those not named fall back to what is below. `extend` and `reduce` change the items of lists.
    """

    resource_type: int
    name: str
    set: dict[str, str]
    remove: list[str]
    extend: dict[str, str]
    reduce: dict[str, str]
    only: bool


def alterations(request: Any, *, incremental: bool, nodes: Collection[int]) -> list[Alteration | Result]:
    """For each resource of the request what is to be altered, or why it cannot be."""
    often = _named(request)
    found: list[Alteration | Result] = []
    for resource in request.resources:
        try:
            _check_once(resource, often)
            found.append(_alteration(resource, incremental, nodes))
        except RequestError as error:
            found.append(Result(error.code, str(error)))
    return found


def _alteration(resource: Any, incremental: bool, nodes: Collection[int]) -> Alteration:
    kind, name = resource.resource_type, resource.resource_name
    if kind == BROKER:
        if name and (not name.isdigit() or int(name) not in nodes):
            raise InvalidRequest(f"there is no node {name!r:.80}")
    elif kind != TOPIC:
        raise InvalidRequest(f"resources of type {kind} have no settings here")
    asked = Alteration(kind, name, {}, [], {}, {}, only=not incremental)
    often = Counter(item.name for item in resource.configs)
    for item in resource.configs:
        if often[item.name] > 1:
            raise InvalidRequest(f"{item.name:.80} is named more than once for {name!r:.80}")
        operation = item.config_operation if incremental else _SET
        if operation == _DELETE:
            asked.remove.append(item.name)
            continue
        if item.value is None:
            raise InvalidRequest(f"{item.name:.80} has no value; to go back to what is below it, delete it")
        if operation == _SET:
            asked.set[item.name] = item.value
        elif operation in (_APPEND, _SUBTRACT):
            (asked.extend if operation == _APPEND else asked.reduce)[item.name] = item.value
        else:
            raise InvalidRequest(f"{item.name:.80}: there is no operation {operation}")
    return asked


def outcome(asked: Alteration, own: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What to set and what to remove, with the resource's own settings at hand. Raises InvalidConfig."""
    names = TOPIC_SETTINGS if asked.resource_type == TOPIC else SETTINGS
    changed = dict(asked.set)
    for is_extension, items in ((True, asked.extend), (False, asked.reduce)):
        for name, text in items.items():
            known = names.get(name)
            if known is not None and known.kind is not tuple:
                raise InvalidConfig(f"{name} is no list: it has no items to append or to subtract")
            before = own.get(name, default_text(known) if known else "")
            changed[name] = _with_items(before, text) if is_extension else _without_items(before, text)
    removed = [name for name in own if name not in changed] if asked.only else asked.remove
    return changed, removed


def _with_items(before: str, text: str) -> str:
    return ",".join(dict.fromkeys(list_items(before) + list_items(text)))


def _without_items(before: str, text: str) -> str:
    gone = list_items(text)
    return ",".join(item for item in list_items(before) if item not in gone)


def altered(api_key: int, request: Any, results: Iterable[Result]) -> Any:
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
