"""The state of staging, as text."""

import json

from catalog.image.address import Address
from deployer.cli.node.staging import format_staging
from deployer.node.schema.staging import ContentStatus, StagingStatus
from stager.content.transfer_stats import TransferStage

MIB = 1 << 20


def test_a_status_reads_well() -> None:
    address = Address.of(b"content")
    arriving = ContentStatus(
        address=address, image="star/worker@1.0", stage=TransferStage.SWARMING, size=8 * MIB, have=2 * MIB, from_cache=MIB,
        from_peers=MIB, from_origin=0, rate=MIB, left=6, peers=3,
    )  # fmt: skip
    status = StagingStatus(
        arriving=(arriving,), quota=1 << 30, allocated=MIB, reserved=8 * MIB, leased=0, trash=0, pins=(), swarm=None
    )
    said = json.dumps(format_staging(status))
    assert "2.0 MiB of 8.0 MiB" in said
    assert "6 s left, 3 peers" in said
    assert '["swarm", "none"]' in said
