"""Blocks read back from a snapshot are compared with their checksums."""

from pathlib import Path
from typing import Any

import pytest

from deployer.ec2.errors import SnapshotFailed
from deployer.ec2.snapshots.blocks import BLOCK_SIZE
from deployer.ec2.snapshots.reader import read_snapshot
from tests.support.aws.snapshot_reader import write_snapshot


def test_a_block_that_is_not_what_its_checksum_says_is_refused(tmp_path: Path) -> None:
    class Lying:
        """Answers of a service whose memory is bad."""

        def ebs_list(self, *_: str, **__: Any) -> list[dict[str, Any]]:
            """One block."""
            return [{"BlockIndex": 0, "BlockToken": "x"}]

        def ebs(self, *_: str, **__: Any) -> dict[str, Any]:
            """With a checksum of something else."""
            return {"BlockData": bytes(BLOCK_SIZE), "Checksum": "AAAA"}

    with pytest.raises(SnapshotFailed, match="block 0 differs from its checksum"):
        read_snapshot(Lying(), "snap-00000001", lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(SnapshotFailed):
        write_snapshot(Lying(), "snap-00000001", 1, tmp_path / "back")  # type: ignore[arg-type]
    assert not (tmp_path / "back").exists()
