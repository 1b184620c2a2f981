"""Receipts are written from decisions, as the documents say."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.image.manifest import Manifest
from deployer.machine.spec import DiskSpec, Overlay, RawFile
from deployer.records.receipt import read_receipt
from deployer.records.receipt_builder import ReceiptIssuer, build_receipt
from signer.audit_log import AuditLog
from signer.verification.trust import EndorsementCheck
from tests.support.node.receipts import IMAGE, NODE, NOW, Kept, decided, spec


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("node"))


def test_a_refusal_is_no_level(kept: Kept) -> None:
    told = json.loads(
        build_receipt(ReceiptIssuer(NODE, kept.store.key, kept.head), spec(), IMAGE, decided(passed=False), [], NOW)
    )["predicate"]
    assert (told["verificationResult"], told["verifiedLevels"]) == ("FAILED", [])


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
        ReceiptIssuer(receipt.node, it.key, log.head),
        spec().model_copy(update={"disks": (disk,), "name": it.name}),
        image,
        it.decision,
        [(check, endorsement)],
        instant,
    )
    assert made.decode() == statement
    assert f"These {len(made)} bytes have the SHA-256\n`{hashlib.sha256(made).hexdigest()}`" in text


def _vector(text: str, heading: str) -> str:
    """The first JSON block below a heading."""
    found = re.search(r"```json\n(.*?)\n```", text[text.index(heading + "\n") :], re.DOTALL)
    assert found
    return found[1]
