from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.errors import StartError
from kbroker.workers.meta_properties import check_ours, new_cluster_id, read_or_create


def test_made_once_and_kept(tmp_path: Path) -> None:
    cluster_id = read_or_create(tmp_path)
    assert len(cluster_id) == 22
    assert read_or_create(tmp_path) == cluster_id
    check_ours(tmp_path)
    lines = (tmp_path / "meta.properties").read_text().splitlines()
    assert {"version=1", f"cluster.id={cluster_id}", "broker.id=0", "node.id=0"} <= set(lines)
    assert [entry.name for entry in tmp_path.iterdir()] == ["meta.properties"]
    assert new_cluster_id() != cluster_id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("\0\0\0\0", "damaged"),
        ("version=1\nkbroker.format=1\n", "damaged"),
        ("version=1\nkbroker.format=1\ncluster.id=short\n", "damaged"),
        ("version=2\nkbroker.format=1\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\n", "damaged"),
        ("version=1\nkbroker.format=2\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\n", "start a newer kbroker"),
        ("version=1\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\nnode.id=1\n", "not written by kbroker"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "meta.properties").write_text(text)
    with pytest.raises(StartError, match=message):
        read_or_create(tmp_path)
    assert (tmp_path / "meta.properties").read_text() == text


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "meta.properties").write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match="cannot read"):
        read_or_create(tmp_path)


def test_folders_that_may_become_ours(tmp_path: Path) -> None:
    check_ours(tmp_path / "missing")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".lock").write_text("")
    check_ours(tmp_path)


def test_partitions_without_their_meta_properties(tmp_path: Path) -> None:
    (tmp_path / "orders-0").mkdir()
    (tmp_path / "orders-1").mkdir()
    with pytest.raises(StartError, match="holds 'orders-0' and 1 more"):
        check_ours(tmp_path)
