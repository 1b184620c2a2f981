"""What a real node leaves behind: an audit log, signed receipts, and requests with their facts."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.errors import Refused
from deployer.records.receipt import verify_receipt
from deployer.records.receipt_store import audit_heads, read_receipt_files
from deployer.trials.request_log import read_requests
from partita import app
from signer.audit_log import AuditLogEntry, read_log, verify_log
from tests.support.commands import CliRunner
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for


def entries(node: NodeProcess, *kinds: str) -> list[AuditLogEntry]:
    """The node's audit log, of these kinds."""
    return [entry for entry in read_log(node.directory / "n" / "audit.jsonl") if not kinds or entry.kind in kinds]


def test_a_life_is_on_record_from_decision_to_end(node: NodeProcess, tmp_path: Path) -> None:
    (record,) = node.deploy().machines
    with pytest.raises(Refused):
        node.deploy("rogue/hello@1.0")
    with node.client() as client:
        client.destroy(record.uuid)
        head = client.status().audit
    home = node.directory / "n"

    assert [entry.kind for entry in entries(node) if entry.kind != "policy"][:1] == ["decision"]
    accepted, refused = entries(node, "decision")[0], entries(node, "decision")[-1]
    assert (accepted.data["accepted"], refused.data["accepted"]) == (True, False)
    assert {failed["rule"] for failed in refused.data["failed"]} >= {"anchors", "endorsements"}
    (deployment,), (end,) = entries(node, "deployment"), entries(node, "end")
    assert (deployment.data["machine"], end.data["machine"], end.data["state"]) == (record.uuid, record.uuid, "ended")
    report = verify_log(home / "audit.jsonl", audit_heads(home / "receipts"))
    assert report.intact
    assert str(report.head) == head

    statement, signature = read_receipt_files(home / "receipts" / f"{record.uuid}.json")
    key = (home / "receipts" / "node-key.asc").read_bytes()
    receipt = verify_receipt(statement, signature, key, datetime.now(UTC), "receipt")
    assert receipt.image_id == record.image_id
    assert receipt.deployment.decision.policy == record.policy
    assert receipt.deployment.endorsers
    assert [disk.target for disk in receipt.deployment.disks] == ["vda", "vdb", "vdc"]
    assert deployment.data["receipt"] == hashlib.sha256(statement).hexdigest()
    stock = stock_gpg(tmp_path, home / "receipts" / "node-key.asc", home / "receipts" / f"{record.uuid}.json")
    assert "Good signature" in stock

    first, second = read_requests(home / "requests.jsonl")
    assert (first.outcome.accepted, second.outcome.accepted) == (True, False)
    assert first.parsed().image_id == record.image_id


def partita(home: Path, *arguments: object, code: int = 0) -> str:
    """What a command prints, on the machine of that node."""
    words = ["--set", f"node.directory={home}", *(str(argument) for argument in arguments)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def test_an_operator_asks_afterwards(node: NodeProcess, community: Community, tmp_path: Path) -> None:
    (record,) = node.deploy().machines
    with pytest.raises(Refused):
        node.deploy("rogue/hello@1.0")
    home = node.directory / "n"
    stricter = tmp_path / "stricter.toml"
    stricter.write_text(policy(community.star.anchor(), threshold=2))

    assert "every entry is in its place and unchanged; checked against 2 known heads" in partita(
        home, "audit", "verify"
    )
    assert "PASSED" in partita(home, "receipt", "verify", record.uuid)
    assert "star/hello@1.0" in partita(home, "policy", "requests")
    turned = partita(home, "policy", "diff", node.policy, stricter, code=1)
    assert "1 of the last 2 requests would be decided differently" in turned
    assert "because 1 of 2 endorsers vouch for the image" in turned
    why = partita(home, "policy", "explain", node.policy, "--request", 2, code=3)
    assert (
        "It would be accepted if the site trusted 1 endorser as image-administrator of rogue who vouches for it." in why
    )

    log = home / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"accepted":false', b'"accepted":true'))  # the very last entry
    assert "differs from the entry that the running node has recorded" in partita(home, "audit", "verify", code=4)


def stock_gpg(home: Path, key: Path, statement: Path) -> str:
    """What plain gpg says, with nothing of ours."""
    gpg = ["gpg", "--homedir", str(home), "--batch", "--no-autostart"]
    home.chmod(0o700)
    subprocess.run([*gpg, "--import", str(key)], check=True, capture_output=True)
    said = subprocess.run(
        [*gpg, "--verify", f"{statement}.sig", str(statement)], check=True, capture_output=True, text=True
    )
    return said.stderr


def test_the_log_goes_on_after_a_kill(node: NodeProcess) -> None:
    (record,) = node.deploy().machines
    node.kill()
    log = node.directory / "n" / "audit.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"at":"2026-')  # the kill came in the middle of a line
    for pid in node.guests():
        os.kill(pid, 9)
    wait_for(lambda: not node.guests())
    node.start()

    assert log.read_bytes().startswith(whole)
    kinds = [entry.kind for entry in entries(node)]
    assert kinds.count("repaired") == 1
    wait_for(lambda: entries(node, "end"))
    assert entries(node, "end")[0].data["machine"] == record.uuid
    assert verify_log(log, audit_heads(node.directory / "n" / "receipts")).intact


def test_what_cannot_be_put_on_record_is_not_done(node: NodeProcess, community: Community) -> None:
    log = node.directory / "n" / "audit.jsonl"
    log.write_bytes(log.read_bytes()[:-50])  # somebody cuts the log off under the node's hands

    with pytest.raises(Exception, match="truncated while it was open"):
        node.deploy()
    assert node.records() == []


def test_the_shadow_decides_on_the_record_only(make_node: Callable[..., NodeProcess], community: Community) -> None:
    node = make_node(policy(community.star.anchor()) + '\n[shadow]\npolicy = "next.toml"\n')
    (node.directory / "next.toml").write_text(policy(community.star.anchor(), threshold=2))
    (record,) = node.deploy().machines

    (decision,) = entries(node, "decision")
    assert decision.data["accepted"]
    assert decision.data["shadow"]["accepted"] is False
    assert [failed["rule"] for failed in decision.data["shadow"]["failed"]] == ["endorsements"]
    (request,) = read_requests(node.directory / "n" / "requests.jsonl")
    assert request.shadow is not None
    assert request.shadow.failed == ("endorsements",)
    with node.client() as client:
        assert client.status().shadow_digest == request.shadow.policy
    assert record.policy == request.outcome.policy
