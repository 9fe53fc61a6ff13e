"""Every setting once: its name, type, unit, default, bounds and a line of doc.

`--help`, the reference (`kbroker config`), the error for a wrong value and the topic settings of `kbroker topic` all
come from the fields in a file for each section. Names and meanings are Kafka's where Kafka has them.

A configuration file is TOML with the same names: `log.segment.bytes = 1048576`, or tables that say the same.
"""

from kbroker.config.cleaner import CleanerConfig
from kbroker.config.config import ALL_SETTINGS, SETTINGS, TOPIC_SETTINGS, Config, Known
from kbroker.config.groups import GroupConfig
from kbroker.config.inert import InertConfig
from kbroker.config.kafka import KafkaConfig
from kbroker.config.log import LogConfig
from kbroker.config.native import NativeConfig
from kbroker.config.server import ServerConfig
from kbroker.config.setting import INT32_MAX, Setting
from kbroker.config.shm import ShmConfig
from kbroker.config.sources import (
    check_alterable,
    check_setting_name,
    load_config,
    make_config,
    parse_toml,
    read_settings,
)
from kbroker.config.topics import check_topic_setting_name, check_topic_settings, topic_log_config, topic_value
from kbroker.config.values import allowed, list_items, parse_value, value_text

__all__ = [
    "ALL_SETTINGS",
    "INT32_MAX",
    "SETTINGS",
    "TOPIC_SETTINGS",
    "CleanerConfig",
    "Config",
    "GroupConfig",
    "InertConfig",
    "KafkaConfig",
    "Known",
    "LogConfig",
    "NativeConfig",
    "ServerConfig",
    "Setting",
    "ShmConfig",
    "allowed",
    "check_alterable",
    "check_setting_name",
    "check_topic_setting_name",
    "check_topic_settings",
    "list_items",
    "load_config",
    "make_config",
    "parse_toml",
    "parse_value",
    "read_settings",
    "topic_log_config",
    "topic_value",
    "value_text",
]
