"""May this image run here, so large, for so long? Values in, a decision out; no IO and no clock of its own.

Every rule is judged, always: a decision lists all of them with the verdict, the reason and what would have to change.
Deny wins over allow, and what the policy does not speak of is refused. policies/README.md lists the rules in the order
in which they stand here.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from catalog.image.manifest import Manifest
from deployer.policy.decision import Decision, Request, RuleResult
from deployer.policy.model import Policy
from deployer.policy.rules.amounts import AMOUNTS, fewer_things, fitting_amounts
from deployer.policy.rules.endorsements import ENDORSED, TRUSTED, more_endorsements
from deployer.policy.rules.guests import GUEST, plainer_guests
from deployer.policy.rules.images import CURRENT, LISTED
from deployer.policy.rules.rule import PolicyCase, PolicyChange, PolicyRule
from signer.verification.trust import EndorsementCheck

RULES: Final[tuple[PolicyRule, ...]] = (*CURRENT, *TRUSTED, *LISTED, *ENDORSED, *AMOUNTS, *GUEST)
"""All rules, in the order of every decision. Those in Cedar, which a policy's author writes, come after them."""


def decide(case: PolicyCase) -> Decision:
    """Judge a request for machines of an image by a policy's own rules."""
    image, title, at = case.manifest.image_id, case.manifest.title, case.now.replace(microsecond=0)
    return Decision(image=image, title=title, at=at, policy=case.policy.digest, rules=judge_rules(RULES, case))


def judge_rules(rules: Sequence[PolicyRule], case: PolicyCase) -> tuple[RuleResult, ...]:
    """The results of some rules, in order."""
    return tuple(result for rule in rules for result in rule.judge(case))


def endorsement_results(
    policy: Policy, manifest: Manifest, endorsements: Sequence[EndorsementCheck], now: datetime
) -> tuple[RuleResult, ...]:
    """What the rules about endorsements alone say, for no request in particular."""
    request = Request.supposed(manifest.needs)
    return judge_rules(ENDORSED, PolicyCase(policy, request, manifest, tuple(endorsements), now))


def rule_of(result: RuleResult) -> PolicyRule | None:
    """The rule that gave a result; None where a policy's author wrote it, in Cedar."""
    return next((rule for rule in RULES if rule.gives(result.name)), None)


def is_urgent(result: RuleResult) -> bool:
    """Whether a result is to be helped before others."""
    rule = rule_of(result)
    return rule is not None and rule.urgent


def fixes_of(result: RuleResult, case: PolicyCase) -> Iterator[PolicyChange]:
    """Changes that may help against a result, the nearest first."""
    rule = rule_of(result)
    if rule is not None:
        yield from rule.fixes(case)
        return
    # A rule that only the policy's author knows: try what a requester can change, then who else may vouch.
    yield from plainer_guests(case)
    yield from fitting_amounts(case)
    yield from fewer_things(case)
    yield from more_endorsements(case, trusting=False)
