"""The table of APIs against kio's schemas."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from kbroker.errors import UnsupportedVersion
from kbroker.kafka import codec
from kbroker.kafka.apis import APIS, BY_KEY, Api, ApiKey, api_for, served
from kbroker.kafka.messages import structs_of
from kbroker.kafka.schema import Direction, load

from .making import ALL, label, types_of


@pytest.mark.parametrize("case", ALL, ids=label)
def test_headers_and_keys_agree_with_the_schemas(case: tuple[Api, int, Direction]) -> None:
    api, version, direction = case
    module = importlib.import_module(f"kio.schema.{api.key.name.lower()}.v{version}.{direction}")
    struct = load(api, version, direction)
    message = getattr(module, struct.name)
    assert message.__api_key__ == api.key
    assert struct.flexible == api.flexible(version)
    expected = api.request_header_version(version) if direction == "request" else api.response_header_version(version)
    assert message.__header_schema__.__version__ == expected


@pytest.mark.parametrize("case", ALL, ids=label)
def test_the_classes_have_every_field_of_every_version_with_its_default(case: tuple[Api, int, Direction]) -> None:
    api, version, direction = case
    types = types_of(api, direction)
    for struct in structs_of(load(api, version, direction)):
        fields = getattr(types, struct.name).__dataclass_fields__
        for field in struct.fields:
            assert fields[field.name].default == field.default, f"{struct.name}.{field.name}"


def test_the_table_is_sorted_and_complete() -> None:
    assert [api.key for api in APIS] == sorted(ApiKey)
    assert len(BY_KEY) == len(ApiKey)


def test_produce_is_advertised_from_0_but_served_from_3() -> None:
    """KAFKA-18659: librdkafka up to 2.0.2 would silently send gzip, lz4 and snappy uncompressed."""
    api = api_for(ApiKey.PRODUCE)
    assert api.advertised_min_version == 0
    assert not api.supports(2)
    with pytest.raises(UnsupportedVersion, match="Produce version 2 is not supported: 3 to 13 are"):
        codec.request_reader(ApiKey.PRODUCE, 2)
    assert all(api.advertised_min_version == api.min_version for api in APIS if api.key != ApiKey.PRODUCE)


@pytest.mark.parametrize("key", [-1, 4, 71, 72, 999])
def test_an_api_that_is_not_in_the_table_is_named(key: int) -> None:
    with pytest.raises(UnsupportedVersion, match=f"API {key} is not supported"):
        api_for(key)


def test_a_version_that_is_not_served_is_named() -> None:
    with pytest.raises(UnsupportedVersion, match="Metadata version 14 is not supported: 0 to 13 are"):
        served(ApiKey.METADATA, 14)


def test_nothing_of_kio_is_imported_before_it_is_used_and_then_only_what_is_used() -> None:
    code = (
        "import sys; from kbroker.kafka import codec, framing; from kbroker.kafka.apis import ApiKey\n"
        "assert not [name for name in sys.modules if name.startswith('kio')]\n"
        "codec.request_reader(ApiKey.METADATA, 9)\n"
        "found = {name for name in sys.modules if name.startswith('kio.schema.') and name.endswith('.request')}\n"
        "assert found == {f'kio.schema.metadata.v{v}.request' for v in (0, 9, 10, 13)}, found\n"
        "assert not [name for name in sys.modules if name.startswith('kio.serial')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
