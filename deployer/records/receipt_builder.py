"""Attesting: the receipt of a machine that is about to boot, from what was verified and what the hypervisor is told. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from catalog.image.manifest import BareDisk, Disk, GptDisk, Manifest, MbrDisk, PlacedPartition
from deployer.policy.decision import Decision
from deployer.records.receipt import (
    LEVEL,
    SUMMARY_TYPE,
    CloudPlacement,
    DeploymentDetails,
    PreviousReceipt,
    Receipt,
    ReceiptDisk,
    ReceiptEndorser,
    ReceiptPartition,
)
from signer.audit_log import AuditHead
from signer.documents import canonical
from signer.verification.trust import EndorsementCheck


class BootedDisk(Protocol):
    """A disk as whoever boots it gives it to the guest; `deployer.machine.spec.DiskSpec` is one."""

    @property
    def target(self) -> str:
        """Its name in the guest."""

    @property
    def read_only(self) -> bool:
        """Whether the guest is kept from writing."""


class BootedMachine(Protocol):
    """What is about to boot; `deployer.machine.spec.MachineSpec` is one."""

    @property
    def uuid(self) -> str:
        """The machine's identity."""

    @property
    def name(self) -> str:
        """Its name in lists."""

    @property
    def memory(self) -> int:
        """Bytes."""

    @property
    def cores(self) -> int:
        """Virtual processors."""

    @property
    def disks(self) -> Sequence[BootedDisk]:
        """At least those of the manifest, in its order."""


@dataclass(frozen=True)
class ReceiptIssuer:
    """The node that signs a receipt.

    Attributes:
        node: its UUID.
        key: the fingerprint of its key.
        audit: the head of its log.
    """

    node: str
    key: str
    audit: AuditHead


def build_receipt(
    issuer: ReceiptIssuer,
    spec: BootedMachine,
    manifest: Manifest,
    decision: Decision,
    counted: Sequence[tuple[EndorsementCheck, bytes]],
    now: datetime,
    cloud: CloudPlacement | None = None,
    origin: PreviousReceipt | None = None,
) -> bytes:
    """The statement for a machine that is about to boot: canonical bytes, ready to be signed.

    Args:
        issuer: the node.
        spec: what the hypervisor is told.
        manifest: the image.
        decision: the one that it is booted by.
        counted: the endorsements that count, each with its statement.
        now: when.
        cloud: where it runs, if that is not the node.
    """
    digests = [hashlib.sha256(statement).hexdigest() for _, statement in counted]
    receipt = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": manifest.title, "digest": {"sha256": manifest.image_id.removeprefix("sha256:")}}],
        "predicateType": SUMMARY_TYPE,
        "predicate": {
            "verifier": {"id": f"urn:partita:node:{issuer.node}"},
            "timeVerified": now.replace(microsecond=0),
            "resourceUri": f"urn:partita:image:{manifest.image_id}",
            "policy": {"digest": {"sha256": decision.policy.removeprefix("sha256:")}},
            "inputAttestations": [{"digest": {"sha256": digest}} for digest in digests],
            "verificationResult": "PASSED" if decision.accepted else "FAILED",
            "verifiedLevels": [LEVEL] if decision.accepted else [],
            "urn:partita:deployment:v1": DeploymentDetails(
                machine=spec.uuid,
                name=spec.name,
                key=issuer.key,
                endorsers=tuple(
                    ReceiptEndorser(endorser=check.fingerprint, role=check.role, statement=digest)
                    for (check, _), digest in zip(counted, digests, strict=True)
                ),
                decision=decision,
                disks=tuple(_disk(spec.disks[index], disk) for index, disk in enumerate(manifest.disks)),
                memory=spec.memory,
                cores=spec.cores,
                audit=issuer.audit,
                cloud=cloud,
                origin=origin,
            ),
        },
    }
    return canonical(Receipt.model_validate(receipt, strict=False))


def _disk(spec: BootedDisk, disk: Disk) -> ReceiptDisk:
    parts = (disk.partition,) if isinstance(disk, BareDisk) else disk.partitions
    return ReceiptDisk(
        target=spec.target,
        table=disk.table,
        size=disk.size if isinstance(disk, GptDisk | MbrDisk) else disk.partition.size,
        writes="none" if spec.read_only else "overlay",
        partitions=tuple(
            ReceiptPartition(
                number=part.number if isinstance(part, PlacedPartition) else None,
                offset=part.offset if isinstance(part, PlacedPartition) else 0,
                size=part.size,
                label=part.label,
                access=part.access,
                content=str(part.content) if part.content else None,
                blank=part.blank.filesystem if part.blank else None,
            )
            for part in parts
        ),
    )
