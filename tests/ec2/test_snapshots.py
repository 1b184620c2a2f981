"""Snapshots."""

from pathlib import Path

from deployer.ec2.ledger import Ledger
from deployer.ec2.preparing import opened
from deployer.ec2.snapshots import Snapshots
from tests.deployer.guests import boot_sector_image
from tests.deployer.parts import BundleContents
from tests.ec2.worlds import AwsWorld


def test_up(world: AwsWorld, profile: str, tmp_path: Path) -> None:
    bundle = boot_sector_image(tmp_path / "image")
    aws = world.aws(profile)
    with opened(bundle.manifest.disks[0], BundleContents(bundle, tmp_path / "blanks")) as disk:
        made = Snapshots(aws, Ledger(tmp_path / "ledger")).ensure(disk)
        assert made.sent == 11
        assert Snapshots(aws, Ledger(tmp_path / "ledger")).ensure(disk).sent == 0
        there = Snapshots(world.aws(profile), Ledger(tmp_path / "other")).ensure(disk)
        assert there.read_back
        assert there.snapshot_id == made.snapshot_id
