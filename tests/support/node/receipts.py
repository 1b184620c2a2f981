"""Receipts of a node as they are written, with the key and the log that they are checked with."""

from datetime import UTC, datetime
from pathlib import Path

from catalog.image.address import Address
from deployer.machine.network import Network
from deployer.machine.shape import MachineShape
from deployer.machine.spec import DiskSpec, DomainTag, KernelBoot, MachineSpec, Overlay, RawFile
from deployer.policy.decision import Decision, RuleResult
from deployer.records.receipt_builder import BootedMachine, ReceiptIssuer, build_receipt
from deployer.records.receipt_store import ReceiptStore
from signer.audit_log import AuditLog
from signer.verification.trust import EndorsementCheck
from tests.support.factories import manifest

NOW = datetime.now(UTC).replace(microsecond=0)


NODE = "11111111-2222-4333-8444-555555555555"


MACHINE = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"


IMAGE = manifest([Address.parse(f"{'ab' * 32}-4096"), Address.parse(f"{'cd' * 32}-65536")])


POLICY = "sha256:" + "12" * 32


VOUCHED = EndorsementCheck(
    counts=True, reason="", fingerprint="A" * 40, vo="star", role="image-administrator", title=IMAGE.title
)


def spec() -> MachineSpec:
    base = RawFile(path=Path("/cache/a"))
    return MachineSpec(
        uuid=MACHINE,
        name="worker-aaaaaaaa",
        **MachineShape.fixed(1 << 30, 2).model_dump(),
        virt="qemu",
        architecture="x86_64",
        machine="q35",
        boot=KernelBoot(kernel=Path("/cache/k")),
        disks=(
            DiskSpec(target="vda", source=base),
            DiskSpec(target="vdb", source=Overlay(path=Path("/m/disk1.qcow2"), base=RawFile(path=Path("/cache/b")))),
        ),
        network=Network(kind="none"),
        console=Path("/m/console.log"),
        tag=DomainTag(owner=NODE, image=IMAGE.image_id),
    )


def decided(*, passed: bool = True) -> Decision:
    return Decision(
        image=IMAGE.image_id,
        title=IMAGE.title,
        at=NOW,
        policy=POLICY,
        rules=(RuleResult(name="endorsements", passed=passed, reason="endorsed", change="" if passed else "ask"),),
    )


class Kept:
    """A node's receipts, with one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = ReceiptStore(directory, NODE)
        log = AuditLog(directory / "audit.jsonl", NOW)
        self.head = log.append("decision", {"accepted": True}, NOW)
        log.append("deployment", {"machine": MACHINE}, NOW)
        log.close()
        self.statement = build_receipt(
            ReceiptIssuer(NODE, self.store.key, self.head),
            BootedMachine.of(spec()),
            IMAGE,
            decided(),
            [(VOUCHED, b"statement")],
            NOW,
        )
        self.digest = self.store.keep(MACHINE, self.statement)
        self.file = directory / "receipts" / f"{MACHINE}.json"
        self.signature = Path(f"{self.file}.sig").read_bytes()
        self.key = self.store.key_file.read_bytes()
