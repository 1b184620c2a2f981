"""Receipts: what a node signs, that stock gpg checks it, and that nothing else passes for one."""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.settings import CatalogSettings
from deployer.cli.audit import audit_app, receipt_app
from deployer.errors import Misused
from deployer.machine.spec import DiskSpec, DomainTag, KernelBoot, MachineSpec, Network, Overlay, RawFile
from deployer.node.settings import DeploySettings
from deployer.policy.decision import Decision, RuleResult
from deployer.records.receipt import read_receipt, verify_receipt
from deployer.records.receipt_builder import build_receipt
from deployer.records.receipt_store import ReceiptStore, audit_heads, read_receipt_files
from signer.audit_log import AuditHead, AuditLog
from signer.documents import canonical
from signer.errors import KeyUnusable, ReceiptRefused
from signer.openpgp.keyring import Keyring
from signer.runtime.settings import Settings
from signer.verification.trust import EndorsementCheck
from stager.settings import NodeSettings
from tests.support.factories import manifest

NOW = datetime.now(UTC).replace(microsecond=0)
LATER = NOW + timedelta(hours=1)
"""When receipts are looked at: after whatever a long run of tests signed before it came to these."""

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
        memory=1 << 30,
        cores=2,
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
            NODE, self.store.key, spec(), IMAGE, decided(), [(VOUCHED, b"statement")], self.head, NOW
        )
        self.digest = self.store.keep(MACHINE, self.statement)
        self.file = directory / "receipts" / f"{MACHINE}.json"
        self.signature = Path(f"{self.file}.sig").read_bytes()
        self.key = self.store.key_file.read_bytes()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("node"))


def test_a_receipt_says_all_that_was_verified(kept: Kept) -> None:
    receipt = verify_receipt(*read_receipt_files(kept.file), kept.key, LATER, "receipt", NODE)
    told = json.loads(kept.statement)

    assert kept.file.read_bytes() == kept.statement
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://slsa.dev/verification_summary/v1"
    assert told["subject"] == [{"name": "star/worker@1.0", "digest": {"sha256": IMAGE.image_id[7:]}}]
    predicate = told["predicate"]
    assert predicate["verifier"] == {"id": f"urn:partita:node:{NODE}"}
    assert predicate["policy"] == {"digest": {"sha256": "12" * 32}}
    assert predicate["verificationResult"] == "PASSED"
    assert predicate["verifiedLevels"] == ["PARTITA_ENDORSED"]
    assert len(predicate["inputAttestations"]) == 1
    ours = predicate["urn:partita:deployment:v1"]
    assert [(disk["target"], disk["writes"], disk["size"]) for disk in ours["disks"]] == [
        ("vda", "none", 65536),
        ("vdb", "overlay", 64 << 20),
    ]
    assert ours["disks"][0]["partitions"][0]["content"] == f"{'cd' * 32}-65536"
    assert ours["disks"][1]["partitions"][0]["blank"] == "ext4"
    assert receipt.deployment.audit == kept.head
    assert receipt.deployment.endorsers[0].endorser == "A" * 40
    assert receipt.deployment.decision == decided()


