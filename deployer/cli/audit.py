"""The commands `partita receipt` and `partita audit`: receipts of machines, and the audit log of a node or catalog."""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import Misused
from catalog.settings import CatalogSettings
from deployer.cli.node.options import node_client
from deployer.errors import NodeUnavailable
from deployer.records.receipt import Receipt, read_receipt, verify_receipt
from deployer.records.receipt_store import STATEMENT, audit_heads, read_receipt_files
from deployer.records.recorder import AUDIT_FILE
from signer.audit_log import AuditHead, AuditHeadPin, AuditLogEntry, AuditReport, read_log, verify_log
from signer.errors import EXIT_UNVERIFIED, ReceiptRefused
from signer.openpgp.gpg import MAX_KEY
from signer.runtime import terminal
from signer.runtime.clock import utc_now
from signer.statements.endorsement import write_instant
from stager.settings import NodeSettings

receipt_app = typer.Typer(
    name="receipt",
    help="Show and verify receipts: what a node verified before it booted a machine.",
    no_args_is_help=True,
)
audit_app = typer.Typer(
    name="audit", help="Show and verify the audit log of this machine's node or catalog.", no_args_is_help=True
)

ReceiptName = Annotated[str, typer.Argument(help="A receipt's file, or a machine's UUID on this node.", metavar="FILE")]
LogFile = Annotated[
    Path | None, typer.Option("--log", help="The log file; by default that of this machine's node.", metavar="FILE")
]
OfCatalog = Annotated[bool, typer.Option("--catalog", help="Use the log of this machine's catalog instead.")]


@receipt_app.command("show")
def receipt_show(context: typer.Context, file: ReceiptName) -> None:
    """Show a receipt without verifying its signature; see `receipt verify`."""
    path = _receipt_file(context, file)
    receipt = read_receipt(read_receipt_files(path)[0], str(path))
    terminal.show(json.loads(receipt.model_dump_json(by_alias=True, exclude_none=True)), _receipt_text(receipt))


@receipt_app.command("verify")
def receipt_verify(
    context: typer.Context,
    file: ReceiptName,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The node's public key, from its operator; by default that of this machine's node."),
    ] = None,
    node: Annotated[str, typer.Option(help="The node's UUID, which the receipt must name.")] = "",
) -> None:
    """Verify that a node signed a receipt, and show it; exits with 4 where it did not."""
    path = _receipt_file(context, file)
    given = key or terminal.section(context, NodeSettings).directory / "receipts" / "node-key.asc"
    try:
        with given.open("rb") as opened:
            armored = opened.read(MAX_KEY + 1)
    except OSError as exc:
        raise Misused(f"{given}: the node's key cannot be read: {exc.strerror}; name it with --key") from exc
    receipt = verify_receipt(*read_receipt_files(path), armored, utc_now(), str(path), node)
    terminal.show(
        {"verified": True, "key": receipt.deployment.key, "node": receipt.node}
        | {"receipt": json.loads(receipt.model_dump_json(by_alias=True, exclude_none=True))},
        f"signed by {receipt.deployment.key}, the key of node {receipt.node}\n{_receipt_text(receipt)}",
    )


@audit_app.command("show")
def audit_show(
    context: typer.Context,
    log: LogFile = None,
    catalog: OfCatalog = False,
    kind: Annotated[str, typer.Option(help="Only entries of this kind, such as decision.")] = "",
    last: Annotated[int, typer.Option("--last", help="Number of entries, from the end.", min=1)] = 50,
) -> None:
    """Show the last entries of a log."""
    path = _log_file(context, log, catalog=catalog)
    found: list[AuditLogEntry] = []
    for entry in read_log(path):
        if not kind or entry.kind == kind:
            found.append(entry)
            if len(found) > 2 * last:
                del found[:-last]
    rows = [(entry.seq, write_instant(entry.at), entry.kind, _facts(entry)) for entry in found[-last:]]
    terminal.show(
        [entry.model_dump(mode="json") for entry in found[-last:]],
        terminal.table(("ENTRY", "WHEN", "WHAT", "FACTS"), rows),
    )


