"""Why a request is refused, and the nearest change that would make it pass. Pure: it tries changes on the policy's own rules.

Nothing is promised that was not tried: each change is applied to a copy of the request, the endorsements or the policy,
and all rules decide again. Changes that the requester can make come first, then those of endorsers, then the site's.
What turns out not to be needed is taken out again, so that every change named is necessary.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from catalog.image.manifest import Manifest
from deployer.policy.cedar_schema import Requester
from deployer.policy.decision import Decision, Request, RuleResult
from deployer.policy.rules.registry import fixes_of, is_urgent
from deployer.policy.rules.rule import PolicyCase, PolicyChange, enumerate_texts
from deployer.policy.store import RuleSet
from signer.openpgp.keys import escape_unprintable
from signer.verification.trust import EndorsementCheck

MAX_MOVES = 24
"""Changes after which the search gives up: a request that needs more of them is another request."""


@dataclass(frozen=True)
class Situation:
    """All that a decision depends on; the arguments of `RuleSet.decide`."""

    rules: RuleSet
    request: Request
    manifest: Manifest
    checks: tuple[EndorsementCheck, ...]
    now: datetime
    running: int = 0
    requester: Requester | None = None
    before: tuple[RuleResult, ...] = ()
    """Rules that no change here touches: what is revoked or blocked."""

    def decide(self) -> Decision:
        """What all rules say."""
        decision = self.rules.decide(
            self.request, self.manifest, self.checks, self.now, self.running, requester=self.requester
        )
        return decision.model_copy(update={"rules": (*self.before, *decision.rules)}) if self.before else decision

    @property
    def case(self) -> PolicyCase:
        """As the rules of the policy see it."""
        return PolicyCase(self.rules.policy, self.request, self.manifest, self.checks, self.now, self.running)

    def after(self, change: PolicyChange) -> "Situation":
        """The situation that a change makes of it."""
        case = change.apply(self.case)
        rules = replace(self.rules, policy=case.policy)
        return replace(self, rules=rules, request=case.request, checks=case.checks, running=case.running)


@dataclass(frozen=True)
class DecisionExplanation:
    """A decision and the way out of it.

    Attributes:
        decision: rule by rule.
        moves: the changes that together make it pass; each is needed.
        stuck: the rules for which no change was found; empty means that the moves were tried and suffice.
    """

    decision: Decision
    moves: tuple[PolicyChange, ...]
    stuck: tuple[RuleResult, ...]

    def sentence(self) -> str:
        """What a site's administrator would say."""
        title = self.decision.title
        if self.decision.accepted:
            return f"{title} may run here: all {len(self.decision.rules)} rules pass."
        because = "; ".join(rule.reason for rule in self.decision.failed)
        said = f"{title} may not run here: {because}."
        if self.moves:
            said += f" It would {'come nearer' if self.stuck else 'be accepted'} if {enumerate_texts([move.text for move in self.moves])}."
        if self.stuck:
            said += " What no change of the request itself helps against: " + "; ".join(
                f"{rule.reason} ({rule.change})" if rule.change else rule.reason for rule in self.stuck
            )
            said += "."
        return escape_unprintable(said)

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "sentence": self.sentence(),
            "changes": [{"who": move.who, "if": move.text} for move in self.moves],
            "suffices": not self.stuck,
        }


def explain_decision(situation: Situation) -> DecisionExplanation:
    """Find the nearest change that would make a request pass."""
    decision = situation.decide()
    moves: list[PolicyChange] = []
    stuck: dict[str, RuleResult] = {}
    now = situation
    for _ in range(MAX_MOVES):
        failed = {rule.name: rule for rule in now.decide().failed}
        open_rules = [rule for name, rule in failed.items() if name not in stuck]
        if not open_rules:
            break
        open_rules.sort(key=lambda result: not is_urgent(result))
        move = _helps(now, open_rules[0], set(failed))
        if move is None:
            stuck[open_rules[0].name] = open_rules[0]
            continue
        moves.append(move)
        now = now.after(move)
    else:
        stuck.update({rule.name: rule for rule in now.decide().failed})
    left = {rule.name for rule in now.decide().failed}
    for move in list(moves):
        without = situation
        for other in moves:
            if other is not move:
                without = without.after(other)
        if {rule.name for rule in without.decide().failed} <= left:
            moves.remove(move)
    return DecisionExplanation(decision, tuple(moves), tuple(stuck.values()))


def _helps(now: Situation, rule: RuleResult, failed: set[str]) -> PolicyChange | None:
    """The first change after which this rule passes and none fails that passed."""
    for move in fixes_of(rule, now.case):
        failing = {one.name for one in now.after(move).decide().failed}
        if rule.name not in failing and failing <= failed:
            return move
    return None
