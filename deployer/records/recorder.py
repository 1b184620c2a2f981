"""Records of a node's decisions and deployments: the audit log, receipts, and the last requests with their facts.

An action that cannot be recorded is not carried out: a decision, then a deployment, are in the log before they take effect.
"""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from deployer.policy.decision import Decision
from deployer.policy.evaluation import Evaluation, EvaluationInput
from deployer.policy.store import RuleSet
from deployer.records.machine_store import MachineRecord
from deployer.records.receipt import CloudPlacement, PreviousReceipt
from deployer.records.receipt_builder import BootedMachine, ReceiptIssuer, build_receipt
from deployer.records.receipt_store import ReceiptStore
from deployer.trials.request_log import EncodedStatement, PolicyOutcome, RequestLog, RequestRecord, encode_revocations
from signer.audit_log import AuditLog, read_entry
from signer.errors import SignerError

AUDIT_FILE, REQUESTS = "audit.jsonl", "requests.jsonl"

log = logging.getLogger("partita.node")


@dataclass(frozen=True)
class RunningMachine:
    """A machine that runs, here or elsewhere: its identity, its name in lists, and the image that it runs."""

    uuid: str
    name: str
    image_id: str


class Recorder:
    """The records of one node, in its directory. Safe to use from several threads.

    Args:
        directory: the node's.
        node: its UUID.
        clock: the present, UTC.

    Raises:
        AuditBroken, AuditUnwritable: see `signer.audit_log.AuditLog`.
    """

    def __init__(self, directory: Path, node: str, clock: Callable[[], datetime]) -> None:
        self._node, self._clock = node, clock
        self.audit = AuditLog(directory / AUDIT_FILE, clock())
        self.receipts = ReceiptStore(directory, node)
        self.requests = RequestLog(directory / REQUESTS)

    def close(self) -> None:
        """Give the log back."""
        self.audit.close()

    def policy(self, rules: RuleSet) -> None:
        """A policy comes into force."""
        shadow = {"shadow": rules.shadow.digest} if rules.shadow else {}
        self.audit.append(
            "policy", {"policy": rules.digest, "anchors": len(rules.policy.anchor)} | shadow, self._clock()
        )

    def decided(self, case: EvaluationInput, judged: Evaluation, stage: Literal["request", "boot"]) -> None:
        """A request was decided when it came in, or once more right before a machine boots."""
        data = _decision(judged.decision) | {
            "stage": stage,
            "asked": case.request.model_dump(mode="json", exclude_none=True),
            "running": case.running,
            "requester": case.requester.name,
            "endorsers": sorted({check.fingerprint for check, _ in judged.counted}),
        }
        if judged.shadow is not None:
            data["shadow"] = _decision(judged.shadow)
        self.audit.append("decision", data, self._clock())
        if stage == "request":
            self.requests.append(
                RequestRecord(
                    number=1,
                    at=judged.decision.at,
                    asked=case.request,
                    running=case.running,
                    image=judged.decision.image,
                    manifest=case.manifest.canonical().decode(),
                    endorsements=tuple(EncodedStatement.of(pair) for pair in case.pairs),
                    revocations=encode_revocations(case.withdrawn.pairs),
                    blocks=case.withdrawn.blocks,
                    outcome=PolicyOutcome.of(judged.decision),
                    shadow=PolicyOutcome.of(judged.shadow) if judged.shadow else None,
                )
            )

    def booting(
        self,
        spec: BootedMachine,
        case: EvaluationInput,
        judged: Evaluation,
        cloud: CloudPlacement | None = None,
        *,
        origin: PreviousReceipt | None = None,
    ) -> str:
        """A machine is about to boot, here or elsewhere: its receipt is signed, and both are on record.

        Returns:
            The SHA-256 of the receipt.
        """
        now = self._clock()
        statement = build_receipt(
            ReceiptIssuer(self._node, self.receipts.key, self.audit.head),
            spec,
            case.manifest,
            judged.decision,
            judged.counted,
            now,
            cloud,
            origin,
        )
        receipt = self.receipts.keep(spec.uuid, statement)
        data = {
            "machine": spec.uuid,
            "name": spec.name,
            "image": judged.decision.image,
            "title": judged.decision.title,
            "policy": judged.decision.policy,
            "receipt": receipt,
        }
        if cloud is not None:
            data |= {"account": cloud.account, "ami": cloud.ami}
        if origin is not None:
            data |= {"origin": origin.node, "origin_receipt": origin.receipt}
        self.audit.append("deployment", data, now)
        return receipt

    def exposed(self, record: MachineRecord | RunningMachine, reason: str, action: str) -> None:
        """A machine runs what was withdrawn, and something is about to be done about it."""
        data = {"machine": record.uuid, "name": record.name, "image": record.image_id, "reason": reason}
        self.audit.append("exposure", data | {"action": action}, self._clock())

    def ended(self, record: MachineRecord) -> None:
        """A machine has ended. It has, whether that can be written down or not."""
        data = {
            "machine": record.uuid,
            "name": record.name,
            "image": record.image_id,
            "state": record.state.value,
            "reason": record.reason,
        }
        try:
            self.audit.append("end", data, self._clock())
        except SignerError as exc:
            log.error("the end of machine %s is not on record: %s", record.uuid, exc)  # noqa: TRY400 - a fault of the disk, not of ours

    def settle(self, running: Collection[str]) -> None:
        """When the service starts: record ends that were missed because the service died.

        Args:
            running: the machines that have not ended.
        """
        left: dict[str, dict[str, Any]] = {}
        with self.audit.path.open("rb") as file:
            for line in file:
                if b'"kind":"deployment"' in line or b'"kind":"end"' in line:  # inside texts quotes are escaped
                    entry = read_entry(line, str(self.audit.path))
                    left.pop(str(entry.data.get("machine")), None)
                    if entry.kind == "deployment":
                        left[str(entry.data.get("machine"))] = entry.data
        for machine, data in left.items():
            if machine not in running:
                facts = {name: data[name] for name in ("machine", "name", "image") if name in data}
                reason = "it had ended before the node's service started, for an unknown reason"
                self.audit.append("end", facts | {"state": "ended", "reason": reason}, self._clock())

    def warm_up(self) -> None:
        """Generate the node's key before a deployment needs it."""
        with suppress(SignerError):
            _ = self.receipts.key


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "image": decision.image,
        "title": decision.title,
        "policy": decision.policy,
        "accepted": decision.accepted,
        "failed": [{"rule": rule.name, "reason": rule.reason} for rule in decision.failed],
        "rules": len(decision.rules),
    }
