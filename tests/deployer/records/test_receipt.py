"""Receipts: what a node signs, that stock gpg checks it, and that nothing else passes for one."""

import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployer.records.receipt import verify_receipt
from deployer.records.receipt_store import read_receipt_files
from signer.documents import canonical
from signer.errors import ReceiptRefused
from signer.openpgp.keyring import Keyring
from tests.support.node.receipts import IMAGE, MACHINE, NODE, NOW, Kept, decided

LATER = NOW + timedelta(hours=1)
"""When receipts are looked at: after whatever a long run of tests signed before it came to these."""


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


# ---- the commands