@audit_app.command("verify")
def audit_verify(
    context: typer.Context,
    log: LogFile = None,
    catalog: OfCatalog = False,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="A head of the log that was kept elsewhere; repeatable.", metavar="SEQ:SHA256"),
    ] = None,
    receipts: Annotated[
        Path | None,
        typer.Option(
            "--receipts", help="Receipts, which contain heads of the log; by default those of this node.", metavar="DIR"
        ),
    ] = None,
) -> None:
    """Find edited, missing and reordered entries in a log, and a truncated end as far as a head or receipt shows it.

    Exits with 4 where there are any.
    """
    path = _log_file(context, log, catalog=catalog)
    # Queried before the file is read: entries that are written meanwhile come after it.
    kept = _running(context) if not (log or catalog) else []
    kept += [AuditHeadPin(_head(text), f"the head {text[:20]}") for text in head or ()]
    if receipts or not (log or catalog):
        kept += audit_heads(receipts or path.parent / "receipts")
    report = verify_log(path, kept)
    terminal.show(
        asdict(report) | {"intact": report.intact, "head": str(report.head), "remembered": len(kept)},
        _report(path, report, len(kept)),
    )
    if not report.intact:
        raise typer.Exit(EXIT_UNVERIFIED)


def _receipt_file(context: typer.Context, name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    directory = terminal.section(context, NodeSettings).directory / "receipts"
    found = sorted(directory.glob(f"{name}*{STATEMENT}")) if name.replace("-", "").isalnum() else []
    if len(found) != 1:
        raise ReceiptRefused(f"{name}: no such file, and {len(found)} receipts in {directory} begin with this")
    return found[0]


def _log_file(context: typer.Context, named: Path | None, *, catalog: bool) -> Path:
    if named is not None:
        return named
    if catalog:
        return terminal.section(context, CatalogSettings).directory / "audit.jsonl"
    return terminal.section(context, NodeSettings).directory / AUDIT_FILE


def _running(context: typer.Context) -> list[AuditHeadPin]:
    """The head of the log in the running node, if one runs."""
    with suppress(NodeUnavailable, Misused), node_client(context) as client:
        if audit := client.status().audit:
            return [AuditHeadPin(_head(audit), "the running node")]
    return []


def _head(text: str) -> AuditHead:
    try:
        return AuditHead.parse(text)
    except ValueError as exc:
        raise Misused(
            f"{text[:80]!r} is not a head of an audit log; write NUMBER:SHA256, as `audit verify` prints it"
        ) from exc


def _receipt_text(receipt: Receipt) -> str:
    it, predicate = receipt.deployment, receipt.predicate
    lines = [
        f"machine   {it.name} ({it.machine})",
        f"image     {receipt.subject[0].name} ({receipt.image_id})",
        f"verified  {write_instant(predicate.time_verified)} by node {receipt.node}: {predicate.verification_result}",
        f"policy    sha256:{predicate.policy.digest.sha256}, {len(it.decision.rules)} rules",
        *(f"endorser  {one.endorser} as {one.role}" for one in it.endorsers),
    ]
    for disk in it.disks:
        lines.append(f"disk      {disk.target} {disk.table} {terminal.format_size(disk.size)}, writes: {disk.writes}")
        lines += [
            f"          {part.label or '-'} {terminal.format_size(part.size)} at {part.offset}: {part.content or f'blank {part.blank}'}"
            for part in disk.partitions
        ]
    return terminal.printable("\n".join(lines))


def _facts(entry: AuditLogEntry) -> str:
    """An entry's strings and numbers, and the names of failed rules, in a line."""
    shown = []
    for name, value in entry.data.items():
        if isinstance(value, str | int):
            shown.append(f"{name}={value}")
        elif name == "failed" and isinstance(value, list):
            shown.append(f"failed={','.join(str(one.get('rule')) for one in value if isinstance(one, dict)) or '-'}")
    return " ".join(shown)


def _report(path: Path, report: AuditReport, heads: int) -> str:
    lines = list(report.faults)
    if report.torn:
        lines.append(f"the last {report.torn} bytes are half an entry: its writer died, or is writing now")
    if report.repairs:
        lines.append(f"half an entry was removed after a crash, {report.repairs} times, and that was logged")
    verdict = "every entry is in its place and unchanged" if report.intact else f"{len(report.faults)} faults"
    against = f"{heads} known heads" if heads else "no known head, so a truncated end would not be noticed"
    return "\n".join(
        [*lines, f"{path}: {report.entries} entries, {verdict}; checked against {against}", f"head {report.head}"]
    )
