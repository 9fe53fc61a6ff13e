"""Where settings come from, which wins, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.cli.sources import Sources, settings_in, variable_for
from kbroker.config import SETTINGS
from kbroker.errors import ConfigError


def test_the_later_layer_wins(tmp_path: Path) -> None:
    file = tmp_path / "kbroker.toml"
    file.write_text("# ours\nnum.partitions = 2\nworkers=2\nlog.segment.bytes=2097152\n")
    sources = Sources(file, {"KBROKER_WORKERS": "3", "KBROKER_NUM_PARTITIONS": "3"}, {"num.partitions": "4"})
    config = sources.config()
    assert (config.server.num_partitions, config.server.workers, config.log.segment_bytes) == (4, 3, 2 << 20)
    assert sources.origin("num.partitions") == "flag"
    assert sources.origin("workers") == "environment"
    assert sources.origin("log.segment.bytes") == str(file)
    assert sources.origin("log.roll.ms") == "default"
    assert sources.origin("log.dir") == "default"


def test_toml_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "kbroker.toml"
    file.write_text('num.partitions = 2\nshm.enable = false\nlog.dir = "/data"\n[log.segment]\nbytes = 2097152\n')
    config = Sources(file).config()
    assert (config.server.num_partitions, config.shm.enabled, config.log.segment_bytes) == (2, False, 2 << 20)
    assert config.data_dir == Path("/data")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.toml",
            "workers=1\nnum.partition=2\n",
            "line 2: unknown setting 'num.partition'; did you mean num.part",
        ),
        ("a.toml", "num.partitions\n", "not valid TOML"),
        ("a.toml", 'num.partitions="many"\n', "line 1: num.partitions='many' is not valid"),
        (
            "a.toml",
            "[num]\npartitions=0\n",
            "line 2: num.partitions='0' is not valid: it must be a whole",
        ),
        ("a.toml", "num.partitions=\n", "not valid TOML"),
        ("a.toml", "num.partitions=[1]\n", "num.partitions must be text"),
    ],
)
def test_an_error_names_the_file_and_what_is_wrong(tmp_path: Path, name: str, text: str, said: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        Sources(file).config()
    assert str(file) in str(raised.value)
    assert said in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.conf: No such file"):
        Sources(tmp_path / "nowhere.conf").config()


def test_a_misspelt_variable_is_named_with_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match="KBROKER_LOG_DIRR names no setting; did you mean KBROKER_LOG_DIR"):
        settings_in({"KBROKER_LOG_DIRR": "/x"})
    assert settings_in({"KBROKER_SERVER": "ipc:///x", "KBROKER_CONFIG": "/x", "HOME": "/x"}) == {}


def test_no_two_settings_share_a_variable() -> None:
    assert len({variable_for(name) for name in SETTINGS}) == len(SETTINGS)


def test_the_data_folder_is_where_systemd_says() -> None:
    assert Sources(None, {"STATE_DIRECTORY": "/var/lib/private/kbroker:/other"}).config().data_dir == Path(
        "/var/lib/private/kbroker"
    )
