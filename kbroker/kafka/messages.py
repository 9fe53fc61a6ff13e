"""One class per message and struct, the same for all versions, so that one piece of code serves them all.

A class has every field that some supported version has; a field that the version at hand lacks keeps its default when
read and is left out when written. Integers, text and bytes are plain; times are milliseconds (`…_ms`, -1: none), uuids
16 bytes (zeros: none), error codes integers, arrays lists (default: an empty tuple), structs other such classes
(default: None, and a tagged one that is None is not sent). `records` are a memoryview into the frame when read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from kbroker.kafka.apis import Api
from kbroker.kafka.schema import Direction, Struct, load


def make_types(api: Api, direction: Direction) -> SimpleNamespace:
    """The classes of a message by name, as attributes: `make_types(FETCH, "response").PartitionData`."""
    fields: dict[str, dict[str, Any]] = {}
    for version in dict.fromkeys((api.max_version, *api.more_fields, api.min_version)):
        for struct in structs_of(load(api, version, direction)):
            known = fields.setdefault(struct.name, {})
            for field in struct.fields:
                known.setdefault(field.name, field.default)
    return SimpleNamespace(
        **{
            name: dataclasses.make_dataclass(
                name,
                [(field, Any, dataclasses.field(default=default)) for field, default in known.items()],
                slots=True,
                namespace={"__module__": __name__},
            )
            for name, known in fields.items()
        }
    )


def structs_of(struct: Struct) -> Iterator[Struct]:
    """The struct and all that it holds."""
    yield struct
    for field in struct.fields:
        if field.struct is not None:
            yield from structs_of(field.struct)