def test_stock_gpg_checks_it_with_nothing_of_ours(kept: Kept, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    gpg = ["gpg", "--homedir", str(tmp_path), "--batch", "--no-autostart"]
    subprocess.run([*gpg, "--import", str(kept.store.key_file)], check=True, capture_output=True)
    good = subprocess.run(
        [*gpg, "--verify", f"{kept.file}.sig", str(kept.file)], capture_output=True, text=True, check=False
    )
    assert good.returncode == 0, good.stderr
    assert f"Partita node {NODE}" in good.stderr
    (tmp_path / "other").write_bytes(kept.statement.replace(b"PASSED", b"FAILED"))
    bad = subprocess.run(
        [*gpg, "--verify", f"{kept.file}.sig", str(tmp_path / "other")], capture_output=True, check=False
    )
    assert bad.returncode == 1


def test_a_refusal_is_no_level(kept: Kept) -> None:
    told = json.loads(build_receipt(NODE, kept.store.key, spec(), IMAGE, decided(passed=False), [], kept.head, NOW))[
        "predicate"
    ]
    assert (told["verificationResult"], told["verifiedLevels"]) == ("FAILED", [])


def changed(kept: Kept, change: Callable[[Any], object]) -> bytes:
    value = json.loads(kept.statement)
    change(value)
    return canonical(value)


ATTACKS: list[tuple[str, Callable[[Any], object]]] = [
    ("another image", lambda s: s["subject"][0]["digest"].update(sha256="ff" * 32)),
    ("another policy", lambda s: s["predicate"]["policy"]["digest"].update(sha256="ff" * 32)),
    ("a failure made a pass", lambda s: s["predicate"].update(verificationResult="FAILED")),
    ("another node", lambda s: s["predicate"]["verifier"].update(id="urn:partita:node:" + MACHINE)),
    ("another time", lambda s: s["predicate"].update(timeVerified="2020-01-01T00:00:00Z")),
    ("another disk", lambda s: s["predicate"]["urn:partita:deployment:v1"]["disks"].pop()),
    ("another end of the log", lambda s: s["predicate"]["urn:partita:deployment:v1"]["audit"].update(seq=9)),
]


@pytest.mark.parametrize(("attack", "change"), ATTACKS, ids=[one[0] for one in ATTACKS])
def test_one_changed_fact_is_no_receipt(attack: str, change: Callable[[Any], object], kept: Kept) -> None:
    with pytest.raises(ReceiptRefused, match="it was made over other bytes"):
        verify_receipt(changed(kept, change), kept.signature, kept.key, LATER, attack)


def test_what_is_signed_and_no_receipt_is_refused(kept: Kept) -> None:
    for data in (
        b"{}",
        kept.statement.replace(b"{", b"{ ", 1),
        changed(kept, lambda s: s.update(predicateType="urn:partita:endorsement:v1")),
        changed(kept, lambda s: s.update(more=1)),
    ):
        with pytest.raises(ReceiptRefused, match="receipt: "):
            verify_receipt(
                data, Keyring(kept.directory / "keys").sign(data, kept.store.key), kept.key, LATER, "receipt"
            )


def test_a_key_speaks_for_its_own_node(kept: Kept, tmp_path: Path) -> None:
    other = ReceiptStore(tmp_path, MACHINE)
    other.keep("x", kept.statement)  # signs what another node says of itself
    statement, signature = read_receipt_files(tmp_path / "receipts" / "x.json")
    with pytest.raises(ReceiptRefused, match="names the key"):
        verify_receipt(statement, signature, other.key_file.read_bytes(), LATER, "receipt")
    with pytest.raises(ReceiptRefused, match="its key is not among the allowed ones"):
        verify_receipt(statement, signature, kept.key, LATER, "receipt")
    with pytest.raises(ReceiptRefused, match=f"is of the node {NODE}, not of"):
        verify_receipt(kept.statement, kept.signature, kept.key, LATER, "receipt", MACHINE)
    with pytest.raises(ReceiptRefused, match="the signature is empty"):
        verify_receipt(kept.statement, b"", kept.key, LATER, "receipt")
    with pytest.raises(KeyUnusable):
        verify_receipt(kept.statement, kept.signature, b"no key", LATER, "receipt")


def test_a_node_keeps_its_key(kept: Kept) -> None:
    assert ReceiptStore(kept.directory, NODE).key == kept.store.key


# ---- the commands


def run(app: typer.Typer, kept: Kept, *arguments: object) -> Any:
    node = NodeSettings(directory=kept.directory)
    catalog = CatalogSettings(directory=kept.directory)
    settings = Settings({"node": node, "catalog": catalog, "deploy": DeploySettings()})
    return CliRunner().invoke(app, [str(argument) for argument in arguments], obj=settings)


def test_receipts_are_shown_and_verified_by_command(kept: Kept) -> None:
    for name in (str(kept.file), MACHINE, MACHINE[:8]):
        shown = run(receipt_app, kept, "show", name)
        assert shown.exit_code == 0, shown.exception
        assert "star/worker@1.0" in shown.stdout
        assert "vda none 64.0 KiB, writes: none" in shown.stdout
    verified = run(receipt_app, kept, "verify", kept.file, "--key", kept.store.key_file, "--node", NODE)
    assert verified.exit_code == 0, verified.exception
    assert f"signed by {kept.store.key}, the key of node {NODE}" in verified.stdout
    told = json.loads(run(receipt_app, kept, "verify", MACHINE, "--json").stdout)
    assert (told["verified"], told["node"]) == (True, NODE)
    assert told["receipt"] == json.loads(kept.statement)


def test_a_receipt_that_is_none_ends_with_4(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(kept.statement.replace(b"PASSED", b"FAILED"))
    (tmp_path / "r.json.sig").write_bytes(kept.signature)

    refused = run(receipt_app, kept, "verify", tmp_path / "r.json").exception
    assert isinstance(refused, ReceiptRefused)
    assert refused.exit_code == 4
    assert isinstance(run(receipt_app, kept, "verify", "nothing").exception, ReceiptRefused)
    assert isinstance(run(receipt_app, kept, "verify", kept.file, "--key", tmp_path / "no").exception, Misused)


def test_receipts_remember_the_audit_log(kept: Kept, tmp_path: Path) -> None:
    good = run(audit_app, kept, "verify")
    assert good.exit_code == 0, good.stdout
    assert "2 entries, every entry is in its place and unchanged; checked against 1 remembered ends" in good.stdout
    assert [one.head for one in audit_heads(kept.directory / "receipts")] == [kept.head]

    log = tmp_path / "log"
    log.write_bytes(b"")
    cut = run(audit_app, kept, "verify", "--log", log, "--receipts", kept.directory / "receipts", "--json")
    assert cut.exit_code == 4
    assert "the end was cut off" in json.loads(cut.stdout)["faults"][0]
    head = run(audit_app, kept, "verify", "--catalog", "--head", AuditHead(seq=2, sha256="00" * 32))
    assert head.exit_code == 4
    assert "line 2: is not the entry that the head 2:000" in head.stdout
    assert isinstance(run(audit_app, kept, "verify", "--head", "x").exception, Misused)


def test_the_audit_log_is_shown(kept: Kept) -> None:
    shown = run(audit_app, kept, "show", "--kind", "deployment")
    assert f"machine={MACHINE}" in shown.stdout
    assert "decision" not in shown.stdout
    told = json.loads(run(audit_app, kept, "show", "--last", 1, "--json").stdout)
    assert [entry["kind"] for entry in told] == ["deployment"]


def test_the_documented_vectors_are_what_is_written(tmp_path: Path) -> None:
    """docs/formats.md: the log's two lines, and the receipt for the manifest and the endorsement described there."""
    text = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
    lines, statement = (_vector(text, heading) for heading in ("## Audit log", "## Receipt"))

    instant = datetime(2026, 11, 22, 12, tzinfo=UTC)
    log = AuditLog(tmp_path / "log", instant)
    log.append("publish", {"image": "sha256:" + "ab" * 32, "title": "star/worker@1.0"}, instant)
    log.close()
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"at":"2026')
    log = AuditLog(tmp_path / "log", instant)
    log.close()
    assert (tmp_path / "log").read_text() == lines + "\n"
    assert f"end at the head `{log.head}`" in " ".join(text.split())

    image = Manifest.parse(re.search(r'```json\n(\{"architecture.*)\n```', text)[1].encode())  # type: ignore[index]
    endorsement = _vector(text, "## Endorsement").encode()
    receipt = read_receipt(statement.encode(), "vector")
    it = receipt.deployment
    check = EndorsementCheck(
        counts=True, reason="", fingerprint=it.endorsers[0].endorser, vo="star", role=it.endorsers[0].role
    )
    disk = DiskSpec(target="vda", source=Overlay(path=Path("/m/d"), base=RawFile(path=Path("/c/b"))))
    made = build_receipt(
        receipt.node,
        it.key,
        spec().model_copy(update={"disks": (disk,), "name": it.name}),
        image,
        it.decision,
        [(check, endorsement)],
        log.head,
        instant,
    )
    assert made.decode() == statement
    assert f"These {len(made)} bytes have the SHA-256\n`{hashlib.sha256(made).hexdigest()}`" in text


def _vector(text: str, heading: str) -> str:
    """The first JSON block below a heading."""
    found = re.search(r"```json\n(.*?)\n```", text[text.index(heading + "\n") :], re.DOTALL)
    assert found
    return found[1]
