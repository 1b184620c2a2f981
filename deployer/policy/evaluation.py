"""Judging a request: endorsements are verified with the anchors of the policy in force, then all its rules decide.

The policy in the shadow, if there is one, decides beside it by the very same facts and with its own anchors; what it
says goes on the record and nowhere else.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from catalog.image.manifest import Manifest
from deployer.policy.cedar_schema import Requester
from deployer.policy.decision import Decision, Request, RuleResult
from deployer.policy.model import Policy
from deployer.policy.revocations import RevocationState
from deployer.policy.rules.endorsements import counted_endorsements
from deployer.policy.rules.registry import judge_rules
from deployer.policy.rules.revocation import CURRENT
from deployer.policy.rules.rule import PolicyCase, RevocationFacts
from deployer.policy.store import RuleSet
from signer.errors import PartitaError
from signer.verification.endorsements import verify_endorsements
from signer.verification.revocations import EffectiveRevocation, apply_revocations, verify_revocations
from signer.verification.signature_cache import SignatureCache
from signer.verification.trust import EndorsedSubject, EndorsementCheck

log = logging.getLogger("partita.node")


@dataclass(frozen=True)
class EvaluationInput:
    """What is to be judged, and by which facts.

    Attributes:
        manifest: of the image, its bytes checked against the ID that was asked for.
        pairs: (statement, signature) of each endorsement that the catalog has.
        request: what is asked for.
        running: machines that the node has already.
        requester: who asks.
        node: which node decides.
        withdrawn: what has been revoked or blocked.
    """

    manifest: Manifest
    pairs: Sequence[tuple[bytes, bytes]]
    request: Request
    running: int = 0
    requester: Requester = field(default_factory=Requester)
    node: str = ""
    withdrawn: RevocationState = field(default_factory=RevocationState)


@dataclass(frozen=True)
class Evaluation:
    """What came of it: the decision, the endorsements that counted (each with its statement), the shadow's decision.

    `checks` is what all endorsements were worth, those of partitions too.
    """

    decision: Decision
    counted: tuple[tuple[EndorsementCheck, bytes], ...] = ()
    shadow: Decision | None = None
    checks: tuple[EndorsementCheck, ...] = ()


def evaluate(rules: RuleSet, case: EvaluationInput, now: datetime, memory: SignatureCache | None = None) -> Evaluation:
    """Judge a case.

    Args:
        rules: the set in force.
        case: the facts.
        now: aware, UTC.
        memory: of signatures that were examined before.

    Raises:
        SignatureError: the catalog sent too many endorsements.
        KeyUnusable: an anchor's key is not valid.
    """
    decision, checks = _decide(rules, case, now, memory)
    vouching = {id(check) for check in counted_endorsements(rules.policy, case.manifest, checks, now)}
    pairs = [(check, pair[0]) for check, pair in zip(checks, case.pairs, strict=True) if id(check) in vouching]
    shadow = None
    if rules.shadow is not None:
        try:
            shadow, _ = _decide(rules.shadow, case, now, memory)
        except PartitaError as exc:
            log.warning("the policy in the shadow could not decide: %s", exc)
    return Evaluation(decision, tuple(pairs), shadow, tuple(checks))


def check_endorsements(
    rules: RuleSet, case: EvaluationInput, now: datetime, memory: SignatureCache | None = None
) -> list[EndorsementCheck]:
    """What each endorsement of a case is worth by the anchors of a set, less what was withdrawn; errors as in `evaluate`."""
    return _verified(rules, case, effective_revocations(rules.policy, case.withdrawn, now, memory), now, memory)


def _verified(
    rules: RuleSet,
    case: EvaluationInput,
    held: Sequence[EffectiveRevocation],
    now: datetime,
    memory: SignatureCache | None,
) -> list[EndorsementCheck]:
    manifest = case.manifest
    checks = verify_endorsements(
        EndorsedSubject(
            manifest.image_id, manifest.title, {str(part.content) for part in manifest.partitions() if part.content}
        ),
        case.pairs,
        rules.policy.anchors_for(manifest),
        now,
        cache=memory,
        x509=rules.policy.x509_rules,
    )
    return apply_revocations(case.withdrawn.blocks.void(checks), held)


def effective_revocations(
    policy: Policy, withdrawn: RevocationState, now: datetime, memory: SignatureCache | None = None
) -> list[EffectiveRevocation]:
    """The revocations that hold by the anchors of a policy; errors as in `evaluate`."""
    if not withdrawn.pairs:
        return []
    found = verify_revocations(withdrawn.pairs, policy.anchors, now, x509=policy.x509_rules, cache=memory)
    return [check.revocation for check in found if check.revocation is not None]


def _decide(
    rules: RuleSet, case: EvaluationInput, now: datetime, memory: SignatureCache | None
) -> tuple[Decision, list[EndorsementCheck]]:
    held = effective_revocations(rules.policy, case.withdrawn, now, memory)
    checks = _verified(rules, case, held, now, memory)
    decision = rules.decide(
        case.request, case.manifest, checks, now, case.running, requester=case.requester, node=case.node
    )
    return decision.model_copy(update={"rules": (*_current(rules.policy, case, held, now), *decision.rules)}), checks


def check_revocation(
    policy: Policy, case: EvaluationInput, now: datetime, memory: SignatureCache | None = None
) -> tuple[RuleResult, ...]:
    """What comes before all rules of a policy: the site's block list, and whether the image as such was revoked."""
    return _current(policy, case, effective_revocations(policy, case.withdrawn, now, memory), now)


def _current(
    policy: Policy, case: EvaluationInput, held: Sequence[EffectiveRevocation], now: datetime
) -> tuple[RuleResult, ...]:
    manifest = case.manifest
    by = next((each for each in held if each.stops(manifest.image_id, manifest.vo)), None)
    facts = RevocationFacts(case.withdrawn.blocks.blocks(manifest) or "", by.text if by else "")
    return judge_rules(CURRENT, PolicyCase(policy, case.request, manifest, (), now, case.running, facts))
