"""Records of snapshots on disk: what cannot be read counts as absent, what cannot be written is said."""

from hashlib import sha256
from pathlib import Path

import pytest

from deployer.ec2.errors import Ec2RecordsUnusable
from deployer.ec2.snapshots.blocks import Layout
from deployer.ec2.snapshots.record_store import SnapshotRecords, pack_digests
from tests.deployer.ec2.snapshots.test_snapshots import record
from tests.support.aws.memory_disks import MIB


def test_a_record_without_its_digests_is_no_parent(tmp_path: Path) -> None:
    ledger = SnapshotRecords(tmp_path / "ledger")
    known = {0: b"1" * 32, 700: b"2" * 32}
    layout = Layout(size=MIB, runs=())
    noted = record(1, layout).model_copy(update={"checksum": sha256(pack_digests(known)).hexdigest()})
    ledger.put(noted, known)
    assert ledger.get(layout.key) == noted
    assert list(ledger.records()) == [noted]
    parent = ledger.parent(noted)
    assert parent is not None
    assert parent.digests == known
    file = tmp_path / "ledger" / f"{layout.key}.digests"
    file.write_bytes(file.read_bytes()[:-1])
    assert ledger.parent(noted) is None
    file.unlink()
    assert ledger.parent(noted) is None
    ledger.forget(layout.key)
    ledger.forget(layout.key)
    assert ledger.get(layout.key) is None
    assert list(SnapshotRecords(tmp_path / "none").records()) == []


@pytest.mark.parametrize("data", [b"", b"{}", b"[1", b'{"snapshot_id":"x"}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, data: bytes) -> None:
    ledger = SnapshotRecords(tmp_path)
    (tmp_path / f"{'a' * 64}.json").write_bytes(data)
    assert ledger.get("a" * 64) is None
    assert list(ledger.records()) == []


def test_a_ledger_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Ec2RecordsUnusable, match="cannot be read or written"):
        SnapshotRecords(tmp_path / "file" / "ledger").put(record(1, Layout(size=MIB, runs=())), {})
    with pytest.raises(Ec2RecordsUnusable, match="cannot be read or written"):
        SnapshotRecords(tmp_path / "file").get("a" * 64)
