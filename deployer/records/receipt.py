"""A receipt: what a node verified before it booted a machine, as the statement that the node signs.

It is an in-toto Statement v1 with the predicate of a SLSA verification summary (VSA) v1, in canonical JSON, and a
detached OpenPGP signature over exactly its bytes by the node's own key, which stock `gpg --verify` checks. What the
summary has no member for stands under one extension member. Source: slsa.dev, spec/v1.0/verification_summary;
in-toto Attestation Framework, spec/v1. docs/formats.md describes a receipt byte for byte.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from deployer.machine.spec import Uuid
from deployer.policy.decision import Decision
from signer.audit_log import AuditHead, Sha256Hex
from signer.documents import Document, parse_canonical
from signer.errors import DocumentError, ReceiptRefused, SignatureError
from signer.openpgp.verifier import examine
from signer.statements.endorsement import DigestSubject, Instant, Sha256Digest

SUMMARY_TYPE = "https://slsa.dev/verification_summary/v1"
LEVEL = "PARTITA_ENDORSED"
"""What a machine of ours has reached: enough of those whom the site trusts vouch for every byte of the image. (Levels
that begin with SLSA_ speak of how an image was built, which is not checked here.)"""

MAX_RECEIPT = 4 << 20
"""Bytes. A decision of some hundred rules and an image of 16 full disks stay well below."""


class Verifier(Document):
    """Who verified: `urn:partita:node:` and the node's UUID. Accept it only from the key that belongs to it."""

    id: Annotated[str, Field(pattern=r"^urn:partita:node:[0-9a-f-]{36}$")]


class DigestReference(Document):
    """Something by the SHA-256 of its bytes."""

    digest: Sha256Digest


class ReceiptEndorser(Document):
    """Who vouched for the image, in what role."""

    endorser: str
    role: str
    statement: Sha256Hex


class ReceiptPartition(Document):
    """A partition of a disk: its place, and its content's address or how the node made it."""

    number: int | None = None
    offset: int
    size: int
    label: str
    access: str
    content: str | None = None
    blank: str | None = None


class ReceiptDisk(Document):
    """A disk as the guest got it.

    Attributes:
        target: its name in the guest.
        table: `gpt`, `mbr` or `none`.
        size: bytes.
        writes: `none` where the guest is kept from writing; `overlay` where its writes go to a file of its own.
    """

    target: str
    table: str
    size: int
    writes: Literal["none", "overlay"]
    partitions: tuple[ReceiptPartition, ...]


class CloudVolume(Document):
    """A volume of a machine that is rented: what it begins with, and how that is known.

    Attributes:
        device: in the block device mapping.
        gib: its size.
        snapshot: that it begins with; absent for a blank.
        content: the content key of that snapshot's disk.
        checksum: hex SHA-256 over the digests of its blocks.
    """

    device: str
    gib: int
    snapshot: str | None = None
    content: str | None = None
    checksum: str | None = None


class CloudPlacement(Document):
    """Where a machine runs that is rented, and what of.

    Attributes:
        provider: "ec2".
        account: as the site calls it.
        ami, instance_type, boot_mode: as the provider calls them.
        volumes: all of them, the root device first.
    """

    provider: Literal["ec2"] = "ec2"
    account: str
    region: str
    ami: str
    instance_type: str
    boot_mode: str
    volumes: tuple[CloudVolume, ...]


class PreviousReceipt(Document):
    """The node that a machine was brought from, and the SHA-256 of the receipt that it had there."""

    node: Uuid
    receipt: Sha256Hex


class DeploymentDetails(Document):
    """What a verification summary has no member for.

    Attributes:
        machine, name: the machine's identity, and its name in lists.
        key: fingerprint of the node's key.
        endorsers: who vouched, each with the digest of the statement.
        decision: the whole decision.
        disks: the disk table.
        memory, cores: bytes, number.
        audit: the end of the node's audit log at that moment: if the log is cut off before it, this tells.
        cloud: where it runs, if that is not the node.
        origin: where it was before, if it was brought from another node.
    """

    machine: Uuid
    name: str
    key: Annotated[str, Field(pattern=r"^[0-9A-F]{40}$")]
    endorsers: tuple[ReceiptEndorser, ...]
    decision: Decision
    disks: tuple[ReceiptDisk, ...]
    memory: int
    cores: int
    audit: AuditHead
    cloud: CloudPlacement | None = None
    origin: PreviousReceipt | None = None


class VerificationSummary(Document):
    """The predicate."""

    verifier: Verifier
    time_verified: Annotated[Instant, Field(alias="timeVerified")]
    resource_uri: Annotated[str, Field(alias="resourceUri", pattern=r"^urn:partita:image:sha256:[0-9a-f]{64}$")]
    policy: DigestReference
    input_attestations: Annotated[tuple[DigestReference, ...], Field(alias="inputAttestations")]
    verification_result: Annotated[Literal["PASSED", "FAILED"], Field(alias="verificationResult")]
    verified_levels: Annotated[tuple[str, ...], Field(alias="verifiedLevels")]
    deployment: Annotated[DeploymentDetails, Field(alias="urn:partita:deployment:v1")]


class Receipt(Document):
    """The whole statement."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[DigestSubject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["https://slsa.dev/verification_summary/v1"], Field(alias="predicateType")]
    predicate: VerificationSummary

    @property
    def image_id(self) -> str:
        """`sha256:` and 64 hex digits."""
        return f"sha256:{self.subject[0].digest.sha256}"

    @property
    def deployment(self) -> DeploymentDetails:
        """Partita's extension member."""
        return self.predicate.deployment

    @property
    def node(self) -> str:
        """The node's UUID."""
        return self.predicate.verifier.id.rpartition(":")[2]


def read_receipt(statement: bytes, what: str) -> Receipt:
    """A receipt from its canonical bytes, its signature not looked at; ReceiptRefused if it is not valid."""
    try:
        return parse_canonical(Receipt, statement, what, limit=MAX_RECEIPT)
    except DocumentError as exc:
        raise ReceiptRefused(str(exc)) from exc


def verify_receipt(statement: bytes, signature: bytes, key: bytes, now: datetime, what: str, node: str = "") -> Receipt:
    """A receipt, if the key signed exactly these bytes.

    Args:
        statement, signature: the two files.
        key: the node's public key, as its operator gave it out.
        now: the time of the check.
        what: how to call the receipt in errors.
        node: the node's UUID where it is known: a key speaks for its own node only.

    Raises:
        ReceiptRefused: it did not, the receipt is malformed, or it speaks of another node.
        KeyUnusable: the key is not valid.
    """
    try:
        checks = examine(statement, signature, [key], now)
    except SignatureError as exc:
        raise ReceiptRefused(f"{what}: {exc}") from exc
    good = [check.fingerprint for check in checks if check.good]
    if not good:
        reasons = ", ".join(dict.fromkeys(check.reason for check in checks)) or "the signature is missing"
        raise ReceiptRefused(f"{what}: the signature does not count: {reasons}")
    receipt = read_receipt(statement, what)
    if receipt.deployment.key not in good:
        raise ReceiptRefused(f"{what}: names the key {receipt.deployment.key} and was signed by {good[0]}")
    if node and receipt.node != node:
        raise ReceiptRefused(f"{what}: is of the node {receipt.node}, not of {node}")
    return receipt
