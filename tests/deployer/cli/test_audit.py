"""The commands that show and verify receipts and the audit log."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from catalog.errors import Misused
from catalog.settings import CatalogSettings
from deployer.cli.audit import audit_app, receipt_app
from deployer.node.settings import DeploySettings
from deployer.records.receipt_store import audit_heads
from signer.audit_log import AuditHead
from signer.errors import ReceiptRefused
from signer.runtime.settings import Settings
from stager.settings import NodeSettings
from tests.support.commands import CliRunner
from tests.support.node.receipts import MACHINE, NODE, Kept


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("node"))


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
    assert "2 entries, every entry is in its place and unchanged; checked against 1 known heads" in good.stdout
    assert [one.head for one in audit_heads(kept.directory / "receipts")] == [kept.head]

    log = tmp_path / "log"
    log.write_bytes(b"")
    cut = run(audit_app, kept, "verify", "--log", log, "--receipts", kept.directory / "receipts", "--json")
    assert cut.exit_code == 4
    assert "the log is truncated" in json.loads(cut.stdout)["faults"][0]
    head = run(audit_app, kept, "verify", "--catalog", "--head", AuditHead(seq=2, sha256="00" * 32))
    assert head.exit_code == 4
    assert "line 2: differs from the entry that the head 2:000" in head.stdout
    assert isinstance(run(audit_app, kept, "verify", "--head", "x").exception, Misused)


def test_the_audit_log_is_shown(kept: Kept) -> None:
    shown = run(audit_app, kept, "show", "--kind", "deployment")
    assert f"machine={MACHINE}" in shown.stdout
    assert "decision" not in shown.stdout
    told = json.loads(run(audit_app, kept, "show", "--last", 1, "--json").stdout)
    assert [entry["kind"] for entry in told] == ["deployment"]
