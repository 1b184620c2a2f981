"""Machines that run what was withdrawn: which they are, and why. Pure, but for the facts beside each machine.

MACHINE/facts.json   the manifest, and the endorsements that counted when the machine was booted
A machine is affected if the endorsements of then, without those that are void now, would not have been enough. That an
endorsement or a key has expired since changes nothing: it was good when it counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import Field

from catalog.image.manifest import Manifest
from deployer.node.schema.orders import ExposedMachine
from deployer.policy.model import Policy
from deployer.policy.revocations import BlockList
from deployer.policy.rules.registry import endorsement_results
from deployer.records.machine_store import MachineRecord
from signer.documents import Document, canonical, parse
from signer.errors import DocumentError
from signer.runtime import files
from signer.statements.endorsement import Instant
from signer.verification.revocations import EffectiveRevocation, apply_revocations
from signer.verification.trust import EndorsementCheck

FACTS = "facts.json"


class _Check(Document):
    """An endorsement that counted: see `signer.verification.trust.EndorsementCheck`."""

    fingerprint: str
    vo: str
    role: str
    issued: Instant
    expires: Instant
    title: str
    image_id: str
    address: str
    scheme: str
    digest: str
    signer: str

    def check(self) -> EndorsementCheck:
        said = {name: getattr(self, name) for name in type(self).model_fields}  # a dump would write instants as text
        return EndorsementCheck(counts=True, reason="It counted when the machine was booted.", **said)


class _Facts(Document):
    manifest: str
    checks: tuple[_Check, ...] = Field(max_length=4096)


@dataclass(frozen=True)
class BootFacts:
    """The manifest and the endorsements that a machine was booted with."""

    manifest: Manifest
    checks: tuple[EndorsementCheck, ...]

    def write(self, directory: Path) -> None:
        """Write the facts into a machine's directory."""
        names = tuple(_Check.model_fields)
        kept = tuple(_Check(**{name: getattr(check, name) for name in names}) for check in self.checks if check.counts)
        files.write(directory / FACTS, canonical(_Facts(manifest=self.manifest.canonical().decode(), checks=kept)))

    @classmethod
    def read(cls, directory: Path) -> "BootFacts | None":
        """Read the facts in a machine's directory; None if absent or unreadable."""
        try:
            kept = parse(_Facts, (directory / FACTS).read_bytes(), FACTS)
            return cls(Manifest.parse(kept.manifest.encode()), tuple(check.check() for check in kept.checks))
        except (OSError, DocumentError):
            return None

    def names(self, target: str) -> bool:
        """Whether a key or an image, as a person writes it, is one of these."""
        keys = {text for check in self.checks for text in (check.fingerprint, f"{check.scheme}:{check.fingerprint}")}
        if target in keys or target.upper().replace(" ", "") in keys:
            return True
        manifest = self.manifest
        return target in {manifest.image_id, manifest.title, f"{manifest.vo}/{manifest.name}", manifest.vo}


def exposure_reason(
    policy: Policy, facts: BootFacts, booted: datetime, withdrawals: Sequence[EffectiveRevocation], blocks: BlockList
) -> str:
    """Why a machine should not go on, as a sentence; empty if it may.

    Args:
        policy: in force now.
        facts: of the machine.
        booted: when the machine was accepted.
        withdrawals: those that hold now.
        blocks: the site's block list.
    """
    manifest = facts.manifest
    if entry := blocks.blocks(manifest):
        return f"{entry} is in the site's block list."
    mine = [each for each in withdrawals if _reaches(each, booted)]
    for each in mine:
        if each.stops(manifest.image_id, manifest.vo):
            return f"{manifest.title} was {each.text}."
    left = apply_revocations(blocks.void(facts.checks), mine)
    gone = [check for check in left if not check.counts]
    if not gone or not all(rule.passed for rule in endorsement_results(policy, manifest, facts.checks, booted)):
        return ""  # nothing is void, or it is the policy that has changed
    lacking = [rule for rule in endorsement_results(policy, manifest, left, booted) if not rule.passed]
    return f"{lacking[0].reason}." if lacking else ""


def exposed_machine(record: MachineRecord, facts: BootFacts, reason: str) -> ExposedMachine:
    """The entry of a machine in an exposure list."""
    endorsers = dict.fromkeys(f"{check.scheme}:{check.fingerprint}" for check in facts.checks)
    return ExposedMachine(
        uuid=record.uuid,
        name=record.name,
        state=record.state,
        image_id=record.image_id,
        title=record.title,
        since=record.created,
        endorsers=tuple(endorsers),
        affected=bool(reason),
        reason=reason,
    )


def _reaches(withdrawal: EffectiveRevocation, booted: datetime) -> bool:
    """Whether a withdrawal concerns machines of that time. What is superseded was good for what came before."""
    says = withdrawal.statement.predicate
    return says.kind == "key" or says.reason == "compromised" or booted >= says.since
