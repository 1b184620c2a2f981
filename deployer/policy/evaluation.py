"""Judging a request: endorsements are verified with the anchors of the policy in force, then all its rules decide.

The policy in the shadow, if there is one, decides beside it by the very same facts and with its own anchors; what it
says goes on the record and nowhere else.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from catalog.image.manifest import Manifest
from deployer.policy.decision import LOCAL_REQUESTER, Decision, Request, Requester
from deployer.policy.model import Policy
from deployer.policy.revocations import RevocationState
from deployer.policy.rules.endorsements import counted_endorsements
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
    requester: Requester = LOCAL_REQUESTER
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
    judged = policy_case(rules.policy, case, now, memory)
    vouching = {id(check) for check in counted_endorsements(judged)}
    pairs = [(check, pair[0]) for check, pair in zip(judged.checks, case.pairs, strict=True) if id(check) in vouching]
    shadow = None
    if rules.shadow is not None:
        try:
            shadow = rules.shadow.decide(policy_case(rules.shadow.policy, case, now, memory))
        except PartitaError as exc:
            log.warning("the policy in the shadow could not decide: %s", exc)
    return Evaluation(rules.decide(judged), tuple(pairs), shadow, judged.checks)


def policy_case(
    policy: Policy, case: EvaluationInput, now: datetime, memory: SignatureCache | None = None
) -> PolicyCase:
    """A case as the rules of a policy see it: endorsements verified with its anchors, less what was withdrawn.

    Errors as in `evaluate`.
    """
    manifest = case.manifest
    in_effect = effective_revocations(policy, case.withdrawn, now, memory)
    contents = {str(part.content) for part in manifest.partitions() if part.content}
    checks = verify_endorsements(
        EndorsedSubject(manifest.image_id, manifest.title, contents),
        case.pairs,
        policy.anchors_for(manifest),
        now,
        cache=memory,
        x509=policy.x509_rules,
    )
    by = next((each for each in in_effect if each.stops(manifest.image_id, manifest.vo)), None)
    return PolicyCase(
        policy,
        case.request,
        manifest,
        tuple(apply_revocations(case.withdrawn.blocks.void(checks), in_effect)),
        now,
        case.running,
        RevocationFacts(case.withdrawn.blocks.blocks(manifest), by.text if by else ""),
        case.requester,
        case.node,
    )


def effective_revocations(
    policy: Policy, withdrawn: RevocationState, now: datetime, memory: SignatureCache | None = None
) -> list[EffectiveRevocation]:
    """The revocations that hold by the anchors of a policy; errors as in `evaluate`."""
    if not withdrawn.pairs:
        return []
    found = verify_revocations(withdrawn.pairs, policy.anchors, now, x509=policy.x509_rules, cache=memory)
    return [check.revocation for check in found if check.revocation is not None]
