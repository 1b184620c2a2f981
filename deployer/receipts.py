"""Receipts: what a node verified before it booted a machine, signed by the node, for whoever asks later.

A receipt is an in-toto Statement v1 with the predicate of a SLSA verification summary (VSA) v1, in canonical JSON, and a
detached OpenPGP signature over exactly its bytes by the node's own key, which stock `gpg --verify` checks. What the
summary has no member for stands under one extension member. Source: slsa.dev, spec/v1.0/verification_summary;
in-toto Attestation Framework, spec/v1. docs/formats.md describes a receipt byte for byte.
"""

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from catalog.manifest import BareDisk, Disk, GptDisk, Manifest, MbrDisk, PlacedPartition
from deployer.decision import Decision
from deployer.machine import Uuid
from signer.audit import Head, Remembered, Sha256Hex
from signer.documents import Document, canonical, parse_canonical
from signer.errors import DocumentError, KeyUnusable, ReceiptRefused, SignatureError
from signer.openpgp import Keyring, examine
from signer.statement import Digest, Instant, Subject
from signer.trust import EndorsementCheck

SUMMARY_TYPE = "https://slsa.dev/verification_summary/v1"
LEVEL = "PARTITA_ENDORSED"
"""What a machine of ours has reached: enough of those whom the site trusts vouch for every byte of the image. (Levels
that begin with SLSA_ speak of how an image was built, which nobody here has looked at.)"""

MAX_RECEIPT = 4 << 20
"""Bytes. A decision of some hundred rules and an image of 16 full disks stay well below."""

STATEMENT, SIGNATURE, ORIGIN = ".json", ".json.sig", ".origin"
USER_ID = "Partita node {}"


class Verifier(Document):
    """Who verified: `urn:partita:node:` and the node's UUID. Accept it only from the key that belongs to it."""

    id: Annotated[str, Field(pattern=r"^urn:partita:node:[0-9a-f-]{36}$")]


class Digested(Document):
    """Something by the SHA-256 of its bytes."""

    digest: Digest


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


class Cloud(Document):
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


class CameFrom(Document):
    """The node that a machine was brought from, and the SHA-256 of the receipt that it had there."""

    node: Uuid
    receipt: Sha256Hex


class Deployment(Document):
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
    audit: Head
    cloud: Cloud | None = None
    origin: CameFrom | None = None


class Described(Protocol):
    """A disk as whoever boots it gives it to the guest; `deployer.machine.DiskSpec` is one."""

    @property
    def target(self) -> str:
        """Its name in the guest."""

    @property
    def read_only(self) -> bool:
        """Whether the guest is kept from writing."""


class Booted(Protocol):
    """What is about to boot; `deployer.machine.MachineSpec` is one."""

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
    def disks(self) -> Sequence[Described]:
        """At least those of the manifest, in its order."""


class Summary(Document):
    """The predicate."""

    verifier: Verifier
    time_verified: Annotated[Instant, Field(alias="timeVerified")]
    resource_uri: Annotated[str, Field(alias="resourceUri", pattern=r"^urn:partita:image:sha256:[0-9a-f]{64}$")]
    policy: Digested
    input_attestations: Annotated[tuple[Digested, ...], Field(alias="inputAttestations")]
    verification_result: Annotated[Literal["PASSED", "FAILED"], Field(alias="verificationResult")]
    verified_levels: Annotated[tuple[str, ...], Field(alias="verifiedLevels")]
    deployment: Annotated[Deployment, Field(alias="urn:partita:deployment:v1")]


class Receipt(Document):
    """The whole statement."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["https://slsa.dev/verification_summary/v1"], Field(alias="predicateType")]
    predicate: Summary

    @property
    def image_id(self) -> str:
        """`sha256:` and 64 hex digits."""
        return f"sha256:{self.subject[0].digest.sha256}"

    @property
    def deployment(self) -> Deployment:
        """What is ours in it."""
        return self.predicate.deployment

    @property
    def node(self) -> str:
        """The node's UUID."""
        return self.predicate.verifier.id.rpartition(":")[2]


def write_receipt(
    node: str,
    key: str,
    spec: Booted,
    manifest: Manifest,
    decision: Decision,
    counted: Sequence[tuple[EndorsementCheck, bytes]],
    audit: Head,
    now: datetime,
    cloud: Cloud | None = None,
    origin: CameFrom | None = None,
) -> bytes:
    """The statement for a machine that is about to boot: canonical bytes, ready to be signed.

    Args:
        node: its UUID.
        key: fingerprint of the node's key.
        spec: what the hypervisor is told.
        manifest: the image.
        decision: the one that it is booted by.
        counted: the endorsements that count, each with its statement.
        audit: the head of the node's log.
        now: when.
        cloud: where it runs, if that is not the node.
    """
    digests = [hashlib.sha256(statement).hexdigest() for _, statement in counted]
    receipt = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": manifest.title, "digest": {"sha256": manifest.image_id.removeprefix("sha256:")}}],
        "predicateType": SUMMARY_TYPE,
        "predicate": {
            "verifier": {"id": f"urn:partita:node:{node}"},
            "timeVerified": now.replace(microsecond=0),
            "resourceUri": f"urn:partita:image:{manifest.image_id}",
            "policy": {"digest": {"sha256": decision.policy.removeprefix("sha256:")}},
            "inputAttestations": [{"digest": {"sha256": digest}} for digest in digests],
            "verificationResult": "PASSED" if decision.accepted else "FAILED",
            "verifiedLevels": [LEVEL] if decision.accepted else [],
            "urn:partita:deployment:v1": Deployment(
                machine=spec.uuid,
                name=spec.name,
                key=key,
                endorsers=tuple(
                    ReceiptEndorser(endorser=check.fingerprint, role=check.role, statement=digest)
                    for (check, _), digest in zip(counted, digests, strict=True)
                ),
                decision=decision,
                disks=tuple(_disk(spec.disks[index], disk) for index, disk in enumerate(manifest.disks)),
                memory=spec.memory,
                cores=spec.cores,
                audit=audit,
                cloud=cloud,
                origin=origin,
            ),
        },
    }
    return canonical(Receipt.model_validate(receipt, strict=False))


