"""Attesting: the receipt of a machine that is about to boot, from what was verified and what the hypervisor is told. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from catalog.image.manifest import Disk, Manifest, PlacedPartition
from deployer.machine.spec import MachineSpec
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


@dataclass(frozen=True)
class BootedDisk:
    """A disk as the guest gets it: its name there, and whether the guest is kept from writing."""

    target: str
    read_only: bool = False


@dataclass(frozen=True)
class BootedMachine:
    """A machine that is about to boot, here or elsewhere.

    Attributes:
        uuid, name: its identity, and its name in lists.
        memory, cores: bytes, virtual processors.
        disks: at least those of the manifest, in its order.
    """

    uuid: str
    name: str
    memory: int
    cores: int
    disks: tuple[BootedDisk, ...]

    @classmethod
    def of(cls, spec: MachineSpec) -> Self:
        """The machine that a hypervisor is about to start."""
        disks = tuple(BootedDisk(disk.target, disk.read_only) for disk in spec.disks)
        return cls(spec.uuid, spec.name, spec.memory, spec.cores, disks)


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
    return ReceiptDisk(
        target=spec.target,
        table=disk.table,
        size=disk.size,
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
            for part in disk.partitions
        ),
    )