def _disk(spec: Described, disk: Disk) -> ReceiptDisk:
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


def read_receipt(statement: bytes, what: str) -> Receipt:
    """A receipt from its canonical bytes, its signature not looked at; ReceiptRefused if it is none."""
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
        KeyUnusable: the key is none.
    """
    try:
        checks = examine(statement, signature, [key], now)
    except SignatureError as exc:
        raise ReceiptRefused(f"{what}: {exc}") from exc
    good = [check.fingerprint for check in checks if check.good]
    if not good:
        reasons = ", ".join(dict.fromkeys(check.reason for check in checks)) or "there is none"
        raise ReceiptRefused(f"{what}: the signature does not count: {reasons}")
    receipt = read_receipt(statement, what)
    if receipt.deployment.key not in good:
        raise ReceiptRefused(f"{what}: names the key {receipt.deployment.key} and was signed by {good[0]}")
    if node and receipt.node != node:
        raise ReceiptRefused(f"{what}: is of the node {receipt.node}, not of {node}")
    return receipt


class ReceiptStore:
    """A node's receipts and the key that signs them.

    receipts/<machine>.json, .json.sig     statement and signature
    receipts/node-key.asc                  the node's public key, to be given out
    keys/                                  its private key, a GnuPG home of its own
    """

    def __init__(self, directory: Path, node: str) -> None:
        self.directory, self._node = directory / "receipts", node
        self._keyring = Keyring(directory / "keys")
        self._fingerprint = ""

    @property
    def key_file(self) -> Path:
        """The node's public key, once there is one."""
        return self.directory / "node-key.asc"

    @property
    def key(self) -> str:
        """The fingerprint of the node's key, which is made when it is first asked for."""
        if not self._fingerprint:
            own = [key.fingerprint for key in self._keyring.keys() if key.secret]  # noqa: SIM118 - no mapping
            # It never expires: receipts are looked at years later. Take the directory of keys away to begin a new one.
            made = own[0] if own else self._keyring.generate(USER_ID.format(self._node), lifetime=None)
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self.key_file, self._keyring.export(made))
            self._fingerprint = made
        return self._fingerprint

    def keep(self, machine: str, statement: bytes) -> str:
        """Sign a statement and keep both; returns the statement's SHA-256.

        Raises:
            KeyUnusable: it cannot be signed or written.
        """
        signature = self._keyring.sign(statement, self.key)
        try:
            _write(self.directory / f"{machine}{SIGNATURE}", signature)
            _write(self.directory / f"{machine}{STATEMENT}", statement)
        except OSError as exc:
            raise KeyUnusable(f"{self.directory}: the receipt cannot be kept: {exc.strerror}") from exc
        return hashlib.sha256(statement).hexdigest()

    def keep_origin(self, machine: str, statement: bytes, signature: bytes) -> str:
        """Keep the receipt that a machine had at its earlier node, beside its own; returns the statement's SHA-256.

        Raises:
            KeyUnusable: it cannot be written.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self.directory / f"{machine}{ORIGIN}.sig", signature)
            _write(self.directory / f"{machine}{ORIGIN}", statement)
        except OSError as exc:
            raise KeyUnusable(f"{self.directory}: the receipt cannot be kept: {exc.strerror}") from exc
        return hashlib.sha256(statement).hexdigest()

    def files(self, machine: str) -> tuple[bytes, bytes] | None:
        """Statement and signature of a machine's receipt, if there is one."""
        try:
            return read_files(self.directory / f"{machine}{STATEMENT}")
        except ReceiptRefused:
            return None


def read_files(file: Path) -> tuple[bytes, bytes]:
    """Statement and signature of the receipt in that file; the signature lies beside it."""
    try:
        with file.open("rb") as one, Path(f"{file}.sig").open("rb") as other:
            return one.read(MAX_RECEIPT + 1), other.read(MAX_RECEIPT + 1)
    except OSError as exc:
        raise ReceiptRefused(f"{exc.filename}: cannot be read: {exc.strerror}") from exc


def remembered(directory: Path) -> list[Remembered]:
    """The heads of the audit log that the receipts in a directory name; those that are none are left out."""
    found = []
    for file in sorted(directory.glob(f"*{STATEMENT}")):
        try:
            found.append(
                Remembered(read_receipt(file.read_bytes(), str(file)).deployment.audit, f"receipt {file.name}")
            )
        except (OSError, ReceiptRefused):
            continue
    return found


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
